//! Writes control tensors.

use super::{Prediction, Vector, code, reference};
use crate::entropy::indices;
use crate::varint::put;

/// The stream of vectors by their width, widths in the order of [`super::widths`].
pub fn write(groups: &[(usize, Vec<Vector>)]) -> Vec<u8> {
    let (mut head, mut tail) = (Vec::new(), Vec::new());
    for (width, vectors) in groups {
        let mut remainders = Vec::with_capacity(width * vectors.len());
        for (n, Vector { prediction, values }) in vectors.iter().enumerate() {
            let reference = reference(&vectors[..n], prediction.back);
            remainders.extend(values.iter().enumerate().map(|(i, v)| (v - prediction.predict(reference, i)) as i32));
            write_prediction(&mut head, prediction);
        }
        let coded = code(*width, vectors.len(), |layout| indices::encode(&remainders, layout));
        put(&mut head, coded.len() as u64);
        tail.extend(coded);
    }
    head.extend(tail);
    head
}

fn write_prediction(out: &mut Vec<u8>, prediction: &Prediction) {
    out.extend([prediction.step as i8 as u8, prediction.back as u8]);
    if prediction.back > 0 {
        out.push(prediction.gain as i8 as u8);
    }
    put(out, ((prediction.centre << 1) ^ (prediction.centre >> 63)) as u64);
}
