//! The rows of an artifact, from its container alone: no stream is decoded.

use std::path::Path;

use super::{Inventory, Kind, Row, account, bits_per_weight, by_role};
use crate::artifact::layout::{Header, StreamEntry, codec};
use crate::artifact::open::structure;
use crate::artifact::read::parse;
use crate::artifact::write::{CHECK_BYTES, ROOT_BYTES};
use crate::error::{Error, Result};
use crate::model::Structure;
use crate::nets::{Form, TensorSpec};

/// Where the bytes of an artifact go.
///
/// # Errors
/// Input when the file cannot be read, Verification when it is damaged; the message begins with the path.
pub fn artifact(path: &Path) -> Result<Inventory> {
    let bytes = std::fs::read(path).map_err(|e| Error::io("read", path, e))?;
    inventory(path, &bytes).map_err(|e| e.at(path.display()))
}

fn inventory(path: &Path, bytes: &[u8]) -> Result<Inventory> {
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
    for (stream, range) in header.streams.iter().zip(&parsed.streams) {
        rows.push(stream_row(header, specs, stream, range.start as u64)?);
    }
    let check = size - CHECK_BYTES as u64;
    rows.push(Row::container("root", Some(check - ROOT_BYTES as u64), ROOT_BYTES as u64));
    rows.push(Row::container("checksum", Some(check), CHECK_BYTES as u64));
    account(&rows, size)?;

    let elements = |spec: &TensorSpec| spec.shape.iter().product::<usize>();
    Ok(Inventory {
        path: path.display().to_string(),
        kind: Kind::Artifact,
        arch: config.arch.clone(),
        layers: structure.layers,
        copies: copies(&structure, &header.source),
        names: specs.len(),
        tensors: header.stored(),
        parameters: specs.iter().map(elements).sum(),
        stored: rows.iter().map(|row| row.weights).sum(),
        bytes: size,
        roles: by_role(&rows, size),
        rows,
        undeclared: Vec::new(),
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

fn stream_row(header: &Header, specs: &[TensorSpec], stream: &StreamEntry, offset: u64) -> Result<Row> {
    let uses = |tensor: u32| specs.iter().zip(&header.source).filter(move |(_, s)| **s == tensor).map(|(spec, _)| spec);
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
        many if many.iter().all(|spec| spec.form == Form::Vector) => "vectors".into(),
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
        codec: Some(name_of(stream.codec)),
    })
}

fn name_of(id: u8) -> String {
    match id {
        codec::LOSSLESS => "lossless".into(),
        codec::MATRIX => "matrix".into(),
        codec::VECTORS => "vectors".into(),
        codec::ZERO => "zero".into(),
        codec::SUM => "sum".into(),
        other => format!("codec {other}"),
    }
}
