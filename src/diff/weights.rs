//! The weights of two files, tensor by tensor.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use rayon::prelude::*;
use serde::Serialize;

use super::side::{Content, Side};
use crate::artifact::kept::element;
use crate::artifact::open::some;
use crate::artifact::read::Parsed;
use crate::error::Result;
use crate::model::Element;

/// Changes of the weights. Tied tensors count once.
#[derive(Debug, Default, Serialize)]
pub struct Weights {
    /// Tensors that both have, of the same shape.
    pub compared: usize,
    /// Those with the same values, bit for bit.
    pub identical: usize,
    /// Those that only decoding would tell.
    pub undecided: usize,
    /// Those that differ, the largest relative error first.
    pub changed: Vec<Changed>,
    pub reshaped: Vec<Reshaped>,
    /// Tensors that are no weights and not the same, bit for bit, or only in one of the files.
    pub no_weights: Vec<String>,
    pub only_before: Vec<String>,
    pub only_after: Vec<String>,
}

/// A tensor with other values.
#[derive(Debug, Serialize)]
pub struct Changed {
    pub tensor: String,
    /// |after − before| over |before|; `None`: it was zero.
    pub relative_error: Option<f64>,
    /// The largest change of a weight.
    pub largest: f32,
}

/// A tensor of another shape.
#[derive(Debug, Serialize)]
pub struct Reshaped {
    pub tensor: String,
    pub before: Vec<usize>,
    pub after: Vec<usize>,
}

/// A tensor by name: its stored index and its shape.
type Names = BTreeMap<String, (usize, Vec<usize>)>;

/// Compares what both have; `decode`: also where that takes decoding.
///
/// # Errors
/// Verification, when a stream is damaged in a way that shows.
pub(super) fn compare(before: &Side, after: &Side, decode: bool) -> Result<Weights> {
    let (a, b) = (names(before), names(after));
    let missing = |of: &Names, from: &Names| of.keys().filter(|name| !from.contains_key(*name)).cloned().collect();
    let mut weights = Weights { only_before: missing(&a, &b), only_after: missing(&b, &a), ..Weights::default() };
    let mut pairs: Vec<(String, usize, usize)> = Vec::new();
    let mut seen = BTreeSet::new();
    for (tensor, (i, shape)) in &a {
        let Some((j, other)) = b.get(tensor) else { continue };
        if shape != other {
            let (before, after) = (shape.clone(), other.clone());
            weights.reshaped.push(Reshaped { tensor: tensor.clone(), before, after });
        } else if seen.insert((*i, *j)) {
            pairs.push((tensor.clone(), *i, *j));
        }
    }
    weights.compared = pairs.len();
    weights.no_weights = no_weights(before, after)?;
    if let (Content::Artifact { bytes: a, parsed: p }, Content::Artifact { bytes: b, parsed: q }) =
        (&before.content, &after.content)
    {
        // What is written the same way decodes to the same.
        pairs.retain(|(_, i, j)| !same_stream((a, p), (b, q), *i as u32, *j as u32));
        weights.identical = weights.compared - pairs.len();
    }
    let free = [before, after].iter().all(|side| !matches!(side.content, Content::Artifact { .. }));
    if !decode && !free {
        weights.undecided = pairs.len();
        return Ok(weights);
    }
    let (left, right): (BTreeSet<usize>, BTreeSet<usize>) = pairs.iter().map(|(_, i, j)| (*i, *j)).unzip();
    let (left, right) = (values(before, &left)?, values(after, &right)?);
    let found: Vec<Option<Changed>> =
        pairs.par_iter().map(|(tensor, i, j)| change(tensor, &left[i], &right[j])).collect();
    weights.identical += found.iter().filter(|found| found.is_none()).count();
    weights.changed = found.into_iter().flatten().collect();
    let size = |changed: &Changed| changed.relative_error.unwrap_or(f64::INFINITY);
    weights.changed.sort_by(|x, y| size(y).total_cmp(&size(x)));
    Ok(weights)
}

/// Names of tensors that are no weights and differ.
fn no_weights(before: &Side, after: &Side) -> Result<Vec<String>> {
    let (a, b) = (kept(before)?, kept(after)?);
    let names: BTreeSet<&String> = a.keys().chain(b.keys()).collect();
    Ok(names.into_iter().filter(|name| a.get(*name) != b.get(*name)).cloned().collect())
}

/// A tensor that is no weight: its shape, its element type, its bytes.
type Kept = (Vec<usize>, Element, Arc<Vec<u8>>);

/// Tensors of a side that are no weights, by name; those of an artifact are decoded.
fn kept(side: &Side) -> Result<BTreeMap<String, Kept>> {
    Ok(match &side.content {
        Content::Nothing => BTreeMap::new(),
        Content::Artifact { bytes, parsed } => {
            let extra = &parsed.header.extra;
            let unpacked = extra.unpack(bytes.len(), |i| &bytes[parsed.kept[i].clone()]);
            let unpacked = unpacked.map_err(|e| e.at(side.about().path))?;
            let all = extra.kept.iter().zip(unpacked);
            all.map(|(kept, data)| (kept.name.clone(), (kept.shape.clone(), element(kept), Arc::new(data)))).collect()
        }
        Content::Model(model) => {
            let all = model.kept.iter();
            all.map(|kept| (kept.name.clone(), (kept.shape.clone(), kept.element, kept.bytes.clone()))).collect()
        }
    })
}

fn names(side: &Side) -> Names {
    match &side.content {
        Content::Nothing => Names::new(),
        Content::Artifact { parsed, .. } => {
            let named = parsed.header.names.iter().zip(&parsed.header.source);
            named.map(|(named, s)| (named.name.clone(), (*s as usize, named.shape.clone()))).collect()
        }
        Content::Model(model) => {
            let named = model.specs.iter().zip(&model.source);
            named.map(|(spec, s)| (spec.name.clone(), (*s, spec.shape.clone()))).collect()
        }
    }
}

/// Whether two stored tensors come from equal bytes, and so do those that they start from.
fn same_stream(a: (&[u8], &Parsed), b: (&[u8], &Parsed), i: u32, j: u32) -> bool {
    let find = |parsed: &Parsed, tensor: u32| parsed.header.streams.iter().position(|s| s.tensors.contains(&tensor));
    let (Some(m), Some(n)) = (find(a.1, i), find(b.1, j)) else { return false };
    let (s, t) = (&a.1.header.streams[m], &b.1.header.streams[n]);
    let place = |tensors: &[u32], tensor: u32| tensors.iter().position(|t| *t == tensor);
    let shapes = |parsed: &Parsed, tensors: &[u32]| -> Vec<Vec<usize>> {
        let first = |t: &u32| parsed.header.source.iter().position(|s| s == t);
        tensors.iter().filter_map(|t| first(t).map(|at| parsed.header.names[at].shape.clone())).collect()
    };
    s.codec == t.codec
        && s.dtypes == t.dtypes
        && place(&s.tensors, i) == place(&t.tensors, j)
        && a.0[a.1.streams[m].clone()] == b.0[b.1.streams[n].clone()]
        && shapes(a.1, &s.tensors) == shapes(b.1, &t.tensors)
        && s.needs.len() == t.needs.len()
        && s.needs.iter().zip(&t.needs).all(|(k, l)| same_stream(a, b, *k, *l))
}

/// Stored tensors of a side by index; of an artifact only these are decoded, and what they start from.
fn values(side: &Side, wanted: &BTreeSet<usize>) -> Result<BTreeMap<usize, Arc<Vec<f32>>>> {
    match &side.content {
        Content::Nothing => Ok(BTreeMap::new()),
        Content::Model(model) => Ok(wanted.iter().map(|i| (*i, model.stored[*i].data.clone())).collect()),
        Content::Artifact { bytes, parsed } => {
            let mut decoded = some(bytes, parsed, wanted).map_err(|e| e.at(side.about().path))?;
            Ok(wanted.iter().map(|i| (*i, Arc::new(std::mem::take(&mut decoded[*i])))).collect())
        }
    }
}

fn change(tensor: &str, before: &[f32], after: &[f32]) -> Option<Changed> {
    if before.iter().zip(after).all(|(a, b)| a.to_bits() == b.to_bits()) {
        return None;
    }
    let (mut energy, mut error, mut largest) = (0f64, 0f64, 0f32);
    for (a, b) in before.iter().zip(after) {
        energy += f64::from(*a).powi(2);
        error += (f64::from(*b) - f64::from(*a)).powi(2);
        largest = largest.max((b - a).abs());
    }
    let relative_error = (energy > 0.0).then(|| (error / energy).sqrt());
    Some(Changed { tensor: tensor.into(), relative_error, largest })
}
