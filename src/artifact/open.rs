//! Opens an artifact as a stranger would: from its bytes alone, believing nothing.

use std::path::Path;
use std::sync::Arc;

use rayon::prelude::*;

use super::layout::{StreamEntry, codec};
use super::read::{Parsed, parse};
use super::root::{Decoded, root};
use crate::code::{lossless, matrix, vectors};
use crate::error::{Error, Result};
use crate::ingest::Config;
use crate::model::{Dtype, Model};
use crate::nets;

/// Weights per byte of file beyond which a file is taken for a trap: a real model has at most a few per byte, one that
/// was crushed to nothing some hundreds.
const WEIGHTS_PER_BYTE: usize = 1 << 12;
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
    let damaged = |e: Error| Error::verification(format!("the artifact describes no known model: {}", e.message));
    let config = Config::from_json(&header.config).map_err(damaged)?;
    let net = nets::build(&config).map_err(damaged)?;
    let specs = net.tensors();
    let source: Vec<usize> = header.source.iter().map(|s| *s as usize).collect();
    if source.len() != specs.len() {
        let (found, wanted) = (source.len(), specs.len());
        return Err(Error::verification(format!("the artifact has {found} tensors, its architecture {wanted}")));
    }
    let mut shapes: Vec<&[usize]> = vec![&[]; header.stored()];
    for (spec, s) in specs.iter().zip(&source).rev() {
        match shapes.get_mut(*s) {
            Some(shape) => *shape = &spec.shape,
            None => return Err(Error::verification(format!("{} uses tensor {s}, which is not stored", spec.name))),
        }
    }
    let total =
        shapes.iter().try_fold(0usize, |n, s| s.iter().try_fold(1usize, |p, d| p.checked_mul(*d))?.checked_add(n));
    let limit = bytes.len().saturating_mul(WEIGHTS_PER_BYTE).min(MOST_WEIGHTS);
    if total.is_none_or(|n| n > limit) {
        return Err(Error::verification(format!(
            "{} bytes cannot hold the model that the header describes",
            bytes.len()
        )));
    }
    let decoded: Vec<Vec<Vec<f32>>> = header
        .streams
        .par_iter()
        .zip(&parsed.streams)
        .map(|(entry, range)| stream(entry, &bytes[range.clone()], &shapes))
        .collect::<Result<_>>()?;
    let mut parts: Vec<(Dtype, Arc<Vec<f32>>)> = vec![(Dtype::F32, Arc::default()); shapes.len()];
    for (entry, tensors) in header.streams.iter().zip(decoded) {
        for ((t, dtype), data) in entry.tensors.iter().zip(&entry.dtypes).zip(tensors) {
            parts[*t as usize] = (*dtype, Arc::new(data));
        }
    }
    let hashed: Vec<Decoded> = parts.iter().zip(&shapes).map(|((_, data), shape)| Decoded { shape, data }).collect();
    if root(&hashed, &header.source, &header.config) != parsed.root {
        return Err(Error::verification("the decoded tensors do not match the hash in the artifact: it is damaged"));
    }
    let model = Model::from_parts(config, net.clone(), parts, source)?;
    Ok(Opened { model, size: bytes.len() as u64, parsed })
}

/// The tensors of one stream, each row-major.
pub(crate) fn stream(entry: &StreamEntry, bytes: &[u8], shapes: &[&[usize]]) -> Result<Vec<Vec<f32>>> {
    let shapes: Vec<&[usize]> = entry.tensors.iter().map(|t| shapes[*t as usize]).collect();
    let damaged = || Error::verification(format!("a stream of codec {} is damaged", entry.codec));
    if !entry.params.is_empty() {
        return Err(damaged());
    }
    match entry.codec {
        codec::LOSSLESS => {
            let dtype = *entry.dtypes.first().ok_or_else(damaged)?;
            if entry.dtypes.iter().any(|d| *d != dtype) {
                return Err(damaged());
            }
            lossless::decode_group(bytes, &shapes, dtype)
        }
        codec::MATRIX => match shapes[..] {
            [&[rows, cols]] => Ok(vec![matrix::decode(bytes, rows, cols).ok_or_else(damaged)?]),
            _ => Err(damaged()),
        },
        codec::VECTORS => {
            let shapes: Vec<(usize, usize)> =
                shapes.iter().map(|s| (s.iter().product(), s.last().copied().unwrap_or(1))).collect();
            vectors::decode(bytes, &shapes).ok_or_else(damaged)
        }
        other => Err(Error::verification(format!("the artifact has a stream of unknown codec {other}"))
            .hint("a newer tiepack may read it")),
    }
}
