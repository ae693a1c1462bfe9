//! Statistics as a safetensors file, so that whoever can run a network can measure it: `formats/statistics.md`.

use std::collections::{BTreeMap, HashMap};

use safetensors::tensor::{SafeTensors, TensorView, serialize};

use super::curvature::{Curvature, Factors};
use super::{Statistics, plausible};
use crate::error::{Error, Result};
use crate::model::Model;
use crate::nets::Form;

const INPUT: &str = "input";
const OUTPUT: &str = "output";
const VECTOR: &str = "curvature";
const CORRECTION: &str = "correction";
/// Blocks of an output factor have a multiple of so many rows.
const BLOCK: usize = 16;
/// Keys of the metadata.
const TOKENS: &str = "tokens";
const HASH: &str = "blake3";

/// Writes the statistics of `model`.
///
/// # Errors
/// Compute, when the file cannot be made.
pub fn to_bytes(model: &Model, statistics: &Statistics) -> Result<Vec<u8>> {
    let mut parts: BTreeMap<String, (Vec<usize>, Vec<u8>)> = BTreeMap::new();
    let bytes = |values: &[f32]| values.iter().flat_map(|v| v.to_le_bytes()).collect::<Vec<u8>>();
    for (i, c) in statistics.curvature.iter().enumerate() {
        let name = &model.spec(i).name;
        match c {
            Curvature::Matrix(Factors { rows, cols, input, output }) => {
                let shape = if output.len() == *rows { vec![*rows] } else { vec![*rows, output.len() / rows] };
                parts.insert(format!("{name}:{INPUT}"), (vec![*cols, *cols], bytes(input)));
                parts.insert(format!("{name}:{OUTPUT}"), (shape, bytes(output)));
                parts.insert(format!("{name}:{CORRECTION}"), (vec![1], bytes(&[statistics.correction[i] as f32])));
            }
            Curvature::Vector(v) => {
                parts.insert(format!("{name}:{VECTOR}"), (model.shape(i).to_vec(), bytes(v)));
            }
            Curvature::Unknown => {}
        }
    }
    let fail = |e: safetensors::SafeTensorError| Error::compute(format!("cannot write statistics: {e}"));
    let metadata = HashMap::from([
        (TOKENS.to_string(), statistics.tokens.to_string()),
        (HASH.to_string(), hash(parts.values().map(|(_, data)| &data[..]))),
    ]);
    let views = parts.iter().map(|(name, (shape, data))| {
        TensorView::new(safetensors::Dtype::F32, shape.clone(), data).map(|view| (name.as_str(), view))
    });
    serialize(views.collect::<std::result::Result<Vec<_>, _>>().map_err(fail)?, Some(metadata)).map_err(fail)
}

/// Of all tensors' bytes in the order of their names.
fn hash<'a>(parts: impl Iterator<Item = &'a [u8]>) -> String {
    let mut hasher = blake3::Hasher::new();
    parts.for_each(|data| {
        hasher.update(data);
    });
    hasher.finalize().to_hex().to_string()
}

/// Reads statistics of `model`. A matrix may be named by any of its tied names; one that the file leaves out is unknown.
///
/// # Errors
/// Input, when the file is damaged or not one of statistics, names tensors that the model lacks, or holds factors of
/// other shapes or values that no curvature has.
pub fn from_bytes(bytes: &[u8], model: &Model) -> Result<Statistics> {
    let damaged = |e: safetensors::SafeTensorError| Error::input(format!("not a file of statistics: {e}"));
    let (_, metadata) = SafeTensors::read_metadata(bytes).map_err(damaged)?;
    let tensors = SafeTensors::deserialize(bytes).map_err(damaged)?;
    let told = metadata.metadata().as_ref();
    let tokens = told.and_then(|m| m.get(TOKENS)).and_then(|text| text.parse::<usize>().ok()).ok_or_else(|| {
        Error::input("not a file of statistics: its metadata names no number of `tokens`")
            .hint("formats/statistics.md says what a file of statistics holds")
    })?;
    let parts: BTreeMap<String, TensorView> = tensors.tensors().into_iter().collect();
    if let Some(hash) = told.and_then(|m| m.get(HASH))
        && *hash != self::hash(parts.values().map(|view| view.data()))
    {
        return Err(Error::input("the file of statistics is damaged: its hash does not match"));
    }
    let mut curvature: Vec<Curvature> = model.stored.iter().map(|_| Curvature::Unknown).collect();
    let mut correction = vec![1.0; model.stored.len()];
    let stored: HashMap<&str, usize> =
        model.specs.iter().zip(&model.source).map(|(spec, i)| (spec.name.as_str(), *i)).collect();
    let mut inputs: BTreeMap<usize, Vec<f32>> = BTreeMap::new();
    let mut outputs: BTreeMap<usize, Vec<f32>> = BTreeMap::new();
    for (key, view) in &parts {
        let (name, part) = key.rsplit_once(':').unwrap_or((key, ""));
        let i = *stored.get(name).ok_or_else(|| {
            Error::input(format!("there are statistics of {name}, which the model lacks"))
                .hint("are they of this model?")
        })?;
        let (rows, cols) = model.sides(i);
        let matrix = model.spec(i).form != Form::Vector;
        let values = || values(key, view);
        let factor = |block: usize| {
            let values = values()?;
            plausible::factor(key, &values, block).map(|()| values)
        };
        match (part, matrix, view.shape()) {
            (INPUT, true, &[a, b]) if a == cols && b == cols => {
                inputs.insert(i, factor(b)?);
            }
            (OUTPUT, true, &[a, b]) if a == rows && (b == rows || (b < rows && b > 0 && b % BLOCK == 0)) => {
                outputs.insert(i, factor(b)?);
            }
            (OUTPUT, true, &[a]) if a == rows => {
                outputs.insert(i, factor(1)?);
            }
            (CORRECTION, true, &[1]) => match f64::from(values()?[0]) {
                factor if factor > 0.0 => correction[i] = factor,
                factor => return Err(Error::input(format!("{key} is {factor}, wanted more than 0"))),
            },
            (VECTOR, false, shape) if shape == model.shape(i) => curvature[i] = Curvature::Vector(factor(1)?),
            (INPUT | OUTPUT | CORRECTION | VECTOR, _, shape) => {
                let what = if matrix { "matrix" } else { "control tensor" };
                return Err(Error::input(format!(
                    "{key} has shape {shape:?}; {name} is a {what} {:?}",
                    model.shape(i)
                )));
            }
            _ => {
                return Err(Error::input(format!("{key}: wanted NAME:{INPUT}, :{OUTPUT}, :{VECTOR} or :{CORRECTION}")));
            }
        }
    }
    for (i, input) in inputs {
        let (rows, cols) = model.sides(i);
        let output = outputs.remove(&i).unwrap_or_else(|| vec![1.0; rows]);
        curvature[i] = Curvature::Matrix(Factors { rows, cols, input, output });
    }
    if let Some((i, _)) = outputs.into_iter().next() {
        let name = &model.spec(i).name;
        return Err(Error::input(format!("there is a {name}:{OUTPUT} but no {name}:{INPUT}")));
    }
    Ok(Statistics { curvature, correction, tokens })
}

/// The values of a tensor, which must be f32 and finite.
fn values(key: &str, view: &TensorView) -> Result<Vec<f32>> {
    if view.dtype() != safetensors::Dtype::F32 {
        return Err(Error::input(format!("{key} is of type {:?}, wanted F32", view.dtype())));
    }
    let values: Vec<f32> = view.data().as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect();
    match values.iter().position(|v| !v.is_finite()) {
        None => Ok(values),
        Some(at) => Err(Error::input(format!("{key} holds {} at place {at}", values[at]))),
    }
}
