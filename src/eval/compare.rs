//! Losses of one network, and the divergence between two, over the same rows.

use std::ops::Range;

use rayon::prelude::*;

use super::logits::{predict, rows_at_once};
use super::predictions::Predictions;
use super::windows::Windows;
use crate::error::{Error, Result};
use crate::nets::ops::pointwise::exp;
use crate::nets::{Net, Params};

/// The loss of a network, row by row.
#[derive(Debug, Clone, PartialEq)]
pub struct Losses {
    /// Sum of nats over the tokens of each row.
    pub rows: Vec<f64>,
    /// Tokens in a row.
    pub length: usize,
}

impl Losses {
    /// Nats over all rows.
    pub fn total(&self) -> f64 {
        self.rows.iter().sum()
    }

    /// Nats per token.
    pub fn mean(&self) -> f64 {
        self.total() / (self.rows.len() * self.length) as f64
    }
}

/// Distance of a changed network from its original.
#[derive(Debug, Clone)]
pub struct Comparison {
    pub original: Losses,
    pub changed: Losses,
    /// KL(original ‖ changed) in nats at every position, in order.
    pub divergence: Vec<f32>,
    /// Positions at which both give the same token the highest probability.
    pub same_top: usize,
}

/// Sums over every row of −log p(target), from those at every position.
fn row_sums(each: &[f32], windows: &Windows) -> Losses {
    let rows = each.chunks_exact(windows.length()).map(|row| row.iter().map(|v| f64::from(*v)).sum()).collect();
    Losses { rows, length: windows.length() }
}

/// Evaluates a network over every row of `windows`; `progress` is called with the rows done since the last call.
///
/// # Errors
/// If the forward pass fails.
pub fn losses(net: &dyn Net, params: &Params, windows: &Windows, progress: &(dyn Fn(u64) + Sync)) -> Result<Losses> {
    let batches: Vec<Vec<f64>> = windows
        .batches(rows_at_once(params, windows.length()))
        .into_par_iter()
        .map(|rows| {
            let predictions = predict(net, params, windows, rows.clone())?;
            let losses = predictions.losses(rows.clone().flat_map(|r| windows.target(r)))?;
            progress(rows.len() as u64);
            Ok(row_sums(&losses, windows).rows)
        })
        .collect::<Result<_>>()?;
    Ok(Losses { rows: batches.concat(), length: windows.length() })
}

/// A network's predictions on fixed rows, kept to compare many changed networks with.
pub struct Reference<'a> {
    windows: Windows<'a>,
    batches: Vec<Predictions<'a>>,
}

impl<'a> Reference<'a> {
    /// Holds rows · T · V · 4 bytes; of a large vocabulary rows · T · D · 4.
    ///
    /// # Errors
    /// If the forward pass fails.
    pub fn new(net: &'a dyn Net, params: &Params, windows: Windows<'a>) -> Result<Self> {
        let ranges = windows.batches(rows_at_once(params, windows.length()));
        let batches = ranges.into_par_iter().map(|r| predict(net, params, &windows, r)).collect::<Result<_>>()?;
        Ok(Reference { windows, batches })
    }

    /// Mean KL(reference ‖ network) in nats per token.
    ///
    /// # Errors
    /// If the forward pass fails.
    pub fn divergence(&self, net: &dyn Net, params: &Params) -> Result<f64> {
        let ranges = self.windows.batches(rows_at_once(params, self.windows.length()));
        let sums: Vec<f64> = ranges
            .into_par_iter()
            .zip(&self.batches)
            .map(|(rows, original)| {
                let changed = predict(net, params, &self.windows, rows)?;
                Ok(original.divergence(&changed)?.iter().map(|v| f64::from(*v)).sum())
            })
            .collect::<Result<_>>()?;
        Ok(sums.iter().sum::<f64>() / self.windows.tokens() as f64)
    }
}

/// Σ p (log p − log q) of log-probabilities.
pub fn divergence(p: &[f32], q: &[f32]) -> f32 {
    let mut sums = [0f32; 8];
    let (p8, q8) = (p.chunks_exact(8), q.chunks_exact(8));
    let tail: f32 = p8.remainder().iter().zip(q8.remainder()).map(|(p, q)| exp(*p) * (p - q)).sum();
    for (p, q) in p8.zip(q8) {
        for i in 0..8 {
            sums[i] += exp(p[i]) * (p[i] - q[i]);
        }
    }
    // Rounding can leave a difference of nothing slightly negative.
    (sums.iter().sum::<f32>() + tail).max(0.0)
}

/// A network's predictions on some rows.
pub type Predict<'a> = &'a (dyn Fn(Range<usize>) -> Result<Predictions<'a>> + Sync);

/// Compares a network with changed parameters to its original over every row of `windows`.
///
/// # Errors
/// If a forward pass fails.
pub fn compare(
    net: &dyn Net,
    original: Predict,
    changed: &Params,
    windows: &Windows,
    progress: &(dyn Fn(u64) + Sync),
) -> Result<Comparison> {
    Ok(compare_all(original, &[(net, changed)], windows, progress)?.remove(0))
}

/// Runs two networks of one vocabulary over every row of `windows`.
///
/// # Errors
/// If a forward pass fails.
pub fn compare_networks(
    original: (&dyn Net, &Params),
    changed: (&dyn Net, &Params),
    windows: &Windows,
    progress: &(dyn Fn(u64) + Sync),
) -> Result<Comparison> {
    let (net, params) = original;
    let original = |rows| predict(net, params, windows, rows);
    Ok(compare_all(&original, &[changed], windows, progress)?.remove(0))
}

/// Runs a network, and others of its vocabulary, over every row of `windows`: each of the others held against the first.
///
/// # Errors
/// If a forward pass fails.
pub fn compare_all(
    original: Predict,
    changed: &[(&dyn Net, &Params)],
    windows: &Windows,
    progress: &(dyn Fn(u64) + Sync),
) -> Result<Vec<Comparison>> {
    let at_once = changed.first().map_or(1, |(_, params)| rows_at_once(params, windows.length()));
    let batches: Vec<Vec<Comparison>> = windows
        .batches(at_once)
        .into_par_iter()
        .map(|rows| {
            let a = original(rows.clone())?;
            let targets: Vec<u32> = rows.clone().flat_map(|r| windows.target(r)).copied().collect();
            let one = |(net, params): &(&dyn Net, &Params)| {
                let b = predict(*net, params, windows, rows.clone())?;
                let (mut before, mut after) = (Vec::new(), Vec::new());
                let (mut divergence, mut same_top) = (Vec::new(), 0);
                // Both at the same positions, so that no more are held than fit; mostly one piece is all.
                for piece in if let Predictions::Head(_) = a { a.pieces()? } else { b.pieces()? } {
                    let (a, b, targets) = (a.part(piece.clone())?, b.part(piece.clone())?, &targets[piece]);
                    before.extend(a.losses(targets.iter())?);
                    after.extend(b.losses(targets.iter())?);
                    divergence.extend(a.divergence(&b)?);
                    same_top += a.tops()?.iter().zip(b.tops()?).filter(|(a, b)| **a == *b).count();
                }
                let (original, changed) = (row_sums(&before, windows), row_sums(&after, windows));
                Ok::<_, Error>(Comparison { original, changed, divergence, same_top })
            };
            let compared = changed.iter().map(one).collect::<Result<_>>()?;
            progress(rows.len() as u64);
            Ok(compared)
        })
        .collect::<Result<_>>()?;
    let none = || Losses { rows: Vec::new(), length: windows.length() };
    let empty = || Comparison { original: none(), changed: none(), divergence: Vec::new(), same_top: 0 };
    let mut all: Vec<Comparison> = changed.iter().map(|_| empty()).collect();
    for batch in batches {
        for (all, one) in all.iter_mut().zip(batch) {
            all.original.rows.extend(one.original.rows);
            all.changed.rows.extend(one.changed.rows);
            all.divergence.extend(one.divergence);
            all.same_top += one.same_top;
        }
    }
    Ok(all)
}
