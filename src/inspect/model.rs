//! The rows of a model's weights files: its distinct tensors, with the bytes that all their copies take there.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;

use super::{Inventory, Kind, Row, account, by_role, matrices, order};
use crate::error::{Error, Result};
use crate::ingest::{RawTensor, Source, weights};
use crate::model::{Model, Retie, Structure, bits_per_weight, build};
use crate::nets;
use crate::text::type_name;

/// Where the bytes of a model's weights files go, and the model; `source` is what was read from them.
///
/// # Errors
/// As [`crate::model::build`], and Input when a file cannot be read.
pub fn model(source: Source, retie: Option<Retie>) -> Result<(Inventory, Model)> {
    let path = source.path.clone();
    let total = weights::files(&path).iter().map(|file| size(file)).sum::<Result<u64>>()?;
    // Taken down before the model is built: what is tied is stored once there, and may be written several times here.
    // Names of one tensor are written once.
    let mut seen = BTreeSet::new();
    let size_of = |tensor: &RawTensor| match seen.insert(Arc::as_ptr(&tensor.data)) {
        true => (tensor.data.len() * tensor.dtype.size()) as u64,
        false => 0,
    };
    let sizes: Vec<u64> = source.tensors.values().map(size_of).collect();
    let written: BTreeMap<String, u64> = source.tensors.keys().cloned().zip(sizes).collect();
    let structure = Structure::of_file(nets::build(&source.config), &source.tensors);
    let order = order(&structure);
    let model = build(source, structure, retie)?;
    let mut rows: Vec<Row> = (0..model.stored.len()).map(|stored| tensor_row(&model, stored, &written)).collect();
    let tensors: u64 = rows.iter().map(|row| row.bytes).sum();
    let rest = total
        .checked_sub(tensors)
        .ok_or_else(|| Error::input(format!("{} changed while it was being read", path.display())))?;
    rows.push(Row::container("safetensors headers", None, rest));
    account(&rows, total)?;
    let each: Vec<usize> = (0..model.stored.len()).collect();
    let inventory = Inventory {
        path: path.display().to_string(),
        kind: Kind::Model,
        arch: model.config.arch.clone(),
        layers: model.layers,
        copies: model.ties.copies.clone(),
        names: model.specs.len(),
        tensors: model.stored.len(),
        parameters: model.source.iter().map(|&stored| model.stored[stored].data.len()).sum(),
        stored: model.stored.iter().map(|stored| stored.data.len()).sum(),
        weights: model.weights(),
        bytes: total,
        bits_per_weight: bits_per_weight(total, model.weights()),
        roles: by_role(&rows, total),
        rows,
        order,
        matrices: matrices(&model.specs, &model.source, &each),
        undeclared: model.ties.found.clone(),
    };
    Ok((inventory, model))
}

fn tensor_row(model: &Model, stored: usize, written: &BTreeMap<String, u64>) -> Row {
    let uses = model.uses(stored);
    let mut layers: Vec<usize> = uses.iter().filter_map(|&spec| model.specs[spec].layer).collect();
    layers.dedup();
    let bytes = uses.iter().filter_map(|&spec| written.get(&model.specs[spec].name)).sum();
    let weights = model.stored[stored].data.len();
    let spec = model.spec(stored);
    Row {
        part: spec.role.clone(),
        layers,
        tensors: vec![spec.name.clone()],
        shape: Some(spec.shape.clone()),
        weights,
        offset: None,
        bytes,
        bits_per_weight: bits_per_weight(bytes, weights),
        codec: Some(type_name(model.stored[stored].dtype).into()),
        made: None,
        indices: None,
        fidelity: None,
    }
}

fn size(path: &Path) -> Result<u64> {
    std::fs::metadata(path).map(|metadata| metadata.len()).map_err(|e| Error::io("read", path, e))
}
