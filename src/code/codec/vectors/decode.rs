//! Reads control tensors.

use super::{Done, Recipe, STEP_LIMIT, VALUE_LIMIT, code, reference, widths};
use crate::code::entropy::indices;
use crate::code::grid::step_sizes::{FINE, power};
use crate::varint::Reader;

/// The tensors, given their lengths and last dimensions; `None` if the bytes are not what [`super::encode`] writes.
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
        let remainders = code(width, recipes.len(), |layout| indices::decode(coded, layout))?;
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
