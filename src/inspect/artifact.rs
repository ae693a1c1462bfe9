//! The rows of an artifact, from its container alone: no stream is decoded.

use std::ops::Range;
use std::path::Path;

use rayon::prelude::*;
use tiepack_format::container::{CHECK_BYTES, ROOT_BYTES};

use super::{Inventory, InventoryKind, NO_WEIGHTS, Row, account, by_role, matrices, order};
use crate::artifact::construction::{Construction, construction, index_statistics};
use crate::artifact::kept::element;
use crate::artifact::layout::{Header, StreamEntry, codec};
use crate::artifact::open::{stored_shapes, structure};
use crate::artifact::read::parse;
use crate::error::{Error, Result};
use crate::model::{Structure, bits_per_weight};
use crate::nets::TensorSpec;

/// Depth to which an artifact is inspected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Depth {
    /// The header, and the first bytes of every stream.
    Container,
    /// Indices decoded as well.
    Indices,
}

/// Bytes of an artifact by purpose.
///
/// # Errors
/// Input when the file cannot be read, Verification when it is damaged; the message begins with the path.
pub fn artifact(path: &Path, depth: Depth) -> Result<Inventory> {
    let bytes = std::fs::read(path).map_err(|e| Error::io("read", path, e))?;
    of_bytes(path, &bytes, depth).map_err(|e| e.at(path.display()))
}

/// The same of a file that has been read.
///
/// # Errors
/// Verification when it is damaged.
pub fn of_bytes(path: &Path, bytes: &[u8], depth: Depth) -> Result<Inventory> {
    let parsed = parse(bytes)?;
    let header = &parsed.header;
    let (config, structure) = structure(header)?;
    let specs = &structure.specs;

    let size = bytes.len() as u64;
    let front = parsed.header_range.start as u64;
    let mut rows = vec![
        Row::container("magic and lengths", Some(0), front),
        Row::container("header", Some(front), parsed.header_range.len() as u64),
    ];
    let mut row_of = vec![0; header.stored()];
    for (stream, range) in header.streams.iter().zip(&parsed.streams) {
        stream.tensors.iter().for_each(|t| row_of[*t as usize] = rows.len());
        let mut row = stream_row(header, specs, stream, range.start as u64)?;
        let Construction { recipe, log2_step } = construction(stream, &bytes[range.clone()])?;
        let named = |from| uses(header, specs, from).next().map(|spec| spec.name.clone()).unwrap_or_default();
        row.made = Some(Construction { recipe: recipe.refer(named), log2_step });
        rows.push(row);
    }
    if depth == Depth::Indices {
        let shapes = stored_shapes(header, bytes.len())?;
        let statistics = header.streams.par_iter().zip(&parsed.streams).map(|(stream, range)| {
            let shape = stream.tensors.first().map_or(&[][..], |t| shapes[*t as usize]);
            let cols = shape.last().copied().unwrap_or(1);
            let sides = (shape.iter().product::<usize>() / cols.max(1), cols);
            index_statistics(stream, &bytes[range.clone()], sides)
        });
        let first = rows.len() - header.streams.len();
        let statistics = statistics.collect::<Result<Vec<_>>>()?;
        rows[first..].iter_mut().zip(statistics).for_each(|(row, statistics)| row.indices = statistics);
    }
    rows.extend(kept_rows(header, &parsed.kept));
    let check = size - CHECK_BYTES as u64;
    rows.push(Row::container("root", Some(check - ROOT_BYTES as u64), ROOT_BYTES as u64));
    rows.push(Row::container("checksum", Some(check), CHECK_BYTES as u64));
    account(&rows, size)?;

    let elements = |spec: &TensorSpec| spec.shape.iter().product::<usize>();
    let firsts = (0..header.stored()).filter_map(|tensor| uses(header, specs, tensor as u32).next());
    let weights = firsts.filter(|spec| spec.is_matrix()).map(elements).sum();
    Ok(Inventory {
        path: path.display().to_string(),
        kind: InventoryKind::Artifact,
        arch: config.arch.clone(),
        layers: structure.layers,
        copies: copies(&structure, &header.source),
        order: order(&structure),
        matrices: matrices(specs, &header.source.iter().map(|s| *s as usize).collect::<Vec<_>>(), &row_of),
        names: specs.len(),
        tensors: header.stored(),
        parameters: specs.iter().map(elements).sum(),
        stored: rows.iter().map(|row| row.weights).sum(),
        weights,
        bytes: size,
        bits_per_weight: bits_per_weight(size, weights),
        roles: by_role(&rows, size),
        rows,
        undeclared: Vec::new(),
    })
}

/// Where the bytes of a bundle of `size` bytes go, which brings `artifact`, or, if it is `bare`, only the streams of it.
///
/// # Errors
/// Verification when it is damaged.
pub fn of_bundle(path: &Path, artifact: &[u8], (size, bare): (u64, bool), depth: Depth) -> Result<Inventory> {
    let mut inventory = of_bytes(path, artifact, depth)?;
    if bare {
        // Two rows of the container stand before the streams.
        inventory.rows.retain(|row| row.codec.is_some());
        inventory.matrices.iter_mut().for_each(|matrix| matrix.row -= 2);
    }
    // Where they lie in the script is its own affair.
    inventory.rows.iter_mut().for_each(|row| row.offset = None);
    let brought: u64 = inventory.rows.iter().map(|row| row.bytes).sum();
    let rest = size.saturating_sub(brought);
    inventory.rows.push(Row::container(if bare { "script and decoder" } else { "script and loader" }, None, rest));
    account(&inventory.rows, size)?;
    let roles = by_role(&inventory.rows, size);
    Ok(Inventory { kind: InventoryKind::Bundle, bytes: size, roles, ..inventory })
}

/// The streams of tensors that are no weights.
fn kept_rows<'a>(header: &'a Header, ranges: &'a [Range<usize>]) -> impl Iterator<Item = Row> + 'a {
    header.extra.streams().zip(ranges).map(|(run, range)| Row {
        tensors: run.iter().map(|kept| kept.name.clone()).collect(),
        shape: Some(run[0].shape.clone()).filter(|_| run.len() == 1),
        codec: Some(element(&run[0]).name().into()),
        ..Row::container(NO_WEIGHTS, Some(range.start as u64), range.len() as u64)
    })
}

/// For every layer the first layer whose tied roles are all the same stored tensors.
fn copies(structure: &Structure, source: &[u32]) -> Vec<usize> {
    let shared = |layer: usize| -> Vec<(&str, u32)> {
        let of_layer = structure.specs.iter().zip(source).filter(|(spec, _)| spec.layer == Some(layer));
        let tied = of_layer.filter(|(spec, _)| structure.tied_roles.contains(&spec.role));
        tied.map(|(spec, stored)| (&spec.role[..], *stored)).collect()
    };
    let layers: Vec<_> = (0..structure.layers).map(shared).collect();
    let first = |layer: usize| (0..layer).find(|&l| !layers[l].is_empty() && layers[l] == layers[layer]);
    (0..structure.layers).map(|layer| first(layer).unwrap_or(layer)).collect()
}

/// The specs that use a stored tensor, in canonical order.
fn uses<'a>(header: &'a Header, specs: &'a [TensorSpec], tensor: u32) -> impl Iterator<Item = &'a TensorSpec> {
    specs.iter().zip(&header.source).filter(move |(_, s)| **s == tensor).map(|(spec, _)| spec)
}

fn stream_row(header: &Header, specs: &[TensorSpec], stream: &StreamEntry, offset: u64) -> Result<Row> {
    let uses = |tensor: u32| uses(header, specs, tensor);
    let mut firsts = Vec::with_capacity(stream.tensors.len());
    for &tensor in &stream.tensors {
        let first = uses(tensor).next();
        firsts.push(first.ok_or_else(|| Error::verification(format!("stored tensor {tensor} has no name")))?);
    }
    let mut layers: Vec<usize> = stream.tensors.iter().flat_map(|&t| uses(t)).filter_map(|spec| spec.layer).collect();
    layers.sort_unstable();
    layers.dedup();
    let weights = firsts.iter().map(|spec| spec.shape.iter().product::<usize>()).sum();
    let part = match &firsts[..] {
        [one] => one.role.clone(),
        many if many.iter().all(|spec| !spec.is_matrix()) => "vectors".into(),
        many if many.iter().all(|spec| spec.role == many[0].role) => many[0].role.clone(),
        _ => "several tensors".into(),
    };
    Ok(Row {
        part,
        layers,
        tensors: firsts.iter().map(|spec| spec.name.clone()).collect(),
        shape: firsts.first().filter(|_| firsts.len() == 1).map(|spec| spec.shape.clone()),
        weights,
        offset: Some(offset),
        bytes: stream.len,
        bits_per_weight: bits_per_weight(stream.len, weights),
        codec: Some(codec::name(stream.codec)),
        made: None,
        indices: None,
        fidelity: None,
    })
}
