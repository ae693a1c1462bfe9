//! Opens an artifact as a stranger would: from its bytes alone, believing nothing.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;

use rayon::prelude::*;

use super::layout::{Header, StreamEntry, codec};
use super::read::{Parsed, parse};
use super::root::{Decoded, root};
use crate::code::codec::{lossless, matrix, sum, vectors};
use crate::error::{Error, Result};
use crate::ingest::Config;
use crate::model::{Dtype, Kept, Model, Structure};
use crate::nets;
use crate::nets::TensorSpec;

/// Weights per byte of file beyond which a file is taken for a trap: a real model has at most a few per byte, one that
/// was crushed to nothing some hundreds.
pub(super) const WEIGHTS_PER_BYTE: usize = 1 << 12;
/// Weights beyond which no file is opened: 8 GiB once decoded.
const MOST_WEIGHTS: usize = 1 << 31;

/// A decoded artifact whose tensors were checked against the root in the file.
pub struct Opened {
    pub model: Model,
    pub parsed: Parsed,
    /// Bytes of the file.
    pub size: u64,
}

/// Reads and decodes the artifact at `path`.
///
/// # Errors
/// Input if it cannot be read; Verification if it is damaged or not an artifact. Names the path.
pub fn open(path: &Path) -> Result<Opened> {
    let bytes = std::fs::read(path).map_err(|e| Error::io("read", path, e))?;
    decode(&bytes).map_err(|e| e.at(path.display()))
}

/// Decodes an artifact.
///
/// # Errors
/// Verification; any bytes give a model that hashes to the root in the file, or an error.
pub fn decode(bytes: &[u8]) -> Result<Opened> {
    let parsed = parse(bytes)?;
    let header = &parsed.header;
    let shapes = stored_shapes(header, bytes.len())?;
    let decoded = streams(header, &shapes, |i| &bytes[parsed.streams[i].clone()])?;
    let hashed: Vec<Decoded> = decoded.iter().zip(&shapes).map(|(data, shape)| Decoded { shape, data }).collect();
    let kept = header.extra.unpack(bytes.len(), |i| &bytes[parsed.kept[i].clone()])?;
    if root(&hashed, &kept, header) != parsed.root {
        return Err(Error::verification("the decoded tensors do not match the hash in the artifact: it is damaged"));
    }
    let mut dtypes = vec![Dtype::F32; shapes.len()];
    for entry in &header.streams {
        entry.tensors.iter().zip(&entry.dtypes).for_each(|(t, dtype)| dtypes[*t as usize] = *dtype);
    }
    let (config, structure) = structure(header)?;
    let parts = dtypes.into_iter().zip(decoded.into_iter().map(Arc::new)).collect();
    let source = header.source.iter().map(|s| *s as usize).collect();
    let kept = header.extra.kept.iter().zip(kept).map(|(entry, bytes)| Kept {
        name: entry.name.clone(),
        shape: entry.shape.clone(),
        element: entry.element,
        bytes: Arc::new(bytes),
    });
    let mut model = Model::from_parts(config, structure, parts, source)?.keeping(kept.collect());
    if !header.extra.labels.is_empty() {
        model.labels = header.extra.labels.iter().map(|(label, tensor)| (label.clone(), *tensor as usize)).collect();
    }
    Ok(Opened { model, size: bytes.len() as u64, parsed })
}

/// What a header says of the model: its configuration, and its tensors with the network that computes with them, if
/// the configuration names one that has exactly these tensors.
///
/// # Errors
/// Verification, when the configuration is not one.
pub fn structure(header: &Header) -> Result<(Config, Structure)> {
    let config = match &header.config[..] {
        "" => Config::none(),
        text => Config::from_json(text)
            .map_err(|e| Error::verification(format!("the artifact's configuration is damaged: {}", e.message)))?,
    };
    let same = |(spec, named): (&TensorSpec, &super::names::Named)| {
        spec.name == named.name && spec.shape == named.shape && spec.form == named.form
    };
    let why = match nets::build(&config).map(Structure::from) {
        Ok(structure) => {
            let specs = &structure.specs;
            if specs.len() == header.names.len() && specs.iter().zip(&header.names).all(same) {
                return Ok((config, structure));
            }
            Error::verification(format!(
                "the artifact's tensors are not those of {} with its configuration",
                config.arch
            ))
        }
        Err(why) => why,
    };
    let named = header.names.iter().map(|named| (named.name.clone(), named.shape.clone(), named.form));
    Ok((config, Structure::described(named, why)))
}

/// The shape of every stored tensor, that of its first use.
///
/// # Errors
/// Verification, when a file of `size` bytes cannot hold so many weights.
pub(crate) fn stored_shapes(header: &Header, size: usize) -> Result<Vec<&[usize]>> {
    let mut shapes: Vec<&[usize]> = vec![&[]; header.stored()];
    for (named, s) in header.names.iter().zip(&header.source).rev() {
        shapes[*s as usize] = &named.shape;
    }
    let count = |shape: &&[usize]| shape.iter().try_fold(1usize, |n, d| n.checked_mul(*d));
    let total = shapes.iter().try_fold(0usize, |n, shape| count(shape)?.checked_add(n));
    let limit = size.saturating_mul(WEIGHTS_PER_BYTE).min(MOST_WEIGHTS);
    match total {
        Some(total) if total <= limit => Ok(shapes),
        _ => Err(Error::verification(format!("{size} bytes cannot hold the tensors that the header describes"))),
    }
}

/// Decodes all streams, those that need no others first; the tensors by their stored index.
///
/// # Errors
/// Verification, when one is damaged in a way that shows.
pub(crate) fn streams<'a>(
    header: &Header,
    shapes: &[&[usize]],
    bytes: impl Fn(usize) -> &'a [u8] + Sync,
) -> Result<Vec<Vec<f32>>> {
    let mut tensors: Vec<Vec<f32>> = vec![Vec::new(); shapes.len()];
    for wave in waves(&header.streams, shapes.len()) {
        let decoded: Vec<Vec<Vec<f32>>> = wave
            .par_iter()
            .map(|&i| {
                let entry = &header.streams[i];
                let needs: Vec<&[f32]> = entry.needs.iter().map(|t| &tensors[*t as usize][..]).collect();
                stream(entry, bytes(i), shapes, &needs)
            })
            .collect::<Result<_>>()?;
        for (i, parts) in wave.into_iter().zip(decoded) {
            for (t, data) in header.streams[i].tensors.iter().zip(parts) {
                tensors[*t as usize] = data;
            }
        }
    }
    Ok(tensors)
}

/// Decodes the stored tensors `wanted` and what they start from; the others stay empty. Their hashes are not checked: that
/// takes all of them.
///
/// # Errors
/// Verification, when a stream is damaged in a way that shows.
pub fn some(bytes: &[u8], parsed: &Parsed, wanted: &BTreeSet<usize>) -> Result<Vec<Vec<f32>>> {
    let header = &parsed.header;
    let shapes = stored_shapes(header, bytes.len())?;
    let mut wanted: BTreeSet<usize> = wanted.clone();
    // What a stream needs stands before it.
    let mut kept: Vec<usize> = Vec::new();
    for (i, entry) in header.streams.iter().enumerate().rev() {
        if entry.tensors.iter().any(|t| wanted.contains(&(*t as usize))) {
            wanted.extend(entry.needs.iter().map(|t| *t as usize));
            kept.push(i);
        }
    }
    kept.reverse();
    let streams_of = kept.iter().map(|i| header.streams[*i].clone()).collect();
    let (config, names, source, extra) = Default::default();
    let part = Header { config, names, source, streams: streams_of, extra };
    streams(&part, &shapes, |i| &bytes[parsed.streams[kept[i]].clone()])
}

/// Streams in groups, each of which needs tensors of groups before it only.
fn waves(streams: &[StreamEntry], stored: usize) -> Vec<Vec<usize>> {
    let mut wave_of = vec![0usize; stored];
    let mut waves: Vec<Vec<usize>> = Vec::new();
    for (i, stream) in streams.iter().enumerate() {
        let wave = stream.needs.iter().map(|t| wave_of[*t as usize] + 1).max().unwrap_or(0);
        stream.tensors.iter().for_each(|t| wave_of[*t as usize] = wave);
        waves.resize_with(waves.len().max(wave + 1), Vec::new);
        waves[wave].push(i);
    }
    waves
}

/// The tensors of one stream, each row-major, given the decoded tensors that it needs.
pub(crate) fn stream(
    entry: &StreamEntry,
    bytes: &[u8],
    shapes: &[&[usize]],
    needs: &[&[f32]],
) -> Result<Vec<Vec<f32>>> {
    let shapes_of = |tensors: &[u32]| tensors.iter().map(|t| shapes[*t as usize]).collect::<Vec<_>>();
    let own = shapes_of(&entry.tensors);
    let damaged = || Error::verification(format!("a stream of codec {} is damaged", entry.codec));
    // All but the last dimension of a matrix count as rows.
    let sides = |shape: &[usize]| match shape {
        [rows @ .., cols] if !rows.is_empty() => Ok((rows.iter().product::<usize>(), *cols)),
        _ => Err(damaged()),
    };
    let one = || if own.len() == 1 { sides(own[0]) } else { Err(damaged()) };
    if entry.codec != codec::SUM && !needs.is_empty() {
        return Err(damaged());
    }
    match entry.codec {
        codec::LOSSLESS => {
            let dtype = *entry.dtypes.first().ok_or_else(damaged)?;
            if entry.dtypes.iter().any(|d| *d != dtype) {
                return Err(damaged());
            }
            lossless::decode_group(bytes, &own, dtype)
        }
        codec::MATRIX => {
            let (rows, cols) = one()?;
            Ok(vec![matrix::decode(bytes, rows, cols).ok_or_else(damaged)?])
        }
        codec::VECTORS => {
            let shapes: Vec<(usize, usize)> =
                own.iter().map(|s| (s.iter().product(), s.last().copied().unwrap_or(1))).collect();
            vectors::decode(bytes, &shapes).ok_or_else(damaged)
        }
        codec::ZERO if bytes.is_empty() => Ok(own.iter().map(|s| vec![0.0; s.iter().product()]).collect()),
        codec::ZERO => Err(damaged()),
        codec::SUM => {
            let (rows, cols) = one()?;
            let reference = match (needs, &entry.needs[..]) {
                ([], _) => None,
                ([data], [t]) if shapes[*t as usize] == own[0] => Some(*data),
                _ => return Err(damaged()),
            };
            Ok(vec![sum::decode(bytes, rows, cols, reference).ok_or_else(damaged)?])
        }
        other => Err(Error::verification(format!("the artifact has a stream of unknown codec {other}"))
            .hint("a newer tiepack may read it")),
    }
}
