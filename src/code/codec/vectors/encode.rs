//! Quantizes control tensors and writes them.

use std::borrow::Cow;

use tiepack_format::streams::vectors::{
    GAIN_SHIFT, Prediction, REACH, STEP_LIMIT, VALUE_LIMIT, Vector, reference, widths, write,
};

/// Uniform steps with the same slope of loss against bits as a trellis-coded step of 1.
pub const EQUAL_SLOPE: f64 = 1.8;

/// A control tensor to code: values and their curvature (Fisher information per token).
pub struct Tensor<'a> {
    pub data: &'a [f32],
    pub curvature: Cow<'a, [f32]>,
    /// Length of its last dimension.
    pub width: usize,
}

/// Coded control tensors.
pub struct CodedVectors {
    pub bytes: Vec<u8>,
    /// Predicted loss against the original, nats per token.
    pub loss: f64,
}

/// Codes tensors at step size `c` of the model.
pub fn encode(tensors: &[Tensor], c: f64) -> CodedVectors {
    let mut loss = 0f64;
    let mut groups = Vec::new();
    for width in widths(&tensors.iter().map(|t| (t.data.len(), t.width)).collect::<Vec<_>>()) {
        let mut done: Vec<Vector> = Vec::new();
        for tensor in tensors.iter().filter(|t| t.width == width) {
            for (x, f) in tensor.data.chunks_exact(width).zip(tensor.curvature.chunks_exact(width)) {
                let step = step_of(x, f, c);
                let unit = 2f64.powi(step);
                let limit = VALUE_LIMIT as f64;
                let values: Vec<i64> =
                    x.iter().map(|v| (f64::from(*v) / unit).round().clamp(-limit, limit) as i64).collect();
                for ((v, x), f) in values.iter().zip(x).zip(f) {
                    loss += 0.5 * f64::from(*f) * (f64::from(*x) - *v as f64 * unit).powi(2);
                }
                done.push(Vector { prediction: best_prediction(step, &values, &done), values });
            }
        }
        groups.push((width, done));
    }
    CodedVectors { bytes: write(&groups), loss }
}

/// The power of two next to the step of equal slope.
pub(super) fn step_of(x: &[f32], curvature: &[f32], c: f64) -> i32 {
    let mean = curvature.iter().map(|f| f64::from(*f)).sum::<f64>() / curvature.len() as f64;
    let largest = x.iter().fold(0f64, |m, v| m.max(f64::from(v.abs())));
    // Where nothing depends on a vector its step is as large as its values.
    let coarsest = if largest > 0.0 { largest.log2() + 1.0 } else { 0.0 };
    let wanted = if mean > 0.0 { (EQUAL_SLOPE * c / mean.sqrt()).log2() } else { coarsest };
    let finest = coarsest - 23.0;
    (wanted.min(coarsest).max(finest).round() as i32).clamp(-STEP_LIMIT, STEP_LIMIT)
}

/// The reference, gain and centre that leave the smallest remainder, by the sum of its magnitudes' logarithms.
fn best_prediction(step: i32, values: &[i64], done: &[Vector]) -> Prediction {
    let n = values.len() as f64;
    let mean = values.iter().sum::<i64>() as f64 / n;
    let cost = |prediction: &Prediction| -> f64 {
        let reference = reference(done, prediction.back);
        let rest = |(i, v): (usize, &i64)| ((v - prediction.predict(reference, i)).abs() as f64 + 0.5).log2();
        // A reference costs a byte for its gain.
        values.iter().enumerate().map(rest).sum::<f64>() + if prediction.back > 0 { 8.0 } else { 0.0 }
    };
    let mut best = Prediction { step, centre: mean.round() as i64, back: 0, gain: 0 };
    let mut lowest = cost(&best);
    for back in 1..=done.len().min(REACH) {
        let other = &done[done.len() - back];
        let their_mean = other.values.iter().sum::<i64>() as f64 / n;
        let (mut both, mut theirs) = (0f64, 0f64);
        for (v, o) in values.iter().zip(&other.values) {
            let d = *o as f64 - their_mean;
            both += (*v as f64 - mean) * d;
            theirs += d * d;
        }
        let slope = both / theirs * 2f64.powi(step - other.prediction.step);
        if !slope.is_finite() {
            continue;
        }
        let gain = (slope * f64::from(1 << GAIN_SHIFT)).round().clamp(-127.0, 127.0) as i64;
        let bias = slope * (their_mean - other.prediction.centre as f64) * 2f64.powi(other.prediction.step - step);
        let limit = VALUE_LIMIT as f64;
        let prediction = Prediction { step, centre: (mean - bias).round().clamp(-limit, limit) as i64, back, gain };
        let c = cost(&prediction);
        if c < lowest {
            (best, lowest) = (prediction, c);
        }
    }
    best
}
