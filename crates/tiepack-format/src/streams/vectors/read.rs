//! Reads control tensors.

use super::{Prediction, STEP_LIMIT, VALUE_LIMIT, Vector, code, reference, widths};
use crate::entropy::indices;
use crate::grid::step_sizes::{FINE, power};
use crate::varint::Reader;

/// The tensors, given their lengths and last dimensions; `None` if the bytes are not what [`super::write`] writes.
///
/// Every value is an integer below 2²⁴ times a power of two: exact in f32.
pub fn decode(bytes: &[u8], shapes: &[(usize, usize)]) -> Option<Vec<Vec<f32>>> {
    let mut reader = Reader::new(bytes);
    let mut groups = Vec::new();
    for width in widths(shapes) {
        let count = shapes.iter().filter(|(_, w)| *w == width).map(|(n, w)| n / w).sum::<usize>();
        let predictions = (0..count).map(|n| read_prediction(&mut reader, n)).collect::<Option<Vec<_>>>()?;
        groups.push((width, predictions, reader.within(0, bytes.len(), "length of the remainders").ok()?));
    }
    let mut tensors: Vec<Vec<f32>> = shapes.iter().map(|(n, _)| Vec::with_capacity(*n)).collect();
    for (width, predictions, length) in groups {
        let coded = reader.take(length, "remainders").ok()?;
        let remainders = code(width, predictions.len(), |layout| indices::decode(coded, layout))?;
        let mut done: Vec<Vector> = Vec::new();
        for (prediction, rest) in predictions.into_iter().zip(remainders.chunks_exact(width)) {
            let reference = reference(&done, prediction.back);
            let values: Vec<i64> =
                rest.iter().enumerate().map(|(i, r)| prediction.predict(reference, i) + i64::from(*r)).collect();
            if values.iter().any(|v| v.abs() > VALUE_LIMIT) {
                return None;
            }
            done.push(Vector { prediction, values });
        }
        let mut vectors = done.iter();
        for (tensor, (n, _)) in tensors.iter_mut().zip(shapes).filter(|(_, (_, w))| *w == width) {
            for vector in vectors.by_ref().take(n / width) {
                let unit = power(FINE * vector.prediction.step);
                tensor.extend(vector.values.iter().map(|v| *v as f32 * unit));
            }
        }
    }
    reader.finish("the control tensors").ok()?;
    Some(tensors)
}

/// Reads how the vector is made that `before` others of its width precede.
fn read_prediction(reader: &mut Reader, before: usize) -> Option<Prediction> {
    let head = reader.take(2, "step and reference").ok()?;
    let (step, back) = (i32::from(head[0] as i8), usize::from(head[1]));
    let gain = if back > 0 { i64::from(reader.take(1, "gain").ok()?[0] as i8) } else { 0 };
    let zigzag = reader.varint("centre").ok()?;
    let centre = (zigzag >> 1) as i64 ^ -((zigzag & 1) as i64);
    let sane = back <= before && step.abs() <= STEP_LIMIT && (-VALUE_LIMIT..=VALUE_LIMIT).contains(&centre);
    sane.then_some(Prediction { step, centre, back, gain })
}
