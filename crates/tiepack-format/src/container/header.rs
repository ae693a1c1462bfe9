//! The header of an artifact, and its bytes: `formats/artifact.md`, section "Header".

use super::extra::Extra;
use super::names::{Named, put_names, take_names};
use crate::error::{Error, Result};
use crate::limits::Limits;
use crate::tensor::Dtype;
use crate::varint::{Reader, put};

/// The registry of stream codecs. An id, once given, keeps its meaning.
pub mod codec {
    /// One or more tensors, bit for bit ([`crate::streams::exact`]).
    pub const LOSSLESS: u8 = 0;
    /// One matrix on a grid ([`crate::streams::matrix`]).
    pub const MATRIX: u8 = 1;
    /// Several vectors on uniform grids ([`crate::streams::vectors`]).
    pub const VECTORS: u8 = 2;
    /// One or more tensors of zeros; the stream is empty.
    pub const ZERO: u8 = 3;
    /// One matrix as a multiple of another one plus a low-rank term plus a residual ([`crate::streams::sum`]).
    pub const SUM: u8 = 4;

    /// A codec's name.
    pub fn name(id: u8) -> String {
        match id {
            LOSSLESS => "lossless".into(),
            MATRIX => "matrix".into(),
            VECTORS => "vectors".into(),
            ZERO => "zero".into(),
            SUM => "sum".into(),
            other => format!("codec {other}"),
        }
    }
}

/// One stream: a run of bytes that decodes to one or more stored tensors.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StreamEntry {
    /// How to decode it, see [`codec`].
    pub codec: u8,
    /// Stored tensors that it decodes to, ascending.
    pub tensors: Vec<u32>,
    /// The element type that each of `tensors` had in the model, for unpacking.
    pub dtypes: Vec<Dtype>,
    /// Stored tensors of earlier streams that must be decoded before it, in the order in which the codec wants them.
    pub needs: Vec<u32>,
    /// Bytes.
    pub len: u64,
}

/// Everything in an artifact but the streams and the hashes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Header {
    /// The model's configuration as compact JSON; empty: it has none.
    pub config: String,
    /// Every tensor of the model, in canonical order.
    pub names: Vec<Named>,
    /// For each of `names` the stored tensor that it is. Stored tensors are numbered in the order of their first use;
    /// ties repeat a number.
    pub source: Vec<u32>,
    /// In the order of the file. Every stored tensor is in exactly one.
    pub streams: Vec<StreamEntry>,
    /// Names that the file had, and tensors that are no weights.
    pub extra: Extra,
}

impl Header {
    /// Number of stored tensors.
    pub fn stored(&self) -> usize {
        self.source.iter().max().map_or(0, |&m| m as usize + 1)
    }

    /// Every name that the file which was packed had for a tensor, with the tensor's place in `names`: the labels, or where
    /// there are none the names. Several may be of one tensor; kept tensors are not among them.
    pub fn labels(&self) -> impl Iterator<Item = (&str, usize)> {
        let labels = &self.extra.labels;
        let names = self.names.iter().enumerate().map(|(i, named)| (&named.name[..], i));
        let names = names.filter(|_| labels.is_empty());
        labels.iter().map(|(label, tensor)| (&label[..], *tensor as usize)).chain(names)
    }

    /// The header's bytes before packing.
    ///
    /// # Errors
    /// Compute, when the header breaks a rule of the format: it would write an artifact that nobody can read.
    pub fn to_bytes(&self) -> Result<Vec<u8>> {
        if self.names.len() != self.source.len() {
            let (names, sources) = (self.names.len(), self.source.len());
            return Err(Error::compute(format!("{names} tensors have names, {sources} are in the tie map")));
        }
        let mut out = Vec::new();
        put(&mut out, self.extra.flags());
        put(&mut out, self.config.len() as u64);
        out.extend_from_slice(self.config.as_bytes());
        put_names(&mut out, &self.names)?;
        let stored = put_source(&mut out, &self.source)?;
        put_streams(&mut out, &self.streams, stored)?;
        put_dtypes(&mut out, &self.streams)?;
        put_needs(&mut out, &self.streams, stored)?;
        for stream in &self.streams {
            put(&mut out, stream.len);
        }
        self.extra.put(&mut out, &self.names)?;
        let (takes, most) = (out.len(), Limits::default().header);
        if takes > most {
            return Err(Error::compute(format!("the header takes {takes} bytes, the format allows {most}")));
        }
        Ok(out)
    }

    /// Reads what [`Header::to_bytes`] wrote.
    ///
    /// # Errors
    /// Verification, on anything that is not a header.
    pub fn from_bytes(bytes: &[u8]) -> Result<Header> {
        Self::from_bytes_within(bytes, &Limits::default())
    }

    /// Reads a header that keeps to `limits`.
    ///
    /// # Errors
    /// As [`Header::from_bytes`].
    pub fn from_bytes_within(bytes: &[u8], limits: &Limits) -> Result<Header> {
        let r = &mut Reader::new(bytes);
        let flags = r.varint("flags")?;
        let n = r.within(0, limits.header, "length of the config")?;
        let config = String::from_utf8(r.take(n, "config")?.to_vec())
            .map_err(|_| Error::verification("the config is not UTF-8 text"))?;
        let names = take_names(r, limits)?;
        let source = take_source(r, names.len())?;
        let stored = source.iter().max().map_or(0, |&m| m as usize + 1);
        let mut streams = take_streams(r, stored)?;
        take_dtypes(r, &mut streams)?;
        take_needs(r, &mut streams, stored)?;
        for stream in &mut streams {
            stream.len = r.varint("length of a stream")?;
        }
        let extra = Extra::take(r, flags, &names, limits)?;
        r.finish("the header")?;
        Ok(Header { config, names, source, streams, extra })
    }
}

/// Writes the map as a run of new tensors, a run copied from `distance` places before, a run of new ones, and so on: a
/// layer tied as a whole is one copy. Returns the number of stored tensors.
fn put_source(out: &mut Vec<u8>, source: &[u32]) -> Result<usize> {
    let (mut at, mut stored) = (0, 0);
    while at < source.len() {
        let fresh = source[at..].iter().enumerate().take_while(|&(k, &s)| s as usize == stored + k).count();
        put(out, fresh as u64);
        at += fresh;
        stored += fresh;
        if at == source.len() {
            break;
        }
        // The longest copy, and of equally long ones the nearest.
        let (mut length, mut distance) = (0, 0);
        for d in 1..=at {
            let same = source[at..].iter().zip(&source[at - d..]).take_while(|(a, b)| a == b).count();
            if same > length {
                (length, distance) = (same, d);
            }
        }
        if length == 0 {
            return Err(Error::compute(format!("tensor {at}: stored tensors are not numbered by first use")));
        }
        put(out, length as u64);
        put(out, distance as u64);
        at += length;
    }
    Ok(stored)
}

fn take_source(r: &mut Reader, n: usize) -> Result<Vec<u32>> {
    let mut source: Vec<u32> = Vec::with_capacity(n);
    let mut stored = 0;
    while source.len() < n {
        let fresh = r.within(0, n - source.len(), "run of stored tensors")? as u32;
        source.extend(stored..stored + fresh);
        stored += fresh;
        if source.len() == n {
            break;
        }
        let length = r.within(1, n - source.len(), "run of tied tensors")?;
        let distance = r.within(1, source.len(), "distance of a tie")?;
        // One by one: a run may copy from itself.
        for _ in 0..length {
            source.push(source[source.len() - distance]);
        }
    }
    Ok(source)
}

/// Says which tensors each stream holds. Most streams hold one, the first that no stream before holds: a run of those
/// with equal codec costs two or three bytes. Others list what they take of the tensors still free.
fn put_streams(out: &mut Vec<u8>, streams: &[StreamEntry], stored: usize) -> Result<()> {
    put(out, streams.len() as u64);
    let mut free: Vec<u32> = (0..stored as u32).collect();
    let mut at = 0;
    while at < streams.len() {
        let codec = streams[at].codec;
        let plain = |(s, t): &(&StreamEntry, &u32)| s.codec == codec && s.tensors == [**t];
        let run = streams[at..].iter().zip(&free).take_while(plain).count();
        if run > 0 {
            put(out, u64::from(codec) * 2);
            put(out, run as u64);
            free.drain(..run);
            at += run;
        } else {
            put(out, u64::from(codec) * 2 + 1);
            put_taken(out, &streams[at].tensors, &mut free).map_err(|e| e.at(format!("stream {at}")))?;
            at += 1;
        }
    }
    match free.first() {
        None => Ok(()),
        Some(t) => Err(Error::compute(format!("stored tensor {t} is in no stream"))),
    }
}

/// Writes `tensors` as runs (skip so many of the free tensors, take so many), and takes them out of `free`.
fn put_taken(out: &mut Vec<u8>, tensors: &[u32], free: &mut Vec<u32>) -> Result<()> {
    let mut runs: Vec<(usize, usize)> = Vec::new();
    let mut at = 0;
    for t in tensors {
        let skip = free[at..].binary_search(t).map_err(|_| {
            Error::compute(format!("stored tensor {t} is out of order, in two streams, or does not exist"))
        })?;
        match runs.last_mut() {
            Some((_, take)) if skip == 0 => *take += 1,
            _ => runs.push((skip, 1)),
        }
        at += skip;
        free.remove(at);
    }
    if runs.is_empty() {
        return Err(Error::compute("it holds no tensor"));
    }
    put(out, runs.len() as u64);
    for (skip, take) in runs {
        put(out, skip as u64);
        put(out, take as u64);
    }
    Ok(())
}

fn take_streams(r: &mut Reader, stored: usize) -> Result<Vec<StreamEntry>> {
    let n = r.within(0, stored, "number of streams")?;
    let mut free: Vec<u32> = (0..stored as u32).collect();
    let mut streams = Vec::with_capacity(n);
    let entry = |codec, tensors| StreamEntry { codec, tensors, dtypes: vec![], needs: vec![], len: 0 };
    while streams.len() < n {
        let tag = r.within(0, 2 * usize::from(u8::MAX) + 1, "codec of a stream")?;
        let codec = (tag / 2) as u8;
        if tag % 2 == 0 {
            let run = r.within(1, (n - streams.len()).min(free.len()), "run of streams")?;
            streams.extend(free.drain(..run).map(|t| entry(codec, vec![t])));
        } else {
            let runs = r.within(1, free.len(), "number of runs of a stream's tensors")?;
            let (mut at, mut tensors) = (0, Vec::new());
            for _ in 0..runs {
                at += r.within(0, free.len() - at, "tensors that a stream skips")?;
                let take = r.within(1, free.len() - at, "tensors that a stream takes")?;
                tensors.extend(free.drain(at..at + take));
            }
            streams.push(entry(codec, tensors));
        }
    }
    match free.first() {
        None => Ok(streams),
        Some(t) => Err(Error::verification(format!("stored tensor {t} is in no stream"))),
    }
}

/// Element types of all tensors, stream by stream, as runs.
fn put_dtypes(out: &mut Vec<u8>, streams: &[StreamEntry]) -> Result<()> {
    if let Some(i) = streams.iter().position(|s| s.dtypes.len() != s.tensors.len()) {
        return Err(Error::compute(format!("stream {i}: as many element types as tensors are needed")));
    }
    let all: Vec<Dtype> = streams.iter().flat_map(|s| s.dtypes.iter().copied()).collect();
    for run in all.chunk_by(|a, b| a == b) {
        put(
            out,
            match run[0] {
                Dtype::F32 => 0,
                Dtype::F16 => 1,
                Dtype::Bf16 => 2,
            },
        );
        put(out, run.len() as u64);
    }
    Ok(())
}

fn take_dtypes(r: &mut Reader, streams: &mut [StreamEntry]) -> Result<()> {
    let total: usize = streams.iter().map(|s| s.tensors.len()).sum();
    let mut all = Vec::with_capacity(total);
    while all.len() < total {
        let dtype = [Dtype::F32, Dtype::F16, Dtype::Bf16][r.within(0, 2, "element type")?];
        let run = r.within(1, total - all.len(), "run of element types")?;
        all.resize(all.len() + run, dtype);
    }
    let mut rest = all.into_iter();
    for stream in streams {
        stream.dtypes = rest.by_ref().take(stream.tensors.len()).collect();
    }
    Ok(())
}

/// Which streams need tensors of earlier ones, and which: most need none.
fn put_needs(out: &mut Vec<u8>, streams: &[StreamEntry], stored: usize) -> Result<()> {
    let needing = streams.iter().enumerate().filter(|(_, stream)| !stream.needs.is_empty());
    put(out, needing.clone().count() as u64);
    let (mut next, mut decoded) = (0, vec![false; stored]);
    for (i, stream) in needing {
        for done in &streams[next..i] {
            done.tensors.iter().for_each(|t| decoded[*t as usize] = true);
        }
        put(out, (i - next) as u64);
        next = i;
        put(out, stream.needs.len() as u64);
        for need in &stream.needs {
            if !decoded.get(*need as usize).is_some_and(|decoded| *decoded) {
                return Err(Error::compute(format!("stream {i} needs tensor {need}, which no earlier stream holds")));
            }
            put(out, u64::from(*need));
        }
    }
    Ok(())
}

fn take_needs(r: &mut Reader, streams: &mut [StreamEntry], stored: usize) -> Result<()> {
    let count = r.within(0, streams.len(), "number of streams that need others")?;
    let (mut next, mut decoded) = (0, vec![false; stored]);
    for k in 0..count {
        let least = usize::from(k > 0);
        let last = streams.len().saturating_sub(1 + next);
        let i = next + r.within(least, last.max(least), "distance of a stream that needs others")?;
        if i >= streams.len() {
            return Err(Error::verification(format!("stream {i} needs others, there are only {}", streams.len())));
        }
        for done in &streams[next..i] {
            done.tensors.iter().for_each(|t| decoded[*t as usize] = true);
        }
        next = i;
        let needs = r.within(1, stored, "number of tensors that a stream needs")?;
        for _ in 0..needs {
            let need = r.within(0, stored - 1, "tensor that a stream needs")?;
            if !decoded[need] {
                return Err(Error::verification(format!(
                    "stream {i} needs tensor {need}, which no earlier stream holds"
                )));
            }
            streams[i].needs.push(need as u32);
        }
    }
    Ok(())
}
