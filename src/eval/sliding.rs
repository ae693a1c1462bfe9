//! Loss with a sliding window: every token sees a long past, at the price of more forward passes.

use rayon::prelude::*;

use super::logits::log_probabilities;
use super::windows::Windows;
use crate::error::Result;
use crate::nets::{Net, Params};

/// One forward pass: the row of inputs from `start`, of which the positions from `from` on are scored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Pass {
    start: usize,
    from: usize,
}

/// Passes that score each of `tokens` predictions once: every `stride` tokens a row of `length`, the first scored as a
/// whole, the others at their last `stride` positions. The last row is moved back to end at the last token, so that it
/// is as long as the others.
fn passes(tokens: usize, length: usize, stride: usize) -> Vec<Pass> {
    let (mut passes, mut scored) = (Vec::new(), 0);
    if tokens < length {
        return passes;
    }
    while scored < tokens {
        let end = if scored == 0 { length } else { (scored + stride).min(tokens) };
        let start = end - length;
        passes.push(Pass { start, from: scored - start });
        scored = end;
    }
    passes
}

/// Number of forward passes that [`nats`] makes.
pub fn count(windows: &Windows, stride: usize) -> usize {
    passes(windows.tokens(), windows.length(), stride).len()
}

/// Nats summed over the predicted tokens of `windows`, each scored once with at least `length - stride` tokens before
/// it, except those of the first row. `progress` is called with the passes done since the last call.
///
/// # Errors
/// If the forward pass fails.
///
/// # Panics
/// `stride` is 0 or more than the row length.
pub fn nats(
    net: &dyn Net,
    params: &Params,
    tokens: &[u16],
    windows: &Windows,
    stride: usize,
    progress: &(dyn Fn(u64) + Sync),
) -> Result<f64> {
    let length = windows.length();
    assert!((1..=length).contains(&stride), "a stride of {stride} for rows of {length}");
    let sums: Vec<f64> = passes(windows.tokens(), length, stride)
        .into_par_iter()
        .map(|Pass { start, from }| {
            let row = Windows::new(&tokens[start..], length, Some(1));
            let lp = log_probabilities(net, params, &row, 0..1)?;
            let scored = lp.chunks_exact(net.vocab_size()).zip(row.target(0)).skip(from);
            progress(1);
            Ok(-scored.map(|(lp, target)| f64::from(lp[usize::from(*target)])).sum::<f64>())
        })
        .collect::<Result<_>>()?;
    Ok(sums.iter().sum())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_token_is_scored_once_with_enough_before_it() {
        for (tokens, length, stride) in [(12, 4, 4), (12, 4, 1), (12, 4, 3), (16, 8, 5), (4, 4, 2)] {
            let mut times = vec![0; tokens];
            for Pass { start, from } in passes(tokens, length, stride) {
                assert!(start == 0 || from >= length - stride, "{tokens} {length} {stride}");
                times[start + from..start + length].iter_mut().for_each(|n| *n += 1);
            }
            assert!(times.iter().all(|n| *n == 1), "{tokens} {length} {stride}: {times:?}");
        }
    }

    #[test]
    fn a_stride_of_the_row_length_is_the_disjoint_evaluation() {
        let disjoint: Vec<Pass> = (0..3).map(|row| Pass { start: 4 * row, from: 0 }).collect();
        assert_eq!(passes(12, 4, 4), disjoint);
        assert!(passes(3, 4, 2).is_empty());
    }
}
