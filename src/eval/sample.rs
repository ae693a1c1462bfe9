//! Text that a network writes itself, token by token, each drawn with the probability that the network gives it.
//!
//! Several texts grow side by side. A text sees no more than its last tokens: its window grows to [`WINDOW`], is cut to half of it,
//! and grows again, so that the time a token takes is bounded.

use candle_core::{DType, Tensor};
use rayon::prelude::*;

use super::logits::{device, tokens_of};
use super::predictions::{log_softmax, turn};
use crate::error::Result;
use crate::nets::{Net, Params, PlainLayers, State};
use crate::random::Random;

/// Texts that grow side by side.
const TEXTS: usize = 64;
/// Texts of one pass: the same for any number of threads, as the last digits of a product depend on it.
const PASS: usize = 8;
/// Tokens that a text sees, at most.
const WINDOW: usize = 128;

/// `tokens` tokens, the same for the same seed. Every text begins with `start`, or with a token drawn from all alike.
///
/// # Errors
/// The forward pass fails.
pub fn sample(
    (net, params): (&dyn Net, &Params),
    tokens: usize,
    (seed, start): (u64, Option<u32>),
    progress: &(dyn Fn(u64) + Sync),
) -> Result<Vec<u32>> {
    let vocab = net.vocab_size();
    let length = tokens.div_ceil(TEXTS);
    let random = |text: usize, at: usize| Random::uniform_at(seed, (text * length + at) as u64);
    let first = |text| start.unwrap_or((random(text, 0) * vocab as f64) as u32);
    let window = WINDOW.min(net.context());
    let mut texts: Vec<Vec<u32>> = (0..TEXTS).map(|text| vec![first(text)]).collect();
    let mut from = 0;
    for at in 1..length {
        if at - from > window {
            from = at - window / 2;
        }
        let drawn: Vec<Vec<u32>> = texts
            .par_chunks(PASS)
            .enumerate()
            .map(|(pass, texts)| {
                let last = last(net, params, texts.iter().map(|text| &text[from..]), at - from)?;
                let rows = last.chunks_exact(vocab).enumerate();
                Ok(rows.map(|(i, row)| draw(row, random(pass * PASS + i, at))).collect())
            })
            .collect::<Result<_>>()?;
        texts.iter_mut().zip(drawn.into_iter().flatten()).for_each(|(text, token)| text.push(token));
        progress(TEXTS as u64);
    }
    let mut all = texts.concat();
    all.truncate(tokens);
    Ok(all)
}

/// Log-probabilities of what follows the last of `length` tokens, for every text.
fn last<'a>(net: &dyn Net, params: &Params, texts: impl Iterator<Item = &'a [u32]>, length: usize) -> Result<Vec<f32>> {
    let device = device(params);
    let _turn = turn(device);
    let State { x, .. } = net.run(params, &tokens_of(texts, length, device)?, &PlainLayers)?;
    let x = x.narrow(1, length - 1, 1)?.contiguous()?;
    let logits: Tensor = net.leave(State { x, kept: Vec::new() }, params, &PlainLayers)?;
    let mut logits = logits.to_dtype(DType::F32)?.flatten_all()?.to_vec1()?;
    logits.chunks_exact_mut(net.vocab_size()).for_each(log_softmax);
    Ok(logits)
}

/// The token at which the sum of probabilities passes `at`.
fn draw(log_probabilities: &[f32], at: f64) -> u32 {
    let mut left = at;
    for (token, log) in log_probabilities.iter().enumerate() {
        left -= f64::from(*log).exp();
        if left < 0.0 {
            return token as u32;
        }
    }
    // Rounding can leave a little beyond the last.
    log_probabilities.len() as u32 - 1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_drawn_as_often_as_they_are_probable() {
        let row = [0.5f32, 0.125, 0.375].map(f32::ln);
        let mut counts = [0; 3];
        (0..8_000).for_each(|at| counts[draw(&row, Random::uniform_at(3, at)) as usize] += 1);
        // Five standard errors.
        for (count, wanted) in counts.into_iter().zip([4_000i32, 1_000, 3_000]) {
            assert!((count - wanted).abs() < 225, "{counts:?}");
        }
        assert_eq!((draw(&row, 0.0), draw(&row, 0.49), draw(&row, 0.51), draw(&row, 1.0)), (0, 0, 1, 2));
    }
}
