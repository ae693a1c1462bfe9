//! Gathers what is known about a model's loss, from the cache where it is there.

use std::borrow::Cow;

use rayon::prelude::*;

use super::code::{Prices, code, decode};
use super::metrics::{metric_of, settings};
use super::options::Options;
use super::target::Target;
use crate::code::codec::matrix;
use crate::code::quantize::step_rule::GRANULAR;
use crate::error::{Error, Result};
use crate::eval::windows::Windows;
use crate::measure::correction::{self, Change};
use crate::measure::curvature::{self, Curvature, Measured};
use crate::measure::{Statistics, cache};
use crate::model::Model;
use crate::progress::Progress;
use crate::recipe::{Grid, Odd, Terms};

/// Tokens on which each matrix's correction is measured: with more the files were no better.
const CORRECTION_TOKENS: usize = 2048;

/// Corrections are left out where they would take more forward passes over so many times the tokens that the curvature was
/// measured on: with many matrices they would cost more than the curvature.
const CORRECTION_SHARE: usize = 2;

/// A step size at which most models lose about .02 nats per token: where searches start and corrections are measured.
pub(super) fn nominal_step(model: &Model) -> f64 {
    (2.0 * 0.02 / (GRANULAR * model.weights().max(1) as f64)).sqrt()
}

/// Statistics of `model` on `calib`, and whether they came from the cache.
pub(super) fn gather(
    model: &Model,
    calib: &[u32],
    options: &Options,
    progress: &dyn Progress,
) -> Result<(Statistics, bool)> {
    let length = model.network()?.context();
    let available = Windows::new(calib, length, None).rows();
    if available == 0 {
        return Err(Error::input(format!(
            "the calibration shard has {} tokens, one row of this model takes {}",
            calib.len(),
            length + 1
        )));
    }
    let wanted = options.calib_rows.unwrap_or_else(|| options.effort.calibration_tokens().div_ceil(length));
    let rows = wanted.clamp(1, available);
    let key = cache::key(model, calib, rows, options.seed);
    if let Some(folder) = &options.cache
        && let Some(statistics) = cache::load(folder, &key, model, rows * length)
    {
        return Ok((statistics, true));
    }
    let sample = spread(calib, length, rows);
    // There is no best so far to go on with.
    let step = |n: u64| -> Result<()> {
        progress.advance(n);
        if (options.stop)() { Err(Error::interrupted("measuring")) } else { Ok(()) }
    };
    progress.begin("measuring curvature", rows as u64);
    let Measured { curvature, temperature } =
        curvature::measure(model, &Windows::new(&sample, length, None), options.seed, &step)?;
    progress.end();
    let tokens = rows * length;
    let correction = match temperature {
        1.0 => corrections(model, &curvature, tokens, calib, (progress, &step))?,
        t => {
            progress.note(&format!(
                "the model is certain of nearly every token: its curvature is that of predictions softened at temperature {t}"
            ));
            vec![1.0; model.stored.len()]
        }
    };
    let statistics = Statistics { curvature, correction, tokens };
    if let Some(folder) = &options.cache
        && let Err(e) = cache::save(folder, &key, model, &statistics)
    {
        // A pack without a cache is slower next time, not wrong.
        progress.note(&format!("statistics were not cached: {e}"));
    }
    Ok((statistics, false))
}

/// `rows` rows of `length` tokens spread evenly over a token stream, so that many documents have a say.
fn spread(tokens: &[u32], length: usize, rows: usize) -> Vec<u32> {
    let available = (tokens.len() - 1) / length;
    let mut out = Vec::with_capacity(rows * length + 1);
    for r in 0..rows {
        let start = r * available / rows * length;
        out.extend(&tokens[start..start + length]);
    }
    // Windows hold one target more than inputs; measuring does not look at it.
    out.push(tokens[0]);
    out
}

/// The same number of rows from places between those of [`spread`], as far as there are any.
pub(super) fn between(tokens: &[u32], length: usize, rows: usize) -> Vec<u32> {
    let available = (tokens.len() - 1) / length;
    let rows = rows.min(available);
    let starts = (0..rows).map(|r| (2 * r + 1) * available / (2 * rows) * length);
    starts.flat_map(|start| &tokens[start..start + length]).copied().chain([tokens[0]]).collect()
}

/// What [`between`] does not take.
pub(super) fn beside(tokens: &[u32], length: usize, rows: usize) -> Vec<u32> {
    let available = (tokens.len() - 1) / length;
    let rows = rows.min(available);
    let taken: Vec<usize> = (0..rows).map(|r| (2 * r + 1) * available / (2 * rows)).collect();
    let left = (0..available).filter(|row| !taken.contains(row));
    left.flat_map(|row| &tokens[row * length..(row + 1) * length]).copied().chain([tokens[0]]).collect()
}

/// Quantizes every matrix alone at a usual step size and measures what it really costs.
fn corrections(
    model: &Model,
    curvature: &[Curvature],
    tokens: usize,
    calib: &[u32],
    (progress, done): (&dyn Progress, &(dyn Fn(u64) -> Result<()> + Sync)),
) -> Result<Vec<f64>> {
    let step = nominal_step(model);
    let grid = Grid { states: 8, odd: Odd::Plain };
    let matrices: Vec<usize> =
        (0..model.stored.len()).filter(|i| matches!(&curvature[*i], Curvature::Matrix(f) if !f.vanishes())).collect();
    if matrices.len() * CORRECTION_TOKENS > CORRECTION_SHARE * tokens {
        return Ok(vec![1.0; model.stored.len()]);
    }
    progress.begin("checking the curvature", 2 * matrices.len() as u64);
    let changes: Vec<Change> = matrices
        .into_par_iter()
        .map(|i| {
            let Curvature::Matrix(factors) = &curvature[i] else { unreachable!("only matrices were kept") };
            let (w, metric) = (Cow::Borrowed(&model.stored[i].data[..]), Cow::Owned(metric_of(factors, tokens)));
            let prices = matrix::learn(&w, &metric, step, &settings(grid), None);
            let (terms, target) = (Terms::<usize>::alone(grid), Target { w, metric, correction: 1.0 });
            let coded = code(&terms, &target, None, step, Prices::Learned(&prices));
            let data = decode(&terms, [target.metric.rows, target.metric.cols], None, &coded.bytes)
                .ok_or_else(|| Error::compute(format!("{} did not survive its own coding", model.spec(i).name)))?;
            done(1)?;
            Ok(Change { stored: i, data, predicted: coded.loss })
        })
        .collect::<Result<_>>()?;
    let length = model.network()?.context();
    let rows = CORRECTION_TOKENS.div_ceil(length).min((calib.len() - 1) / length);
    let sample = spread(calib, length, rows);
    let windows = Windows::new(&sample, length, None);
    let measured = correction::measure(model, windows, changes.into_iter(), &|| done(1))?;
    progress.end();
    let mut out = vec![1.0; model.stored.len()];
    for (i, c) in measured {
        // As precise as the cache keeps it: the file must not depend on where the statistics came from.
        out[i] = f64::from(c as f32);
    }
    Ok(out)
}
