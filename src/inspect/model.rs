//! The rows of a model's weights files: its distinct tensors, with the bytes that all their copies take there.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use super::{Inventory, InventoryKind, NO_WEIGHTS, Row, account, by_role, matrices, order};
use crate::error::{Error, Result};
use crate::ingest::dtype::Element;
use crate::ingest::{Source, weights};
use crate::model::{Kept, Model, Retie, Structure, bits_per_weight, build};
use crate::nets;
use crate::text::type_name;

/// Where the bytes of a model's weights files go, and the model; `source` is what was read from them.
///
/// # Errors
/// As [`crate::model::build`], and Input when a file cannot be read.
pub fn model(source: Source, retie: Option<Retie>) -> Result<(Inventory, Model)> {
    let path = source.path.clone();
    let total = weights::files(&path).iter().map(|file| size(file)).sum::<Result<u64>>()?;
    let sizes = source.sizes.clone();
    let structure = Structure::of_file(nets::build(&source.config), &source.tensors);
    let order = order(&structure);
    let model = build(source, structure, retie)?;
    let mut rows: Vec<Row> = (0..model.stored.len()).map(|stored| tensor_row(&model, stored, &sizes.own)).collect();
    let tensors: u64 = rows.iter().map(|row| row.bytes).sum();
    let rest = total
        .checked_sub(tensors + sizes.unread)
        .ok_or_else(|| Error::input(format!("{} changed while it was being read", path.display())))?;
    let kept: Vec<Row> = kept_rows(&model).collect();
    let unread = sizes.unread.saturating_sub(kept.iter().map(|row| row.bytes).sum());
    rows.extend(kept);
    if unread > 0 {
        rows.push(Row::container("not read", None, unread));
    }
    rows.push(Row::container(sizes.frame, None, rest));
    account(&rows, total)?;
    let each: Vec<usize> = (0..model.stored.len()).collect();
    let inventory = Inventory {
        path: path.display().to_string(),
        kind: InventoryKind::Model,
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

/// The tensors that are no weights, those of one element type together. What shares its bytes has none of its own.
fn kept_rows(model: &Model) -> impl Iterator<Item = Row> {
    let mut types: Vec<Element> = model.kept.iter().map(|kept| kept.element).collect();
    types.sort_unstable();
    types.dedup();
    types.into_iter().map(|element| {
        let all: Vec<&Kept> = model.kept.iter().filter(|kept| kept.element == element).collect();
        let own = |(i, kept): &(usize, &&Kept)| all[..*i].iter().all(|other| !Arc::ptr_eq(&other.bytes, &kept.bytes));
        let bytes = all.iter().enumerate().filter(own).map(|(_, kept)| kept.bytes.len() as u64).sum();
        Row {
            tensors: all.iter().map(|kept| kept.name.clone()).collect(),
            shape: Some(all[0].shape.clone()).filter(|_| all.len() == 1),
            codec: Some(element.name().into()),
            ..Row::container(NO_WEIGHTS, None, bytes)
        }
    })
}

fn tensor_row(model: &Model, stored: usize, written: &BTreeMap<String, u64>) -> Row {
    let uses = model.uses(stored);
    let mut layers: Vec<usize> = uses.iter().filter_map(|&spec| model.specs[spec].layer).collect();
    layers.dedup();
    let labels = model.labels.iter().filter(|(_, spec)| model.source[*spec] == stored);
    let bytes = labels.filter_map(|(label, _)| written.get(label)).sum();
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
