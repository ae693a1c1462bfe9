//! The step sizes of a matrix: one nominal step size for the whole model, and scales from the curvature.
//!
//! At high rate every halving of a step costs one bit and quarters the distortion, so at the optimum the distortion per
//! weight is the same everywhere: the step of weight (i, j) is c / √(o_i d_j), with o and d the conditional curvatures of
//! [`super::metric`] and c the one step size, that of a weight of unit curvature in nats^½. Its square is proportional to
//! the Lagrangian, the price of a bit in nats. Reverse water-filling over columns is WaterSIC's rule (arXiv:2603.04956).
//! Curvatures are sampled, so the rule is followed to a power below 1.

use super::metric::Metric;
use crate::code::grid::step_sizes::{BASE_LIMIT, FINE, SCALE_LIMIT as LIMIT, StepSizes};

/// Mean squared error of a trellis-coded grid in squared steps.
pub const GRANULAR: f64 = 0.27;

/// Exponents with which scales follow the curvature: 1 is the rule of high-rate theory, 0 gives one step per matrix.
#[derive(Debug, Clone, Copy)]
pub struct Powers {
    pub rows: f32,
    pub cols: f32,
}

/// The grid of a matrix with this metric at step size `c` (nats^½).
pub fn step_sizes(metric: &Metric, c: f64, powers: Powers) -> StepSizes {
    let (out, input) = (log_mean(&metric.output), log_mean(&metric.input));
    let base = (f64::from(FINE) * (c.log2() - 0.5 * (out + input))).round();
    let limit = f64::from(BASE_LIMIT);
    let scales = |values: &[f32], mean: f64, power: f32| -> Vec<i16> {
        let exponent = |v: &f32| 4.0 * 0.5 * f64::from(power) * (mean - f64::from(*v).log2());
        values.iter().map(|v| exponent(v).round().clamp(-f64::from(LIMIT), f64::from(LIMIT)) as i16).collect()
    };
    let in_order = scales(&metric.input, input, powers.cols);
    let mut cols = vec![0; metric.cols];
    for (k, j) in metric.order.iter().enumerate() {
        cols[*j] = in_order[k];
    }
    StepSizes { base: base.clamp(-limit, limit) as i16, rows: scales(&metric.output, out, powers.rows), cols }
}

/// Mean log2 of positive values.
fn log_mean(values: &[f32]) -> f64 {
    values.iter().map(|v| f64::from(*v).log2()).sum::<f64>() / values.len() as f64
}
