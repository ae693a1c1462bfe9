//! KL of many variants of one network, each run only from the first step that it changes.
//!
//! What the base network has before every step is kept for every row; a variant that changes layer l starts from there. An
//! evaluation that is surely worse than it may be ends early. Batches are taken in rounds of a fixed size, so that where
//! it ends does not depend on the number of threads.

use std::collections::BTreeSet;

use rayon::prelude::*;

use super::logits::{predict, predict_from, rows_at_once, states};
use super::predictions::Predictions;
use super::windows::Windows;
use crate::error::Result;
use crate::nets::{Net, Params, State};

/// Batches between two looks at how it goes.
const ROUND: usize = 4;
/// An evaluation ends when it is worse than it may be by so many standard errors.
const SURE: f64 = 4.0;

/// Measured KL of one variant.
#[derive(Debug, Clone, PartialEq)]
pub struct Measured {
    /// Mean KL(original ‖ variant) of every row evaluated, nats per token.
    pub rows: Vec<f64>,
    /// Whether all rows were evaluated.
    pub complete: bool,
}

impl Measured {
    /// Nats per token.
    pub fn mean(&self) -> f64 {
        self.rows.iter().sum::<f64>() / self.rows.len().max(1) as f64
    }

    /// One standard error of the mean over rows; infinite for fewer than two.
    pub fn standard_error(&self) -> f64 {
        let n = self.rows.len() as f64;
        if n < 2.0 {
            return f64::INFINITY;
        }
        let mean = self.mean();
        (self.rows.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / (n - 1.0) / n).sqrt()
    }
}

/// The original's predictions on some rows, with which variants are compared.
pub struct Original<'a> {
    windows: Windows<'a>,
    /// Rows of a batch.
    at_once: usize,
    batches: Vec<Predictions<'a>>,
}

impl<'a> Original<'a> {
    /// Holds rows · T · V · 4 bytes; of a large vocabulary rows · T · D · 4.
    ///
    /// # Errors
    /// If the forward pass fails.
    pub fn new(net: &'a dyn Net, params: &Params, windows: Windows<'a>) -> Result<Self> {
        let at_once = rows_at_once(params, windows.length());
        let ranges = windows.batches(at_once);
        let batches = ranges.into_par_iter().map(|r| predict(net, params, &windows, r)).collect::<Result<_>>()?;
        Ok(Original { windows, at_once, batches })
    }
}

impl Original<'_> {
    /// KL of another network with these parameters; `limit` is what it may be at most, above which nobody wants to know how much.
    ///
    /// # Errors
    /// If the forward pass fails.
    pub fn measure(&self, net: &dyn Net, params: &Params, limit: f64) -> Result<Measured> {
        self.run((net, params), None, self.batches.len(), limit)
    }

    /// On the first `batches`, from `states` before the step that they name, or from the tokens.
    fn run(
        &self,
        (net, params): (&dyn Net, &Params),
        from: Option<(usize, &[Vec<State>])>,
        batches: usize,
        limit: f64,
    ) -> Result<Measured> {
        let (windows, length) = (&self.windows, self.windows.length());
        let mut measured = Measured { rows: Vec::with_capacity(windows.rows()), complete: true };
        let mut ranges = windows.batches(self.at_once);
        ranges.truncate(batches);
        let rows = ranges.last().map_or(0, |range| range.end);
        for round in (0..ranges.len()).collect::<Vec<_>>().chunks(ROUND) {
            let done: Vec<Vec<f64>> = round
                .par_iter()
                .map(|&b| {
                    let changed = match from {
                        None => predict(net, params, windows, ranges[b].clone())?,
                        Some((position, states)) => predict_from(net, params, position, states[b][position].clone())?,
                    };
                    let each = self.batches[b].divergence(&changed)?;
                    let row = |row: &[f32]| row.iter().map(|v| f64::from(*v)).sum::<f64>() / length as f64;
                    Ok(each.chunks_exact(length).map(row).collect())
                })
                .collect::<Result<_>>()?;
            measured.rows.extend(done.into_iter().flatten());
            if measured.rows.len() < rows && measured.mean() - limit > SURE * measured.standard_error() {
                measured.complete = false;
                break;
            }
        }
        Ok(measured)
    }
}

/// A base network on some rows of an original, ready for its variants.
pub struct Base<'a> {
    net: &'a dyn Net,
    original: &'a Original<'a>,
    params: Params,
    /// KL of the base on these rows, nats per token.
    pub kl: f64,
    /// For every batch the states before every step, and last what the last one left.
    states: Vec<Vec<State>>,
}

impl<'a> Base<'a> {
    /// Runs `params` once on one batch in `share`, the first ones. Holds rows · T · D · 4 bytes for every step.
    ///
    /// # Errors
    /// If the forward pass fails.
    pub fn new(net: &'a dyn Net, original: &'a Original<'a>, params: Params, share: usize) -> Result<Self> {
        let mut ranges = original.windows.batches(original.at_once);
        ranges.truncate(ranges.len().div_ceil(share));
        let states =
            ranges.into_par_iter().map(|r| states(net, &params, &original.windows, r)).collect::<Result<Vec<_>>>()?;
        let mut base = Base { net, original, params, kl: 0.0, states };
        base.kl = base.variant(Params::new(), &BTreeSet::new(), f64::INFINITY)?.mean();
        Ok(base)
    }

    /// KL of the base with the parameters of `changes` in place of its own; `layers` are those of the changes.
    ///
    /// # Errors
    /// If the forward pass fails.
    pub fn variant(&self, changes: Params, layers: &BTreeSet<Option<usize>>, limit: f64) -> Result<Measured> {
        let mut params = self.params.clone();
        params.extend(changes);
        // What belongs to no layer may come before the first step: nothing that is kept holds then.
        let steps = self.net.order();
        let first = steps.iter().position(|layer| layers.contains(&Some(*layer))).unwrap_or(steps.len());
        let from = (!layers.contains(&None)).then_some((first, &self.states[..]));
        self.original.run((self.net, &params), from, self.states.len(), limit)
    }
}
