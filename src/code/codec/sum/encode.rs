//! Finds the terms of a sum and writes them.

use faer::Mat;

use tiepack_format::streams::sum::{GAIN_ONE, LowRank, MOST, SPREAD, add_up, write};

use crate::code::codec::vectors::EQUAL_SLOPE;
use crate::code::quantize::metric::Metric;
use crate::code::quantize::step_rule::GRANULAR;
use crate::recipe::Terms;

/// The stream of a sum up to its residual.
pub struct Start {
    pub bytes: Vec<u8>,
    /// The target of the residual (R, C); where there is no residual, the part of the matrix that is lost.
    pub rest: Vec<f32>,
}

/// Codes the terms of `w` (R, C) row-major before its residual at step size `c` (nats^½); `reference` is P, decoded.
///
/// Each term takes what the earlier ones left: the gain by least squares, the low-rank term by singular values, the residual as
/// codec 1 does. Without a residual what is left is lost, and squares are those of the whitened rest (LQER, arXiv:2402.02446;
/// EoRA, arXiv:2410.21271), as they are where a grid so coarse follows that it leaves most of it out ([`is_coarse`]). Where what is
/// left is coded, squares are those that its bits depend on, of [`Metric::scale`].
pub fn start<T, G>(w: &[f32], metric: &Metric, c: f64, terms: &Terms<T, G>, reference: Option<&[f32]>) -> Start {
    let (rows, cols) = (metric.rows, metric.cols);
    let small = if terms.residual.is_none() || is_coarse(w, metric, c) { Small::Loss } else { Small::Bits };
    let reference = reference.map(|reference| {
        let gain = match terms.gain() {
            Some(gain) => fixed(gain),
            None => fixed(gain(&small.units(w, metric), &small.units(reference, metric))),
        };
        (reference, gain)
    });
    let rest = |term: Option<&LowRank>| match (reference, term) {
        (None, None) => w.to_vec(),
        _ => w.iter().zip(add_up([rows, cols], reference, term, None)).map(|(w, s)| w - s).collect::<Vec<f32>>(),
    };
    let term = (terms.rank > 0).then(|| low_rank(&rest(None), metric, c, (terms.rank, small)));
    // The residual's own bytes follow.
    let residual = terms.residual.as_ref().map(|_| &[][..]);
    let bytes = write([rows, cols], reference.map(|(_, gain)| gain), term.as_ref(), residual);
    Start { bytes, rest: rest(term.as_ref()) }
}

/// The loss of leaving `rest` (R, C) out, nats per token.
pub fn loss(rest: &[f32], metric: &Metric) -> f64 {
    0.5 * metric.whiten(rest).iter().map(|v| f64::from(v * v)).sum::<f64>()
}

fn fixed(gain: f64) -> i16 {
    (gain * f64::from(GAIN_ONE)).round().clamp(f64::from(i16::MIN), f64::from(i16::MAX)) as i16
}

/// The quantity that the terms before a residual, or without one, minimise.
#[derive(Clone, Copy, PartialEq)]
enum Small {
    /// What is lost.
    Loss,
    /// What has to be coded.
    Bits,
}

impl Small {
    /// `w` (R, C) in the units in which that is a sum of squares.
    fn units(self, w: &[f32], metric: &Metric) -> Vec<f32> {
        match self {
            Small::Loss => metric.whiten(w),
            Small::Bits => metric.scale(w),
        }
    }
}

/// Mean square of the weights, in what a grid leaves of one, below which most of them are left out. Of 1.5 to 5, on two models at .75
/// and 1.1 bits a weight, 3 lost least after healing.
const COARSE: f64 = 3.0;

/// Whether a grid of step size `c` leaves out most of what `w` (R, C) is: about a bit a weight, or less.
pub fn is_coarse(w: &[f32], metric: &Metric, c: f64) -> bool {
    let energy: f64 = metric.scale(w).iter().map(|v| f64::from(v * v)).sum();
    energy < COARSE * GRANULAR * c * c * w.len() as f64
}

/// The multiple of `reference` that is nearest to `w`.
pub fn gain(w: &[f32], reference: &[f32]) -> f64 {
    let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum::<f64>();
    let energy = dot(reference, reference);
    if energy > 0.0 { dot(w, reference) / energy } else { 0.0 }
}

/// How much coarser the factors of a low-rank term may be where a residual follows whose weights have the mean square
/// `left` in units of c²: their errors are coded, not lost, and a bit more of a weight costs less the more bits it has.
pub fn coarser(left: f64) -> f64 {
    (1.0 + left / GRANULAR).sqrt()
}

/// The first components of `w`, as many as the rank, on grids of equal slope with step size `c`.
fn low_rank(w: &[f32], metric: &Metric, c: f64, (rank, small): (usize, Small)) -> LowRank {
    let (rows, cols) = (metric.rows, metric.cols);
    let w = small.units(w, metric);
    let matrix = Mat::<f64>::from_fn(rows, cols, |i, j| f64::from(w[i * cols + j]));
    let mean = |values: &[f32]| values.iter().map(|v| f64::from(*v)).sum::<f64>() / values.len() as f64;
    let energies = [mean(&metric.output), mean(&metric.input)];
    let over = |x: &[f64], scales: &[f32]| x.iter().zip(scales).map(|(x, s)| x / f64::from(*s)).collect();
    let mut out = LowRank { exponents: Vec::new(), a: Vec::new(), b: Vec::new() };
    let mut components = Vec::new();
    if let Ok(svd) = matrix.thin_svd() {
        let rank = rank.min(rows).min(cols);
        let squares = |k: usize| svd.S()[k] * svd.S()[k];
        let coarser = match small {
            Small::Bits => {
                let left = (rank..rows.min(cols)).map(squares).sum::<f64>();
                coarser(left / (rows * cols) as f64 / (c * c))
            }
            Small::Loss => 1.0,
        };
        for k in 0..rank {
            let root = svd.S()[k].max(0.0).sqrt();
            let u: Vec<f64> = (0..rows).map(|i| svd.U()[(i, k)] * root).collect();
            let v: Vec<f64> = (0..cols).map(|j| svd.V()[(j, k)] * root).collect();
            let factors: [Vec<f64>; 2] = match small {
                Small::Bits => {
                    let [rows, cols] = metric.scales();
                    [over(&u, &rows), over(&v, &cols)]
                }
                Small::Loss => [metric.unwhiten_output(&u), metric.unwhiten_input(&v)],
            };
            // An error in one factor is multiplied by the other, whose norm in these units is `root`.
            let step = |side: usize| coarser * EQUAL_SLOPE * c / (root * energies[side].sqrt());
            let steps = [0, 1].map(|side: usize| exponent(&factors[side], step(side)));
            components.push((factors, steps));
        }
    }
    let sum = |steps: &[i32; 2]| steps[0] + steps[1];
    let most = components.iter().map(|(_, steps)| sum(steps)).max().unwrap_or(0);
    for ([a, b], mut steps) in components {
        // A component that would need a much finer grid than the coarsest one counts little: it makes do.
        steps[0] += (most - SPREAD - sum(&steps)).max(0);
        let integers = |x: &[f64], e: i32| {
            let limit = f64::from(MOST - 1);
            x.iter().map(|x| (x * f64::from(-e).exp2()).round().clamp(-limit, limit) as i32).collect::<Vec<_>>()
        };
        out.exponents.push(sum(&steps));
        out.a.extend(integers(&a, steps[0]));
        out.b.extend(integers(&b, steps[1]));
    }
    if out.exponents.is_empty() {
        // A matrix of no finite decomposition: one component of nothing.
        return LowRank { exponents: vec![0], a: vec![0; rows], b: vec![0; cols] };
    }
    out
}

/// The power of two next to `step` on which the integers of `x` stay below [`MOST`].
fn exponent(x: &[f64], step: f64) -> i32 {
    let largest = x.iter().fold(0f64, |m, v| m.max(v.abs()));
    let finest = if largest > 0.0 { (largest / f64::from(MOST - 1)).log2().ceil() } else { 0.0 };
    let wanted = step.log2().round();
    (if wanted.is_finite() { wanted.max(finest) } else { finest }).clamp(-50.0, 50.0) as i32
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::code::codec::matrix::{self, Settings};
    use crate::code::codec::sum::decode;
    use crate::code::grid::trellis::{Odd, Trellis};
    use crate::code::quantize::metric::{Curvature, Damping};
    use crate::code::quantize::step_rule::Powers;
    use crate::nets::ops::check::{gram, values};
    use crate::recipe::Prediction;
    use proptest::prelude::*;

    fn metric(rows: usize, cols: usize, seed: u64) -> Metric {
        let (input, output) = (gram(cols, seed), gram(rows, seed + 1));
        Metric::new(Curvature { rows, cols, input: &input, output: &output }, Damping { input: 0.01, output: 0.01 })
    }

    fn settings() -> Settings {
        let trellis = Trellis::eight().odd(Odd::Plain);
        Settings { trellis, powers: Powers { rows: 0.75, cols: 1.0 }, lambda: 0.3 }
    }

    /// The stream of a sum and its loss.
    fn encode(w: &[f32], metric: &Metric, c: f64, terms: Terms<&[f32], &Settings>) -> (Vec<u8>, f64) {
        let Start { mut bytes, rest } = start(w, metric, c, &terms, terms.from().copied());
        let Some(settings) = terms.residual else { return (bytes, super::loss(&rest, metric)) };
        let coded = matrix::encode(&rest, metric, c, settings, &matrix::converged(&rest, metric, c, settings));
        bytes.extend(&coded.bytes);
        (bytes, coded.loss)
    }

    fn prediction(from: Option<&[f32]>, gain: Option<f64>) -> Option<Prediction<&[f32]>> {
        from.map(|from| Prediction { from, gain })
    }

    fn loss(w: &[f32], back: &[f32], metric: &Metric) -> f64 {
        let e: Vec<f32> = w.iter().zip(back).map(|(a, b)| a - b).collect();
        super::loss(&e, metric)
    }

    #[test]
    fn a_planted_sum_is_found() {
        let (rows, cols) = (24, 16);
        let (metric, p) = (metric(rows, cols, 5), values(rows * cols, 1));
        let (a, b) = (values(rows * 2, 2), values(cols * 2, 3));
        let planted: Vec<f32> = (0..rows * cols)
            .map(|k| 0.625 * p[k] + (0..2).map(|r| a[r * rows + k / cols] * b[r * cols + k % cols]).sum::<f32>())
            .collect();
        let size = |rank: usize, reference: Option<&[f32]>| {
            let terms = Terms { prediction: prediction(reference, None), rank, residual: None };
            let (bytes, expected) = encode(&planted, &metric, 1e-3, terms);
            let back = decode(&bytes, rows, cols, reference).unwrap();
            assert!((loss(&planted, &back, &metric) - expected).abs() <= 1e-3 * expected + 1e-9);
            expected
        };
        // The gain is found on top of a low-rank rest, so it is not exactly .625; two ranks more take up the difference.
        let [none, alone, two] = [size(0, Some(&p)), size(2, None), size(2, Some(&p))];
        assert!(
            two < 0.2 * alone && two < 0.2 * none,
            "{two}, without the reference {alone}, without the ranks {none}"
        );
    }

    #[test]
    fn before_a_residual_the_gain_saves_bits() {
        // Three quarters of P, but its opposite along the one direction that inputs have most of.
        let (rows, cols) = (48, 40);
        let (settings, p, own) = (settings(), values(rows * cols, 1), values(rows * cols, 2));
        let along = |row: &[f32]| row.iter().sum::<f32>() / cols as f32;
        let grown: Vec<f32> = (0..rows * cols)
            .map(|k| 0.75 * p[k] + 0.3 * own[k] - 1.75 * along(&p[k / cols * cols..][..cols]))
            .collect();
        let input: Vec<f32> = (0..cols * cols).map(|k| if k % (cols + 1) == 0 { 11.0 } else { 10.0 }).collect();
        let output: Vec<f32> = (0..rows * rows).map(|k| if k % (rows + 1) == 0 { 1.0 } else { 0.0 }).collect();
        let damping = Damping { input: 1e-4, output: 1e-4 };
        let metric = Metric::new(Curvature { rows, cols, input: &input, output: &output }, damping);
        let bytes = |gain: Option<f64>| {
            let terms = Terms { prediction: prediction(Some(&p), gain), rank: 0, residual: Some(&settings) };
            encode(&grown, &metric, 0.05, terms).0.len()
        };
        let whitened = super::gain(&metric.whiten(&grown), &metric.whiten(&p));
        let [nothing, by_loss, found] = [bytes(Some(0.0)), bytes(Some(whitened)), bytes(None)];
        assert!(whitened < 0.0 && found < nothing && nothing < by_loss, "{found}, {nothing}, {by_loss} at {whitened}");
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]
        #[test]
        fn what_is_written_is_read(
            rows in 1usize..20, cols in 1usize..20, seed in 0u64..1000, rank in 0usize..5, parts in 0u8..4, scale in -6i32..4,
        ) {
            let metric = metric(rows, cols, seed);
            let w: Vec<f32> = values(rows * cols, seed + 2).iter().map(|v| v * 10f32.powi(scale)).collect();
            let p = values(rows * cols, seed + 3);
            let settings = settings();
            let reference = (parts & 1 != 0).then_some(&p[..]);
            let residual = (parts & 2 != 0 || rank == 0 && reference.is_none()).then_some(&settings);
            let terms = Terms { prediction: prediction(reference, None), rank: rank.min(rows).min(cols), residual };
            let (bytes, expected) = encode(&w, &metric, 0.02, terms);
            let back = decode(&bytes, rows, cols, reference).unwrap();
            let loss = loss(&w, &back, &metric);
            prop_assert!((loss - expected).abs() <= 0.02 * expected + 1e-6, "{} against {}", loss, expected);
            // The terms that need a reference do not decode without one.
            prop_assert_eq!(decode(&bytes, rows, cols, None).is_some(), reference.is_none());
        }
    }
}
