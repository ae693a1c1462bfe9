//! A whole artifact from its bytes alone, which may be anything: nothing in them is believed.

use std::collections::BTreeSet;

use crate::container::extra::KeptEntry;
use crate::container::header::{Header, StreamEntry, codec};
use crate::container::names::Named;
use crate::container::read::{Parsed, parse_within};
use crate::container::root::{Decoded, root};
use crate::error::{Error, Result};
use crate::limits::Limits;
use crate::parallel;
use crate::streams::{exact, matrix, sum, vectors};

/// A decoded artifact whose tensors hash to the root in the file.
#[derive(Debug, Clone)]
pub struct Artifact {
    pub parsed: Parsed,
    /// The stored tensors, each row-major.
    pub tensors: Vec<Vec<f32>>,
    /// The bytes of the tensors that are no weights, in the order of [`Artifact::kept_tensors`].
    pub kept: Vec<Vec<u8>>,
}

impl Artifact {
    pub fn header(&self) -> &Header {
        &self.parsed.header
    }

    /// The names of the weights, as the file that was packed had them.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.header().labels().map(|(name, _)| name)
    }

    /// Shape and values of the weights of one of [`Artifact::names`]; tied names have the same.
    pub fn tensor(&self, name: &str) -> Option<(&[usize], &[f32])> {
        let header = self.header();
        let (_, at) = header.labels().find(|(label, _)| *label == name)?;
        Some((&header.names[at].shape, &self.tensors[header.source[at] as usize]))
    }

    /// The tensors that are no weights (integers, booleans, tables), each with its bytes: row-major, little-endian.
    pub fn kept_tensors(&self) -> impl Iterator<Item = (&KeptEntry, &[u8])> {
        self.header().extra.kept.iter().zip(self.kept.iter().map(Vec::as_slice))
    }
}

/// Decodes an artifact.
///
/// # Errors
/// Verification; any bytes give tensors that hash to the root in the file, or an error.
pub fn decode(bytes: &[u8]) -> Result<Artifact> {
    decode_within(bytes, &Limits::default())
}

/// Decodes an artifact that keeps to `limits`.
///
/// # Errors
/// As [`decode`], and when the file claims more than the limits allow.
pub fn decode_within(bytes: &[u8], limits: &Limits) -> Result<Artifact> {
    let parsed = parse_within(bytes, limits)?;
    let header = &parsed.header;
    let shapes = shapes_within(header, bytes.len(), limits)?;
    let tensors = streams(header, &shapes, |i| &bytes[parsed.streams[i].clone()])?;
    let hashed: Vec<Decoded> = tensors.iter().zip(&shapes).map(|(data, shape)| Decoded { shape, data }).collect();
    let kept = header.extra.unpack(bytes.len(), |i| &bytes[parsed.kept[i].clone()])?;
    if root(&hashed, &kept, header) != parsed.root {
        return Err(Error::verification("the decoded tensors do not match the hash in the artifact: it is damaged"));
    }
    Ok(Artifact { parsed, tensors, kept })
}

/// The shape of every stored tensor.
///
/// # Errors
/// Verification, when a file of `size` bytes cannot hold so many weights, or tensors of different shapes share one.
pub fn stored_shapes(header: &Header, size: usize) -> Result<Vec<&[usize]>> {
    shapes_within(header, size, &Limits::default())
}

fn shapes_within<'a>(header: &'a Header, size: usize, limits: &Limits) -> Result<Vec<&'a [usize]>> {
    let mut first: Vec<Option<&Named>> = vec![None; header.stored()];
    for (named, s) in header.names.iter().zip(&header.source) {
        let first = first[*s as usize].get_or_insert(named);
        if first.shape != named.shape {
            let Named { name, shape, .. } = named;
            let (other, wanted) = (&first.name, &first.shape);
            return Err(Error::verification(format!("{name} {shape:?} cannot share {other} {wanted:?}")));
        }
    }
    let shapes: Vec<&[usize]> = first.into_iter().flatten().map(|named| &named.shape[..]).collect();
    limits.check_weights(&shapes, size)?;
    Ok(shapes)
}

/// Decodes all streams, those that need no others first; the tensors by their stored index.
///
/// # Errors
/// Verification, when one is damaged in a way that shows.
pub fn streams<'a>(
    header: &Header,
    shapes: &[&[usize]],
    bytes: impl Fn(usize) -> &'a [u8] + Sync,
) -> Result<Vec<Vec<f32>>> {
    let mut tensors: Vec<Vec<f32>> = vec![Vec::new(); shapes.len()];
    for wave in waves(&header.streams, shapes.len()) {
        let decoded = parallel::map(&wave, |&i| {
            let entry = &header.streams[i];
            let needs: Vec<&[f32]> = entry.needs.iter().map(|t| &tensors[*t as usize][..]).collect();
            stream(entry, bytes(i), shapes, &needs)
        });
        for (i, parts) in wave.into_iter().zip(decoded) {
            for (t, data) in header.streams[i].tensors.iter().zip(parts?) {
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
pub fn stream(entry: &StreamEntry, bytes: &[u8], shapes: &[&[usize]], needs: &[&[f32]]) -> Result<Vec<Vec<f32>>> {
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
            exact::decode_group(bytes, &own, dtype)
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
