//! Finds how much every stored tensor matters: the curvature of the KL divergence to the original model.

pub mod backward;
pub mod cache;
pub mod correction;
pub mod curvature;
pub mod file;
pub mod fisher;
mod plausible;
mod sums;

/// Statistics of a model's loss.
pub struct Statistics {
    /// For every stored tensor.
    pub curvature: Vec<curvature::Curvature>,
    /// For every stored tensor: measured over predicted loss when it alone is quantized; 1 where it was not measured.
    pub correction: Vec<f64>,
    /// Calibration tokens that the curvature was measured on.
    pub tokens: usize,
}

impl Statistics {
    /// The same where a curvature that vanishes counts as not measured: predictions that are certain have none, whatever
    /// depends on the tensor. `None` where no curvature vanishes.
    pub fn doubting(&self) -> Option<Statistics> {
        use curvature::Curvature;
        let vanishes = |curvature: &Curvature| match curvature {
            Curvature::Matrix(factors) => factors.vanishes(),
            Curvature::Vector(values) => values.iter().all(|v| *v == 0.0),
            Curvature::Unknown => false,
        };
        if !self.curvature.iter().any(vanishes) {
            return None;
        }
        let known = |curvature: &Curvature| if vanishes(curvature) { Curvature::Unknown } else { curvature.clone() };
        let curvature = self.curvature.iter().map(known).collect();
        Some(Statistics { curvature, correction: self.correction.clone(), tokens: self.tokens })
    }
}
