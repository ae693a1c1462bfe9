//! The correction factor of each matrix: measured loss over the loss that the quadratic model predicts, one matrix changed at a time.

use std::sync::Arc;

use crate::error::Result;
use crate::eval::compare::Reference;
use crate::eval::windows::Windows;
use crate::model::Model;

/// Corrections outside this range are taken for noise.
const RANGE: (f64, f64) = (0.25, 4.0);

/// A stored matrix changed the way that packing will change it.
pub struct Change {
    pub stored: usize,
    /// The changed matrix, row-major.
    pub data: Vec<f32>,
    /// What the curvature says it costs, nats per token.
    pub predicted: f64,
}

/// Measured over predicted KL divergence of each change, made alone, on the rows of `windows`.
///
/// `progress` is called once per change; an error of its own ends the measurement.
///
/// # Errors
/// If a forward pass fails; those of `progress`.
pub fn measure(
    model: &Model,
    windows: Windows,
    changes: impl Iterator<Item = Change>,
    progress: &dyn Fn() -> Result<()>,
) -> Result<Vec<(usize, f64)>> {
    let params = model.params()?;
    let net = model.network()?;
    let reference = Reference::new(net, &params, windows)?;
    changes
        .map(|change| {
            let data = (0..model.stored.len()).map(|i| model.stored[i].data.clone());
            let mut data: Vec<Arc<Vec<f32>>> = data.collect();
            data[change.stored] = Arc::new(change.data);
            let measured = reference.divergence(net, &model.with_data(data).params()?)?;
            progress()?;
            Ok((change.stored, (measured / change.predicted).clamp(RANGE.0, RANGE.1)))
        })
        .collect()
}
