//! All control tensors in one stream (codec 2): integers on power-of-two steps, predicted across layers.
//!
//! Tensors are cut into vectors along their last dimension. A vector is a centre, plus a multiple of an earlier vector
//! of the same width (the same part of an earlier layer is often much alike), plus a remainder. The remainders of all
//! vectors of one width are coded like a matrix whose columns they are ([`super::indices`] on the plain uniform grid).

use super::indices::{self, Grid};
use super::steps::{FINE, power};
use super::trellis::Trellis;
use crate::varint::{Reader, put};

/// Steps are 2^e with e in −STEP_LIMIT..=STEP_LIMIT.
const STEP_LIMIT: i32 = 100;
/// Integers stay below this, so that f32 holds them exactly.
const VALUE_LIMIT: i64 = 1 << 24;
/// How far back a vector may look for one that is like it.
const REACH: usize = 255;
/// Gains are in sixteenths.
const GAIN_SHIFT: u32 = 4;
/// Uniform steps with the same slope of loss against bits as a trellis-coded step of 1.
const EQUAL_SLOPE: f64 = 1.8;

/// A control tensor to code: values and their curvature (Fisher information per token).
pub struct Tensor<'a> {
    pub data: &'a [f32],
    pub curvature: &'a [f32],
    /// Length of its last dimension.
    pub width: usize,
}

/// Coded control tensors.
pub struct Coded {
    pub bytes: Vec<u8>,
    /// Predicted loss against the original, nats per token.
    pub loss: f64,
}

/// How one vector is made from an earlier one.
#[derive(Debug, Clone, Copy, Default)]
struct Recipe {
    step: i32,
    centre: i64,
    /// How many vectors of the same width back the reference is; 0 for none.
    back: usize,
    gain: i64,
}

/// A vector as integers, and what it was made with.
struct Done {
    recipe: Recipe,
    values: Vec<i64>,
}

impl Recipe {
    /// What the reference says about element `i`, in steps of this vector.
    fn predict(&self, reference: Option<&Done>, i: usize) -> i64 {
        let Some(reference) = reference else { return self.centre };
        let product = self.gain * (reference.values[i] - reference.recipe.centre);
        let shift = reference.recipe.step - self.step - GAIN_SHIFT as i32;
        let scaled = match shift {
            0..=24 => product << shift,
            25.. => 0,
            -40..=-1 => (product + (1 << (-shift - 1))) >> -shift,
            _ => 0,
        };
        (self.centre + scaled).clamp(-VALUE_LIMIT, VALUE_LIMIT)
    }
}

/// Codes tensors at knob `c` of the model.
pub fn encode(tensors: &[Tensor], c: f64) -> Coded {
    let mut loss = 0f64;
    let mut head = Vec::new();
    let mut tail = Vec::new();
    for width in widths(&tensors.iter().map(|t| (t.data.len(), t.width)).collect::<Vec<_>>()) {
        let mut done: Vec<Done> = Vec::new();
        let mut remainders = Vec::new();
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
                let recipe = best_recipe(step, &values, &done);
                let reference = reference(&done, recipe.back);
                remainders.extend(values.iter().enumerate().map(|(i, v)| (v - recipe.predict(reference, i)) as i32));
                write_recipe(&mut head, &recipe);
                done.push(Done { recipe, values });
            }
        }
        let coded = code(width, done.len(), |grid| indices::encode(&remainders, grid));
        put(&mut head, coded.len() as u64);
        tail.extend(coded);
    }
    head.extend(tail);
    Coded { bytes: head, loss }
}

/// The tensors, given their lengths and last dimensions; `None` if the bytes are not what [`encode`] writes.
///
/// Every value is an integer below 2²⁴ times a power of two: exact in f32.
pub fn decode(bytes: &[u8], shapes: &[(usize, usize)]) -> Option<Vec<Vec<f32>>> {
    let mut reader = Reader::new(bytes);
    let mut groups = Vec::new();
    for width in widths(shapes) {
        let count = shapes.iter().filter(|(_, w)| *w == width).map(|(n, w)| n / w).sum::<usize>();
        let recipes = (0..count).map(|n| read_recipe(&mut reader, n)).collect::<Option<Vec<_>>>()?;
        groups.push((width, recipes, reader.within(0, bytes.len(), "length of the remainders").ok()?));
    }
    let mut tensors: Vec<Vec<f32>> = shapes.iter().map(|(n, _)| Vec::with_capacity(*n)).collect();
    for (width, recipes, length) in groups {
        let coded = reader.take(length, "remainders").ok()?;
        let remainders = code(width, recipes.len(), |grid| indices::decode(coded, grid))?;
        let mut done: Vec<Done> = Vec::new();
        for (recipe, rest) in recipes.into_iter().zip(remainders.chunks_exact(width)) {
            let reference = reference(&done, recipe.back);
            let values: Vec<i64> =
                rest.iter().enumerate().map(|(i, r)| recipe.predict(reference, i) + i64::from(*r)).collect();
            if values.iter().any(|v| v.abs() > VALUE_LIMIT) {
                return None;
            }
            done.push(Done { recipe, values });
        }
        let mut vectors = done.iter();
        for (tensor, (n, _)) in tensors.iter_mut().zip(shapes).filter(|(_, (_, w))| *w == width) {
            for vector in vectors.by_ref().take(n / width) {
                let unit = power(FINE * vector.recipe.step);
                tensor.extend(vector.values.iter().map(|v| *v as f32 * unit));
            }
        }
    }
    reader.finish("the control tensors").ok()?;
    Some(tensors)
}

/// Different widths in the order in which they first occur; empty tensors and those without a width are left out.
fn widths(shapes: &[(usize, usize)]) -> Vec<usize> {
    let mut seen = Vec::new();
    for (n, w) in shapes {
        if *w > 0 && *n > 0 && !seen.contains(w) {
            seen.push(*w);
        }
    }
    seen
}

fn reference(done: &[Done], back: usize) -> Option<&Done> {
    (back > 0).then(|| &done[done.len() - back])
}

/// Runs a coder over the remainders of `count` vectors of one width.
fn code<T>(width: usize, count: usize, f: impl FnOnce(&Grid) -> T) -> T {
    let trellis = Trellis::uniform();
    let (rows, cols) = (vec![0i16; width], vec![0i16; count]);
    f(&Grid { rows: width, cols: count, row_exp: &rows, col_exp: &cols, trellis: &trellis })
}

/// The power of two next to the step of equal slope.
fn step_of(x: &[f32], curvature: &[f32], c: f64) -> i32 {
    let mean = curvature.iter().map(|f| f64::from(*f)).sum::<f64>() / curvature.len() as f64;
    let largest = x.iter().fold(0f64, |m, v| m.max(f64::from(v.abs())));
    // Where nothing depends on a vector its step is as large as its values.
    let coarsest = if largest > 0.0 { largest.log2() + 1.0 } else { 0.0 };
    let wanted = if mean > 0.0 { (EQUAL_SLOPE * c / mean.sqrt()).log2() } else { coarsest };
    let finest = coarsest - 23.0;
    (wanted.min(coarsest).max(finest).round() as i32).clamp(-STEP_LIMIT, STEP_LIMIT)
}

/// The reference, gain and centre that leave the smallest remainder, by the sum of its magnitudes' logarithms.
fn best_recipe(step: i32, values: &[i64], done: &[Done]) -> Recipe {
    let n = values.len() as f64;
    let mean = values.iter().sum::<i64>() as f64 / n;
    let cost = |recipe: &Recipe| -> f64 {
        let reference = reference(done, recipe.back);
        let rest = |(i, v): (usize, &i64)| ((v - recipe.predict(reference, i)).abs() as f64 + 0.5).log2();
        // A reference costs a byte for its gain.
        values.iter().enumerate().map(rest).sum::<f64>() + if recipe.back > 0 { 8.0 } else { 0.0 }
    };
    let mut best = Recipe { step, centre: mean.round() as i64, back: 0, gain: 0 };
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
        let slope = both / theirs * 2f64.powi(step - other.recipe.step);
        if !slope.is_finite() {
            continue;
        }
        let gain = (slope * f64::from(1 << GAIN_SHIFT)).round().clamp(-127.0, 127.0) as i64;
        let bias = slope * (their_mean - other.recipe.centre as f64) * 2f64.powi(other.recipe.step - step);
        let limit = VALUE_LIMIT as f64;
        let recipe = Recipe { step, centre: (mean - bias).round().clamp(-limit, limit) as i64, back, gain };
        let c = cost(&recipe);
        if c < lowest {
            (best, lowest) = (recipe, c);
        }
    }
    best
}

fn write_recipe(out: &mut Vec<u8>, recipe: &Recipe) {
    out.extend([recipe.step as i8 as u8, recipe.back as u8]);
    if recipe.back > 0 {
        out.push(recipe.gain as i8 as u8);
    }
    put(out, ((recipe.centre << 1) ^ (recipe.centre >> 63)) as u64);
}

/// Reads the recipe of the vector that `before` others of its width precede.
fn read_recipe(reader: &mut Reader, before: usize) -> Option<Recipe> {
    let head = reader.take(2, "step and reference").ok()?;
    let (step, back) = (i32::from(head[0] as i8), usize::from(head[1]));
    let gain = if back > 0 { i64::from(reader.take(1, "gain").ok()?[0] as i8) } else { 0 };
    let zigzag = reader.varint("centre").ok()?;
    let centre = (zigzag >> 1) as i64 ^ -((zigzag & 1) as i64);
    let sane = back <= before && step.abs() <= STEP_LIMIT && (-VALUE_LIMIT..=VALUE_LIMIT).contains(&centre);
    sane.then_some(Recipe { step, centre, back, gain })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn like_vectors_cost_little_and_values_are_near() {
        let a: Vec<f32> = (0..256).map(|i| 1.0 + (i as f32 * 0.7).sin()).collect();
        let b: Vec<f32> = a.iter().map(|v| 0.5 * v - 3.0).collect();
        let f = vec![1e-3f32; 256];
        let tensor = |data| Tensor { data, curvature: &f, width: 256 };
        let c = 1e-4;
        let one = encode(&[tensor(&a)], c);
        let two = encode(&[tensor(&a), tensor(&b)], c);
        assert!(two.bytes.len() < one.bytes.len() * 7 / 4, "{} after {}", two.bytes.len(), one.bytes.len());
        let back = decode(&two.bytes, &[(256, 256), (256, 256)]).unwrap();
        let step = 2f32.powi(step_of(&a, &f, c));
        assert!(a.iter().zip(&back[0]).all(|(a, b)| (a - b).abs() <= step / 2.0));
    }

    proptest! {
        #[test]
        fn round_trip(
            a in prop::collection::vec(-1e3f32..1e3, 12),
            b in prop::collection::vec(-1e-3f32..1e-3, 12),
            d in prop::collection::vec(-1f32..1.0, 4),
            c in 1e-6f64..1e3,
        ) {
            let f = vec![0.5f32; 12];
            let tensors = [
                Tensor { data: &a, curvature: &f, width: 6 },
                Tensor { data: &b, curvature: &f, width: 6 },
                Tensor { data: &d, curvature: &f[..4], width: 4 },
            ];
            let coded = encode(&tensors, c);
            let back = decode(&coded.bytes, &[(12, 6), (12, 6), (4, 4)]).unwrap();
            // What was decoded lies on the grid, so coding it again at the same steps gives it back.
            let loss: f64 = [&a, &b, &d].iter().zip(&back).map(|(x, y)| {
                x.iter().zip(y).map(|(x, y)| 0.25 * (f64::from(*x) - f64::from(*y)).powi(2)).sum::<f64>()
            }).sum();
            prop_assert!((loss - coded.loss).abs() <= 1e-6 * (1.0 + loss), "{} against {}", loss, coded.loss);
        }

        #[test]
        fn any_bytes_are_survived(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = decode(&bytes, &[(12, 6), (12, 6), (4, 4)]);
        }
    }
}
