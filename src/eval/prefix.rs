//! KL of many variants of one network, each run only from the first step that it changes.
//!
//! What the base network has before every step is kept for every row; a variant that changes layer l starts from there. An
//! evaluation that is surely worse than it may be ends early. Batches are taken in rounds of a fixed size, so that where
//! it ends does not depend on the number of threads.

use std::collections::BTreeSet;

use rayon::prelude::*;

use super::compare::{BATCH, divergence};
use super::logits::{log_probabilities, log_probabilities_from, states};
use super::windows::Windows;
use crate::error::Result;
use crate::nets::{Net, Params, State};

/// Batches between two looks at how it goes.
const ROUND: usize = 4;
/// An evaluation ends when it is worse than it may be by so many standard errors.
const SURE: f64 = 4.0;

/// What was measured of one variant.
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
        error(&self.rows)
    }

    /// One standard error of the difference to another measurement of the same rows.
    pub fn error_against(&self, other: &Measured) -> f64 {
        error(&self.rows.iter().zip(&other.rows).map(|(a, b)| a - b).collect::<Vec<_>>())
    }
}

fn error(values: &[f64]) -> f64 {
    let n = values.len() as f64;
    if n < 2.0 {
        return f64::INFINITY;
    }
    let mean = values.iter().sum::<f64>() / n;
    (values.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / (n - 1.0) / n).sqrt()
}

/// The original's log-probabilities on some rows: what everything is measured against.
pub struct Original<'a> {
    windows: Windows<'a>,
    batches: Vec<Vec<f32>>,
}

impl<'a> Original<'a> {
    /// Holds rows · T · V · 4 bytes.
    ///
    /// # Errors
    /// If the forward pass fails.
    pub fn new(net: &dyn Net, params: &Params, windows: Windows<'a>) -> Result<Self> {
        let ranges = windows.batches(BATCH);
        let batches =
            ranges.into_par_iter().map(|r| log_probabilities(net, params, &windows, r)).collect::<Result<_>>()?;
        Ok(Original { windows, batches })
    }
}

/// A base network on the rows of an original, ready for its variants.
pub struct Base<'a> {
    net: &'a dyn Net,
    original: &'a Original<'a>,
    params: Params,
    /// For every batch the states before every step.
    states: Vec<Vec<State>>,
    /// How far the base itself is from the original.
    pub measured: Measured,
}

impl<'a> Base<'a> {
    /// Runs `params` once. Holds rows · T · D · 4 bytes for every step.
    ///
    /// # Errors
    /// If the forward pass fails.
    pub fn new(net: &'a dyn Net, original: &'a Original<'a>, params: Params) -> Result<Self> {
        let ranges = original.windows.batches(BATCH);
        let states =
            ranges.into_par_iter().map(|r| states(net, &params, &original.windows, r)).collect::<Result<Vec<_>>>()?;
        let mut base = Base { net, original, params, states, measured: Measured { rows: Vec::new(), complete: true } };
        base.measured = base.run(&base.params, base.net.steps().len(), f64::INFINITY)?;
        Ok(base)
    }

    /// KL of the base with the parameters of `changes` in place of its own; `limit` is what it may be at most, above which
    /// nobody wants to know how much.
    ///
    /// # Errors
    /// If the forward pass fails.
    pub fn variant(&self, changes: Params, layers: &BTreeSet<Option<usize>>, limit: f64) -> Result<Measured> {
        let mut params = self.params.clone();
        params.extend(changes);
        self.run(&params, self.first_step(layers), limit)
    }

    /// The first step that runs one of `layers`; the very first where something changes that belongs to none.
    pub fn first_step(&self, layers: &BTreeSet<Option<usize>>) -> usize {
        if layers.contains(&None) {
            // The embedding comes before the first step, so nothing that is kept holds.
            return 0;
        }
        let steps = self.net.steps();
        steps.iter().position(|layer| layers.contains(&Some(*layer))).unwrap_or(steps.len())
    }

    fn run(&self, params: &Params, from: usize, limit: f64) -> Result<Measured> {
        let (windows, length) = (&self.original.windows, self.original.windows.length());
        let vocab = self.net.vocab_size();
        let mut measured = Measured { rows: Vec::with_capacity(windows.rows()), complete: true };
        let ranges = windows.batches(BATCH);
        for round in (0..ranges.len()).collect::<Vec<_>>().chunks(ROUND) {
            let done: Vec<Vec<f64>> = round
                .par_iter()
                .map(|&b| {
                    let changed = match from {
                        0 => log_probabilities(self.net, params, windows, ranges[b].clone())?,
                        _ => log_probabilities_from(self.net, params, from, self.states[b][from].clone())?,
                    };
                    let rows = self.original.batches[b].chunks_exact(length * vocab);
                    let rows = rows.zip(changed.chunks_exact(length * vocab));
                    let row = |(p, q): (&[f32], &[f32])| {
                        let places = p.chunks_exact(vocab).zip(q.chunks_exact(vocab));
                        places.map(|(p, q)| f64::from(divergence(p, q))).sum::<f64>() / length as f64
                    };
                    Ok(rows.map(row).collect())
                })
                .collect::<Result<_>>()?;
            measured.rows.extend(done.into_iter().flatten());
            if measured.rows.len() < windows.rows() && measured.mean() - limit > SURE * measured.standard_error() {
                measured.complete = false;
                break;
            }
        }
        Ok(measured)
    }
}
