//! Quantizes a matrix and writes it.

use tiepack_format::streams::matrix::{layout, write};

use crate::code::entropy::indices::{self, Prices};
use crate::code::grid::step_sizes::StepSizes;
use crate::code::grid::trellis::Trellis;
use crate::code::quantize::metric::Metric;
use crate::code::quantize::step_rule::{Powers, step_sizes};
use crate::code::quantize::viterbi::{Rate, Rounded, round};

/// Settings of search and coding, the same for all matrices of a model.
#[derive(Debug, Clone)]
pub struct Settings {
    pub trellis: Trellis,
    pub powers: Powers,
    /// Price of a bit in units of c²: what the loss per weight changes by with one bit at high rate.
    pub lambda: f32,
}

/// A coded matrix, and its predicted loss.
pub struct CodedMatrix {
    pub bytes: Vec<u8>,
    /// Predicted loss against the original, nats per token.
    pub loss: f64,
}

/// Quantizes and codes `w` (R, C) row-major at step size `c` at the prices that [`learn`] found at a step size nearby.
pub fn encode(w: &[f32], metric: &Metric, c: f64, settings: &Settings, prices: &Prices) -> CodedMatrix {
    let steps = step_sizes(metric, c, settings.powers);
    let rounded = search(w, metric, c, settings, &steps, prices);
    CodedMatrix { bytes: write(&rounded.indices, &steps, &settings.trellis), loss: 0.5 * rounded.error }
}

/// What indices of `w` cost at step size `c`: from a first search that ignores the rate or goes by earlier prices.
pub fn learn(w: &[f32], metric: &Metric, c: f64, settings: &Settings, earlier: Option<&Prices>) -> Prices {
    let steps = step_sizes(metric, c, settings.powers);
    let rounded = match earlier {
        Some(prices) => search(w, metric, c, settings, &steps, prices),
        None => {
            let (row, col) = steps.factors();
            round(w, metric, &row, &col, &settings.trellis, &Rate::free())
        }
    };
    indices::prices(&rounded.indices, &layout(&steps, &settings.trellis))
}

/// The step size whose prices serve `c`: step sizes within a 32nd of an octave share theirs.
pub fn price_step(c: f64) -> f64 {
    ((c.log2() * 32.0).round() / 32.0).exp2()
}

/// States of the search that finds prices: they hardly depend on them.
const PRICE_STATES: usize = 8;

/// Passes until prices and indices agree: a third one still lowers the KL by 2 %.
const PRICE_PASSES: usize = 3;

/// The prices of `w` at step size `c`. They follow from the arguments alone, so that a plan need not
/// hold them.
pub fn converged(w: &[f32], metric: &Metric, c: f64, settings: &Settings) -> Prices {
    let states = settings.trellis.states.min(PRICE_STATES);
    let trellis = Trellis::with_states(states).unwrap_or_else(Trellis::eight).odd(settings.trellis.odd);
    let (settings, c) = (Settings { trellis, ..settings.clone() }, price_step(c));
    let first = learn(w, metric, c, &settings, None);
    (1..PRICE_PASSES).fold(first, |prices, _| learn(w, metric, c, &settings, Some(&prices)))
}

/// The points of the grid that stand for `w` (R, C) row-major at step size `c` and these prices.
pub fn search(w: &[f32], metric: &Metric, c: f64, settings: &Settings, steps: &StepSizes, prices: &Prices) -> Rounded {
    let (row, col) = steps.factors();
    let rate = Rate { prices, lambda: settings.lambda * (c * c) as f32 };
    round(w, metric, &row, &col, &settings.trellis, &rate)
}
