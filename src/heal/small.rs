//! Control tensors in training: shadows seen through the uniform grids that they are coded on.

use super::param::{ParamRef, adam};
use crate::code::codec::vectors;
use crate::train::adam::{Adam, Betas};

/// How much faster a control tensor moves than a weight, in units of equal curvature: a whole channel hangs on it, so its
/// gradient is less noisy.
const FASTER: f32 = 10.0;
/// No element moves by more than this at the full rate of a weight.
const MOST: f32 = 0.05;

/// All control tensors of one stream.
pub struct Small {
    /// The model's step size for them.
    step: f64,
    tensors: Vec<One>,
}

struct One {
    values: Vec<f32>,
    /// Fisher information of every element.
    curvature: Vec<f32>,
    width: usize,
    adam: Adam,
}

impl Small {
    pub fn new(tensors: Vec<vectors::Tensor>, step: f64) -> Small {
        let one = |t: vectors::Tensor| One {
            values: t.data.to_vec(),
            curvature: t.curvature.into_owned(),
            width: t.width,
            adam: Adam::new(t.data.len()),
        };
        Small { step, tensors: tensors.into_iter().map(one).collect() }
    }

    /// The stream, and what it decodes to.
    pub fn coded(&self) -> (Vec<u8>, Vec<Vec<f32>>) {
        let tensors: Vec<vectors::Tensor> = self
            .tensors
            .iter()
            .map(|t| vectors::Tensor { data: &t.values, curvature: (&t.curvature[..]).into(), width: t.width })
            .collect();
        let bytes = vectors::encode(&tensors, self.step).bytes;
        let shapes: Vec<(usize, usize)> = self.tensors.iter().map(|t| (t.values.len(), t.width)).collect();
        let decoded = vectors::decode(&bytes, &shapes);
        // A tensor that cannot be decoded keeps its values; reading the finished streams reports the error.
        (bytes, decoded.unwrap_or_else(|| self.tensors.iter().map(|t| t.values.clone()).collect()))
    }

    /// Moves all tensors against their gradients.
    pub fn learn(&mut self, gradients: &[&[f32]], rate: f32, betas: Betas) {
        for (tensor, gradient) in self.tensors.iter_mut().zip(gradients) {
            let mean = tensor.curvature.iter().sum::<f32>() / tensor.curvature.len().max(1) as f32;
            let unit = if mean > 0.0 { (self.step / f64::from(mean).sqrt()) as f32 } else { 0.0 };
            tensor.adam.step(&mut tensor.values, gradient, FASTER * rate * unit.min(MOST), betas);
        }
    }

    /// The parameters that training changes.
    pub fn params(&mut self) -> Vec<ParamRef<'_>> {
        self.tensors.iter_mut().flat_map(|t| adam(&mut t.values, &mut t.adam)).collect()
    }

    /// Whether what was read into the parameters belongs together.
    pub fn is_sound(&self) -> bool {
        self.tensors
            .iter()
            .all(|t| [&t.values, &t.adam.first, &t.adam.second].iter().all(|v| v.len() == t.curvature.len()))
    }
}
