//! Declared ties: which tensors they join, whether these are equal, and how to make them so.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::Structure;
use crate::error::{Error, Result};
use crate::ingest::{RawTensor, TieMap};
use crate::nets::TensorSpec;

/// Ways to make tensors equal that are declared tied and are not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Retie {
    /// All become the first in canonical order.
    First,
    /// All become their mean, taken in f64 and rounded once to the type of the first.
    Mean,
}

/// Tensors that were changed, each with the largest change of a weight.
pub type Changes = Vec<(String, f32)>;

/// The ties of a model, by tensor name: `(tensor, the one it shares)`.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct TieReport {
    /// From the tie map or, in a decoded model, from the artifact.
    pub declared: Vec<(String, String)>,
    /// Matrices that nobody declared tied and that are identical.
    pub found: Vec<(String, String)>,
    /// What `--retie` changed.
    pub retied: Changes,
    /// For every layer the first layer that shares all its tied roles, itself if there is none before it.
    pub copies: Vec<usize>,
}

/// For every spec the first spec it is declared tied to, itself if none.
pub(super) fn declared_groups(structure: &Structure, ties: Option<&TieMap>) -> Result<Vec<usize>> {
    let specs = &structure.specs[..];
    let mut group: Vec<usize> = (0..specs.len()).collect();
    let Some(ties) = ties else { return Ok(group) };
    if let Some(copies) = &ties.copies {
        let (found, wanted) = (copies.len(), structure.layers);
        if found != wanted {
            return Err(Error::input(format!("the tie map speaks of {found} layers, the model has {wanted}"))
                .hint("does ties.json belong to these weights?"));
        }
        let places = places(structure);
        for (layer, &source) in copies.iter().enumerate() {
            for role in &structure.tied_roles {
                match (places.get(&(layer, &role[..])), places.get(&(source, &role[..]))) {
                    (Some(&a), Some(&b)) => join(&mut group, specs, a, b)?,
                    (None, None) => {}
                    _ => {
                        return Err(Error::input(format!(
                            "layer {layer} is declared a copy of layer {source}, but only one of them has {role}"
                        )));
                    }
                }
            }
        }
    }
    let index: BTreeMap<&str, usize> = specs.iter().enumerate().map(|(i, s)| (s.name.as_str(), i)).collect();
    for (alias, source) in &ties.aliases {
        let find = |name: &str| {
            index.get(name).copied().ok_or_else(|| {
                Error::input(format!("the tie map ties {alias} to {source}, but the model has no {name}"))
            })
        };
        join(&mut group, specs, find(alias)?, find(source)?)?;
    }
    Ok(group)
}

/// Makes one group of the groups of two specs, led by the smaller index.
fn join(group: &mut [usize], specs: &[TensorSpec], a: usize, b: usize) -> Result<()> {
    let (one, other) = (&specs[a], &specs[b]);
    if one.shape != other.shape {
        return Err(Error::input(format!(
            "{} {:?} is declared tied to {} {:?}, which has another shape",
            one.name, one.shape, other.name, other.shape
        )));
    }
    let (representative, member) = (group[a].min(group[b]), group[a].max(group[b]));
    group.iter_mut().filter(|g| **g == member).for_each(|g| *g = representative);
    Ok(())
}

/// One tensor per group, by the index of the group's first spec, and what `retie` changed.
///
/// `tensors` holds per spec what the file has; every group has at least one.
pub(super) fn unite(
    specs: &[TensorSpec],
    group: &[usize],
    tensors: Vec<Option<RawTensor>>,
    retie: Option<Retie>,
) -> Result<(BTreeMap<usize, RawTensor>, Changes)> {
    let mut members: BTreeMap<usize, Vec<(usize, RawTensor)>> = BTreeMap::new();
    for (spec, tensor) in tensors.into_iter().enumerate() {
        members.entry(group[spec]).or_default().extend(tensor.map(|t| (spec, t)));
    }
    let (mut united, mut retied, mut broken) = (BTreeMap::new(), Vec::new(), Vec::new());
    for (representative, members) in members {
        let Some((first, tensor)) = members.first() else { continue };
        let equal = members.iter().all(|(_, other)| same_bits(&other.data, &tensor.data));
        let chosen = match retie {
            _ if equal => tensor.clone(),
            None => {
                for (spec, other) in members.iter().filter(|(_, other)| !same_bits(&other.data, &tensor.data)) {
                    let (by, name, source) =
                        (difference(&other.data, &tensor.data), &specs[*spec].name, &specs[*first].name);
                    broken.push(format!("{name} differs from {source} by up to {by:.2e}"));
                }
                continue;
            }
            Some(Retie::First) => tensor.clone(),
            Some(Retie::Mean) => RawTensor { data: Arc::new(mean(&members)), ..tensor.clone() },
        };
        let changed = members.iter().filter(|(_, other)| !same_bits(&other.data, &chosen.data));
        retied.extend(changed.map(|(spec, other)| (specs[*spec].name.clone(), difference(&other.data, &chosen.data))));
        united.insert(representative, chosen);
    }
    if broken.is_empty() {
        return Ok((united, retied));
    }
    Err(Error::input(format!("tensors that are declared tied are not equal: {}", broken.join("; ")))
        .hint("make them equal with --retie first or --retie mean, or correct the tie map"))
}

pub(super) fn same_bits(a: &[f32], b: &[f32]) -> bool {
    a.iter().zip(b).all(|(x, y)| x.to_bits() == y.to_bits())
}

fn difference(a: &[f32], b: &[f32]) -> f32 {
    a.iter().zip(b).map(|(x, y)| (x - y).abs()).fold(0.0, f32::max)
}

/// The mean of tied tensors, rounded to the type of the first.
fn mean(members: &[(usize, RawTensor)]) -> Vec<f32> {
    let dtype = members[0].1.dtype;
    let sum = |i: usize| members.iter().map(|(_, tensor)| f64::from(tensor.data[i])).sum::<f64>();
    (0..members[0].1.data.len()).map(|i| dtype.round(sum(i) / members.len() as f64)).collect()
}

/// For every layer the first layer that uses the same stored tensors in all tied roles.
pub(super) fn layer_copies(structure: &Structure, source: &[usize]) -> Vec<usize> {
    let places = places(structure);
    let stored = |layer: usize| -> Vec<Option<usize>> {
        structure.tied_roles.iter().map(|role| places.get(&(layer, &role[..])).map(|&spec| source[spec])).collect()
    };
    let layers: Vec<_> = (0..structure.layers).map(stored).collect();
    let first_equal = |layer: usize| {
        // A layer without tied roles shares nothing, even with another such layer.
        let shares = layers[layer].iter().any(Option::is_some);
        (0..layer).find(|&earlier| shares && layers[earlier] == layers[layer]).unwrap_or(layer)
    };
    (0..structure.layers).map(first_equal).collect()
}

/// The index among the specs of every tied role of every layer.
fn places(structure: &Structure) -> BTreeMap<(usize, &str), usize> {
    let mut places = BTreeMap::new();
    for (index, spec) in structure.specs.iter().enumerate() {
        let role = structure.tied_roles.iter().find(|role| **role == spec.role);
        if let (Some(layer), Some(role)) = (spec.layer, role) {
            places.insert((layer, &role[..]), index);
        }
    }
    places
}
