//! Predicts the loss of a packed model, matrix by matrix, from the measured curvature.

use rayon::prelude::*;

use super::metrics::Metrics;
use super::options::{Options, Source};
use super::statistics;
use crate::code::quantize::metric::Metric;
use crate::error::{Error, Result};
use crate::model::Model;
use crate::progress::Progress;

/// The error of one stored tensor.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Cost {
    /// |packed − original| over |original|; 0 where both are zeros.
    pub relative_error: f64,
    /// Nats per token; `None` where no curvature was measured.
    pub loss: Option<f64>,
    /// Bits per weight below which no code of independent Gaussian weights of the same mean square comes out with as
    /// little loss (with as little squared error, where no curvature was measured); `None` for control tensors.
    pub bound: Option<f64>,
}

/// The cost of every stored tensor of `packed`, which is `original` with other weights.
///
/// # Errors
/// As measuring curvature, where `options` ask for that; Verification when the two are not the same tensors.
pub fn predict(
    original: &Model,
    packed: &Model,
    calib: Option<&[u32]>,
    options: &Options,
    progress: &dyn Progress,
) -> Result<Vec<Cost>> {
    if original.source != packed.source {
        return Err(Error::verification("the artifact's ties are not the model's"));
    }
    let gathered;
    let statistics = match (&options.curvature, calib) {
        (Source::Given(statistics), _) => Some(statistics),
        (Source::Measured, Some(calib)) => {
            gathered = statistics::gather(original, calib, options, progress)?.0;
            Some(&gathered)
        }
        _ => None,
    };
    let metrics = Metrics::new(original, statistics);
    let known = |i: usize| statistics.is_some() && !metrics.is_guessed(i);
    progress.begin("weighing errors", original.stored.len() as u64);
    let costs = (0..original.stored.len())
        .into_par_iter()
        .map(|i| {
            let (w, q) = (&original.stored[i].data, &packed.stored[i].data);
            let change: Vec<f32> = q.iter().zip(w.iter()).map(|(q, w)| q - w).collect();
            let (energy, error) = (squares(w), squares(&change));
            let relative_error = if error == 0.0 { 0.0 } else { (error / energy).sqrt() };
            let (loss, bound) = if !original.is_matrix(i) {
                let tensor = metrics.control_tensors(original, &[i]).remove(0);
                let sum = tensor.curvature.iter().zip(&change).map(|(c, e)| f64::from(*c) * f64::from(e * e));
                (0.5 * sum.sum::<f64>(), None)
            } else {
                let metric = metrics.of(original, i);
                let loss = 0.5 * squares(&metric.whiten(&change));
                (loss, bound(&metric, energy / w.len().max(1) as f64, loss))
            };
            progress.advance(1);
            // The correction is measured on matrices alone.
            let loss = known(i).then(|| metrics.correction(i) * loss);
            Cost { relative_error, loss, bound }
        })
        .collect();
    progress.end();
    Ok(costs)
}

fn squares(v: &[f32]) -> f64 {
    v.iter().map(|v| f64::from(*v) * f64::from(*v)).sum()
}

/// Bits per weight of a Gaussian source at this loss, by reverse water-filling: the whitened weights are components of
/// variance `energy` · o_i · d_j, and of each as much is left as the water level (Cover and Thomas, section 10.3.3).
///
/// `None` when nothing was lost: the bound is infinite.
fn bound(metric: &Metric, energy: f64, loss: f64) -> Option<f64> {
    let total = 2.0 * loss;
    if total <= 0.0 || energy <= 0.0 {
        return None;
    }
    let variances = || {
        let row = |o: f32| metric.input.iter().map(move |d| energy * f64::from(o) * f64::from(*d));
        metric.output.iter().flat_map(move |o| row(*o))
    };
    if variances().sum::<f64>() <= total {
        return Some(0.0);
    }
    let most = variances().fold(0.0, f64::max);
    let (mut low, mut high) = (most.log2() - 120.0, most.log2());
    // Halvings until the level is known to a thousandth of a bit.
    while high - low > 1e-3 {
        let level = f64::midpoint(low, high);
        let left: f64 = variances().map(|v| v.min(level.exp2())).sum();
        if left < total { low = level } else { high = level }
    }
    let level = high.exp2();
    let n = (metric.rows * metric.cols) as f64;
    Some(variances().map(|v| 0.5 * (v / level).max(1.0).log2()).sum::<f64>() / n)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bound_is_that_of_a_gaussian() {
        // All weights count alike: ½ log2 of variance over distortion.
        let metric = Metric::flat(32, 16, 0.5);
        let loss_at = |distortion: f64| 0.5 * 0.5 * distortion * (32.0 * 16.0);
        for bits in [0.5f64, 2.0, 3.5] {
            let found = bound(&metric, 4.0, loss_at(4.0 * (-2.0 * bits).exp2())).unwrap();
            assert!((found - bits).abs() < 1e-3, "{found} for {bits}");
        }
        assert_eq!(bound(&metric, 4.0, loss_at(5.0)), Some(0.0));
        assert_eq!(bound(&metric, 4.0, 0.0), None);
        // A column that hardly counts takes no bits at all; the rest are as before.
        let mut metric = Metric::flat(2, 2, 1.0);
        metric.input[1] = 1e-9;
        let found = bound(&metric, 1.0, 0.5 * 2.0 * (0.0625 + 1e-9)).unwrap();
        assert!((found - 0.5 * 2.0).abs() < 1e-3, "{found}");
    }
}
