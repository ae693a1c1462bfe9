//! A bundle taken apart again: the artifact in it, or, where the small decoder is embedded, one with the same streams.
//!
//! Where code and weights lie, the text that starts a bundle says; what the streams decode to, the facts that
//! [`Contents`](super::Contents) has written for the decoder.

use std::io::{Cursor, Read};
use std::path::Path;

use lzma_rust2::LzmaReader;
use serde::de::DeserializeOwned;
use sha2::{Digest, Sha256};
use tiepack_format::container::MAGIC;
use zip::ZipArchive;

use super::BLOB_NAME;
use crate::artifact::extra::Extra;
use crate::artifact::layout::{Header, StreamEntry, codec};
use crate::artifact::names::Named;
use crate::artifact::open::{stored_shapes, streams};
use crate::artifact::root::{Decoded, root};
use crate::artifact::write::assemble;
use crate::error::{Error, Result};
use crate::model::{Dtype, Model};
use crate::nets::Form;

/// What every start says, in all forms of a bundle.
const TELLTALE: &str = "lzma.decompress(";
/// What stands before the length of the code.
const CODE: &str = "lzma.decompress(d[:";
/// Where the telltale may be: the first and the last so many bytes.
const EDGE: usize = 1 << 16;
/// Most bytes of the code once unpacked.
const MAX_CODE: u64 = 1 << 26;
/// Most memory of the unpacker, in units of 1,024 bytes.
const MAX_MEMORY: u32 = 1 << 17;

/// The content of a bundle.
pub struct Brought {
    /// Bytes of the script and of the file with its weights, if they are apart.
    pub bytes: u64,
    /// The artifact that it brings, or its streams.
    weights: Vec<u8>,
    /// `None`: the decoder is imported and reads the artifact as it is.
    facts: Option<Facts>,
}

/// What the small decoder is told of the streams.
struct Facts {
    entries: Vec<Entry>,
    shapes: Vec<Vec<usize>>,
    /// Names with the tensor of each.
    names: Vec<(String, usize)>,
}

struct Entry {
    codec: u8,
    tensors: usize,
    dtype: Dtype,
    need: Option<usize>,
    len: usize,
}

/// Reads a bundle; `None`: the file is none.
///
/// # Errors
/// Input, when it or the weights beside it cannot be read; Verification, when it is damaged.
pub fn read(path: &Path) -> Result<Option<Brought>> {
    let bytes = std::fs::read(path).map_err(|e| Error::io("read", path, e))?;
    let edges = [&bytes[..bytes.len().min(EDGE)], &bytes[bytes.len().saturating_sub(EDGE)..]];
    let telltale = |edge: &&[u8]| edge.windows(TELLTALE.len()).any(|part| part == TELLTALE.as_bytes());
    if bytes.starts_with(&MAGIC[..3]) || !edges.iter().any(telltale) {
        return Ok(None);
    }
    let blob = path.with_file_name(BLOB_NAME);
    let Some((start, held)) = forms(&bytes) else { return Ok(None) };
    if number(&start, CODE).is_none() {
        return Err(Error::input(format!("{}: a bundle of a form that is not read", path.display()))
            .hint("inspect and verify the artifact that it was made of"));
    }
    let apart = match start.contains(BLOB_NAME) {
        true => std::fs::read(&blob).map_err(|e| Error::io("read", &blob, e))?,
        false => Vec::new(),
    };
    let total = (bytes.len() + apart.len()) as u64;
    let damaged = || Error::verification(format!("{}: the bundle is damaged", path.display()));
    take(&start, held, &apart, total).ok_or_else(damaged).map(Some)
}

/// What a file holds that is a script with a zip archive behind it, or a text with a comment at its end: the text that starts it
/// and the bytes that are not text.
fn forms(bytes: &[u8]) -> Option<(String, Held)> {
    if let Ok(text) = std::str::from_utf8(bytes) {
        let (start, comment) = text.split_once("\n#").unwrap_or((text, ""));
        return Some((start.to_string(), Held::Comment(comment.trim_end_matches('\n').as_bytes().to_vec())));
    }
    let mut start = String::new();
    let mut archive = ZipArchive::new(Cursor::new(bytes)).ok()?;
    archive.by_name("__main__.py").ok()?.take(EDGE as u64).read_to_string(&mut start).ok()?;
    let length = number(&start, "read(")?;
    Some((start, Held::Plain(bytes.get(..length)?.to_vec())))
}

/// Bytes that are not text.
enum Held {
    Plain(Vec<u8>),
    /// As text: seven digits of 116 for six bytes.
    Comment(Vec<u8>),
}

fn take(start: &str, held: Held, apart: &[u8], bytes: u64) -> Option<Brought> {
    let (written, mut held) = match held {
        Held::Plain(held) => (held.clone(), held),
        Held::Comment(comment) => (comment.clone(), of_base116(&comment)?),
    };
    if let Some(length) = number(start, "tobytes()[:") {
        held.truncate(length);
    }
    held.extend_from_slice(apart);
    let hash = start.split_once("!=\"")?.1.split_once('"')?.0;
    let fits = |parts: &[&[u8]]| hex(&Sha256::digest(parts.concat())).starts_with(hash);
    if hash.len() < 16 || !fits(&[&written]) && !fits(&[&written, apart]) {
        return None;
    }
    let code = number(start, CODE)?;
    let weights = held.get(code..)?.to_vec();
    if weights.starts_with(&MAGIC[..3]) {
        return Some(Brought { bytes, weights, facts: None });
    }
    let mut python = Vec::new();
    let code = LzmaReader::new_mem_limit(&held[..code], MAX_MEMORY, None).ok()?;
    code.take(MAX_CODE).read_to_end(&mut python).ok()?;
    let python = python.split(|byte| *byte == 0).next()?;
    let facts = facts(std::str::from_utf8(python).ok()?)?;
    (facts.entries.iter().map(|entry| entry.len).sum::<usize>() == weights.len()).then_some(Brought {
        bytes,
        weights,
        facts: Some(facts),
    })
}

/// The first number that follows `before`.
fn number(text: &str, before: &str) -> Option<usize> {
    let rest = text.split_once(before)?.1;
    rest[..rest.find(|c: char| !c.is_ascii_digit())?].parse().ok()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// What was written as seven digits of 116 for six bytes, the lowest first.
fn of_base116(text: &[u8]) -> Option<Vec<u8>> {
    let signs: Vec<u8> = (1..7).chain([9]).chain(16..26).chain(28..127).collect();
    let mut out = Vec::with_capacity(text.len());
    for digits in text.chunks(7) {
        let digit = |sign: &u8| signs.iter().position(|known| known == sign).map(|digit| digit as u64);
        let digits: Vec<u64> = digits.iter().map(digit).collect::<Option<_>>()?;
        let number =
            digits.iter().rev().try_fold(0u64, |number, digit| number.checked_mul(116)?.checked_add(*digit))?;
        out.extend_from_slice(&number.to_le_bytes()[..6]);
    }
    Some(out)
}

/// The facts that stand at the beginning of the code.
fn facts(python: &str) -> Option<Facts> {
    fn line<T: DeserializeOwned>(python: &str, name: &str, around: (&str, &str)) -> Option<T> {
        let text = python.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix('='))?;
        serde_json::from_str(&format!("[{}]", text.strip_prefix(around.0)?.strip_suffix(around.1)?)).ok()
    }
    let plain = ("[", "]");
    let columns: [Vec<i64>; 5] = line(python, "ENTRIES", ("[*zip(", ")]"))?;
    let shapes: Vec<Vec<usize>> = line(python, "SHAPES", plain)?;
    let steps: Vec<i64> = line(python, "ORDER", plain)?;
    let names: Vec<String> = line(python, "NAMES", plain)?;
    if columns.iter().any(|column| column.len() != columns[0].len()) {
        return None;
    }
    let dtypes = [Dtype::F32, Dtype::F16, Dtype::Bf16];
    let entry = |i: usize| {
        Some(Entry {
            codec: columns[0][i].try_into().ok()?,
            tensors: columns[1][i].try_into().ok()?,
            dtype: *dtypes.get(usize::try_from(columns[2][i]).ok()?)?,
            need: usize::try_from(columns[3][i]).ok(),
            len: columns[4][i].try_into().ok()?,
        })
    };
    let entries = (0..columns[0].len()).map(entry).collect::<Option<Vec<_>>>()?;
    let held = entries.iter().try_fold(0usize, |sum, entry| sum.checked_add(entry.tensors));
    let mut named = Vec::with_capacity(steps.len());
    let mut tensor = 0i64;
    for (i, step) in steps.iter().enumerate() {
        tensor = tensor.checked_add(*step)?;
        let at = usize::try_from(tensor).ok().filter(|at| *at < shapes.len())?;
        // Where names are left out tensors are told by their place.
        named.push((names.get(i).cloned().unwrap_or_else(|| format!("{i:05}")), at));
    }
    (held == Some(shapes.len()) && (names.is_empty() || names.len() == named.len())).then_some(Facts {
        entries,
        shapes,
        names: named,
    })
}

impl Brought {
    /// Whether the streams are all that there is of the artifact: no configuration, no hashes.
    pub fn is_bare(&self) -> bool {
        self.facts.is_some()
    }

    /// The artifact, or one with the same streams: under the names of the bundle, or as the artifact of `model`, of which a bundle
    /// keeps neither configuration nor order.
    ///
    /// # Errors
    /// Verification, when a stream is damaged or the tensors are not those of the model.
    pub fn artifact(&self, model: Option<&Model>) -> Result<Vec<u8>> {
        let Some(facts) = &self.facts else { return Ok(self.weights.clone()) };
        let names = match model {
            Some(model) => facts.named_by(model)?,
            None => {
                let mut names = facts.names.clone();
                names.sort_by_key(|(_, tensor)| *tensor);
                names
            }
        };
        let form = |name: &str, shape: &[usize]| {
            let spec = model.and_then(|model| model.specs.iter().find(|spec| spec.name == name));
            spec.map_or(if shape.len() > 1 { Form::Matrix } else { Form::Vector }, |spec| spec.form)
        };
        let named = |(name, tensor): &(String, usize)| Named {
            name: name.clone(),
            shape: facts.shapes[*tensor].clone(),
            form: form(name, &facts.shapes[*tensor]),
        };
        // Stored tensors are numbered in the order of their first use.
        let mut number = vec![None; facts.shapes.len()];
        let mut next = 0u32;
        for (_, tensor) in &names {
            number[*tensor].get_or_insert_with(|| {
                next += 1;
                next - 1
            });
        }
        let number = number.into_iter().collect::<Option<Vec<u32>>>();
        let number = number.ok_or_else(|| Error::verification("a tensor of the bundle has no name"))?;
        let mut at = 0;
        let entry = |entry: &Entry| {
            at += entry.tensors;
            StreamEntry {
                codec: entry.codec,
                tensors: number[at - entry.tensors..at].to_vec(),
                dtypes: vec![if entry.codec == codec::LOSSLESS { entry.dtype } else { Dtype::F32 }; entry.tensors],
                needs: entry.need.and_then(|need| number.get(need).copied()).into_iter().collect(),
                len: entry.len as u64,
            }
        };
        let header = Header {
            config: model.map_or_else(String::new, |model| model.config.to_json()),
            names: names.iter().map(named).collect(),
            source: names.iter().map(|(_, tensor)| number[*tensor]).collect(),
            streams: facts.entries.iter().map(entry).collect(),
            extra: Extra::default(),
        };
        // Checked as any header is.
        let header = Header::from_bytes(&header.to_bytes().map_err(|e| Error::verification(e.message))?)?;
        let mut parts = Vec::with_capacity(header.streams.len());
        let mut rest = &self.weights[..];
        for entry in &facts.entries {
            let part;
            (part, rest) = rest.split_at(entry.len);
            parts.push(part);
        }
        let shapes = stored_shapes(&header, self.weights.len())?;
        let decoded = streams(&header, &shapes, |i| parts[i])?;
        let tensors: Vec<Decoded> = decoded.iter().zip(&shapes).map(|(data, shape)| Decoded { shape, data }).collect();
        Ok(assemble(&header, &parts, &root(&tensors, &[[0u8; 0]; 0], &header))?)
    }
}

impl Facts {
    /// The canonical names of a model with the tensors of the bundle.
    fn named_by(&self, model: &Model) -> Result<Vec<(String, usize)>> {
        let mut alphabetical: Vec<&(String, usize)> = model.labels.iter().collect();
        alphabetical.sort();
        let nameless =
            self.names.len() == alphabetical.len() && self.names.first().is_some_and(|(name, _)| name == "00000");
        let find = |(i, spec): (usize, &crate::nets::TensorSpec)| {
            let known = |label: &str| self.names.iter().find(|(name, _)| name == label).map(|(_, tensor)| *tensor);
            let place = || alphabetical.iter().position(|(_, of)| *of == i).map(|at| self.names[at].1);
            let own = model.labels.iter().filter(|(_, of)| *of == i).find_map(|(label, _)| known(label));
            match if nameless { place() } else { own } {
                Some(tensor) => Ok((spec.name.clone(), tensor)),
                None => Err(Error::verification(format!("the bundle holds no {}", spec.name))),
            }
        };
        model.specs.iter().enumerate().map(find).collect()
    }
}
