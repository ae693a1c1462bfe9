//! The part of a header that does not concern the weights: the names that a file had for its tensors, and tensors that are no
//! weights, bit for bit.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Read;

use ruzstd::decoding::StreamingDecoder;

use super::names::{Named, put_names, take_names};
use crate::error::{Error, Result};
use crate::limits::Limits;
use crate::tensor::Form;
use crate::varint::{Reader, put};

/// Set where tensors have other names than the canonical ones.
const LABELS: u64 = 1;
/// Set where there are tensors that are no weights.
const KEPT: u64 = 2;
/// Separates the configuration from what follows it in the root: no byte of UTF-8.
const MARK: u8 = 0xff;
/// Bytes of kept tensors that a file may unpack to, whatever its size; beyond that 4,096 for each byte of the file.
const KEPT_BYTES: usize = 16 << 20;

/// Kept bytes for each byte of a file that may be larger.
const KEPT_PER_BYTE: usize = 1 << 12;

/// Bytes of kept tensors that a file of `size` bytes may unpack to.
fn limit(size: usize) -> usize {
    KEPT_BYTES.max(size.saturating_mul(KEPT_PER_BYTE))
}

/// The registry of element types: their names, and the bytes of an element. Ids 0 to 2 are the types that weights have.
pub const ELEMENTS: [(&str, usize); 15] = [
    ("f32", 4),
    ("f16", 2),
    ("bf16", 2),
    ("bool", 1),
    ("u8", 1),
    ("i8", 1),
    ("i16", 2),
    ("u16", 2),
    ("i32", 4),
    ("u32", 4),
    ("i64", 8),
    ("u64", 8),
    ("f64", 8),
    ("f8e4m3", 1),
    ("f8e5m2", 1),
];

/// The part of a header that does not concern the weights.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Extra {
    /// Every name that a tensor has, in canonical order of the tensors; empty: they have the canonical ones.
    pub labels: Vec<(String, u32)>,
    /// Tensors that are no weights, in the order of the file.
    pub kept: Vec<KeptEntry>,
    /// Bytes of the stream of each element type.
    pub lengths: Vec<u64>,
}

/// A tensor that is no weight.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeptEntry {
    pub name: String,
    pub shape: Vec<usize>,
    /// Its place in [`ELEMENTS`].
    pub element: u8,
}

impl KeptEntry {
    /// The name of its element type, such as `i64`.
    ///
    /// # Panics
    /// `element` is no place in [`ELEMENTS`]; in a header that was read it is one.
    pub fn element_name(&self) -> &'static str {
        ELEMENTS[usize::from(self.element)].0
    }

    /// Its bytes; `None`: more than a machine counts.
    fn bytes(&self) -> Option<usize> {
        // Its other sides may multiply to more than 32 bits count.
        if self.shape.contains(&0) {
            return Some(0);
        }
        self.shape.iter().try_fold(self.width(), |n, d| n.checked_mul(*d))
    }

    /// Bytes of an element.
    fn width(&self) -> usize {
        ELEMENTS.get(usize::from(self.element)).map_or(1, |(_, width)| *width)
    }
}

impl Extra {
    /// The header's flags.
    pub(super) fn flags(&self) -> u64 {
        let labels = if self.labels.is_empty() { 0 } else { LABELS };
        labels + if self.kept.is_empty() { 0 } else { KEPT }
    }

    /// The kept tensors of each stream: those of one element type.
    pub fn streams(&self) -> impl Iterator<Item = &[KeptEntry]> {
        self.kept.chunk_by(|a, b| a.element == b.element)
    }

    /// Writes the sections that the flags announce; `names` are the canonical ones.
    ///
    /// # Errors
    /// Compute, when the format allows no such thing.
    pub(super) fn put(&self, out: &mut Vec<u8>, names: &[Named]) -> Result<()> {
        if !self.labels.is_empty() {
            put_labels(out, &self.labels, names);
        }
        if self.kept.is_empty() {
            return Ok(());
        }
        let named = |kept: &KeptEntry| Named { name: kept.name.clone(), shape: kept.shape.clone(), form: Form::Vector };
        put_names(out, &self.kept.iter().map(named).collect::<Vec<_>>())?;
        for (run, length) in self.streams().zip(&self.lengths) {
            put(out, u64::from(run[0].element));
            put(out, run.len() as u64);
            put(out, *length);
        }
        Ok(())
    }

    /// Reads what [`Extra::put`] wrote.
    ///
    /// # Errors
    /// Verification, on anything else.
    pub(super) fn take(r: &mut Reader, flags: u64, names: &[Named], limits: &Limits) -> Result<Extra> {
        if flags > LABELS + KEPT {
            return Err(Error::verification("the artifact uses something that this tiepack does not know")
                .hint("a newer tiepack may read it"));
        }
        let mut extra = Extra::default();
        if flags & LABELS != 0 {
            extra.labels = take_labels(r, names, limits)?;
        }
        if flags & KEPT != 0 {
            let mut named = take_names(r, limits)?.into_iter();
            let mut least = 0;
            while named.len() > 0 {
                let element = r.within(least, ELEMENTS.len() - 1, "element type of kept tensors")?;
                least = element + 1;
                let run = r.within(1, named.len(), "run of kept tensors")?;
                let entry = |Named { name, shape, .. }| KeptEntry { name, shape, element: element as u8 };
                extra.kept.extend(named.by_ref().take(run).map(entry));
                extra.lengths.push(r.varint("length of a stream of kept tensors")?);
            }
            if extra.kept.is_empty() {
                return Err(Error::verification("the header announces kept tensors and names none"));
            }
        }
        let labels = extra.labels.iter().map(|(name, _)| name);
        let all = labels.chain(names.iter().map(|named| &named.name).filter(|_| extra.labels.is_empty()));
        let distinct: BTreeSet<&String> = all.clone().chain(extra.kept.iter().map(|kept| &kept.name)).collect();
        if distinct.len() < all.count() + extra.kept.len() {
            return Err(Error::verification("two tensors have one name"));
        }
        Ok(extra)
    }

    /// What the root covers beyond the configuration; `kept` are the bytes of the kept tensors. Nothing where there is nothing.
    pub(super) fn hash(&self, hasher: &mut blake3::Hasher, kept: &[impl AsRef<[u8]>]) {
        let field = |hasher: &mut blake3::Hasher, name: &str| {
            hasher.update(&(name.len() as u64).to_le_bytes());
            hasher.update(name.as_bytes());
        };
        if self.flags() == 0 {
            return;
        }
        hasher.update(&[MARK]);
        hasher.update(&(self.labels.len() as u64).to_le_bytes());
        for (name, tensor) in &self.labels {
            hasher.update(&tensor.to_le_bytes());
            field(hasher, name);
        }
        hasher.update(&(self.kept.len() as u64).to_le_bytes());
        for (entry, bytes) in self.kept.iter().zip(kept) {
            field(hasher, &entry.name);
            hasher.update(&u64::from(entry.element).to_le_bytes());
            hasher.update(&(entry.shape.len() as u64).to_le_bytes());
            for d in &entry.shape {
                hasher.update(&(*d as u64).to_le_bytes());
            }
            hasher.update(bytes.as_ref());
        }
    }

    /// Bytes of all kept tensors, where that is a number.
    fn claimed(&self) -> Option<usize> {
        self.kept.iter().try_fold(0usize, |sum, entry| sum.checked_add(entry.bytes()?))
    }

    /// Makes sure that a file of `size` bytes is not refused for what it unpacks to.
    ///
    /// # Errors
    /// Compute, with the figures and the largest of the kept tensors.
    #[cfg(feature = "write")]
    pub(super) fn check(&self, size: usize) -> Result<()> {
        let Some(total) = self.claimed().filter(|total| *total > limit(size)) else { return Ok(()) };
        let largest = self.kept.iter().max_by_key(|entry| entry.bytes()).map_or("", |entry| &entry.name);
        Err(Error::compute(format!(
            "tensors that are no weights take {total} bytes, the largest is {largest}; a file of {size} bytes may hold {}",
            limit(size)
        ))
        .hint("take out of the model what can be computed again"))
    }

    /// The bytes of every kept tensor, given those of the streams in a file of `size` bytes.
    ///
    /// # Errors
    /// Verification, when a stream is damaged or the file cannot hold so much.
    pub fn unpack<'a>(&self, size: usize, stream: impl Fn(usize) -> &'a [u8]) -> Result<Vec<Vec<u8>>> {
        if self.claimed().is_none_or(|total| total > limit(size)) {
            return Err(Error::verification(format!("{size} bytes cannot hold the kept tensors that are described")));
        }
        let mut out = Vec::with_capacity(self.kept.len());
        for (i, run) in self.streams().enumerate() {
            let sizes: Vec<usize> = run.iter().map(|entry| entry.bytes().unwrap_or_default()).collect();
            let (width, total) = (run[0].width(), sizes.iter().sum::<usize>());
            let planes =
                unzstd(stream(i), total).ok_or_else(|| Error::verification("a stream of kept tensors is damaged"))?;
            let count = total / width;
            let bytes: Vec<u8> = (0..total).map(|at| planes[at % width * count + at / width]).collect();
            let mut at = 0;
            for size in sizes {
                out.push(bytes[at..at + size].to_vec());
                at += size;
            }
        }
        Ok(out)
    }
}

/// The stream of kept tensors of one element type of `width` bytes: the lowest byte of every element first, in one zstd frame.
///
/// # Panics
/// zstd has no memory.
#[cfg(feature = "write")]
pub fn pack(width: usize, bytes: &[u8]) -> Vec<u8> {
    let count = bytes.len() / width;
    let planes: Vec<u8> = (0..bytes.len()).map(|at| bytes[at % count * width + at / count]).collect();
    zstd::bulk::compress(&planes, 19).expect("zstd has memory")
}

/// Unpacks one frame that must come to exactly `size` bytes. Memory grows with what really comes.
fn unzstd(packed: &[u8], size: usize) -> Option<Vec<u8>> {
    let (mut rest, mut out) = (packed, Vec::new());
    let mut frame = StreamingDecoder::new(&mut rest).ok()?;
    // One byte more than there may be shows what is too long.
    frame.by_ref().take(size as u64 + 1).read_to_end(&mut out).ok()?;
    drop(frame);
    (out.len() == size && rest.is_empty()).then_some(out)
}

/// A rule: what a canonical name begins with, and what the file has in its place.
type Rule = (String, String);

/// The name that the rules give a tensor: the longest that fits decides.
fn apply(rules: &[Rule], name: &str) -> String {
    let rule = rules.iter().filter(|(from, _)| name.starts_with(from.as_str())).max_by_key(|(from, _)| from.len());
    rule.map_or_else(|| name.to_string(), |(from, to)| format!("{to}{}", &name[from.len()..]))
}

/// What two names begin with before the parts between dots that they end with alike.
fn rule(name: &str, label: &str) -> Rule {
    let (names, labels): (Vec<&str>, Vec<&str>) = (name.split('.').collect(), label.split('.').collect());
    let alike = names.iter().rev().zip(labels.iter().rev()).take_while(|(a, b)| a == b).count();
    let front = |parts: &[&str]| parts[..parts.len() - alike].iter().map(|part| format!("{part}.")).collect();
    match alike {
        0 => (name.into(), label.into()),
        _ => (front(&names), front(&labels)),
    }
}

/// Writes labels as rules, and those that no rule gives one by one.
fn put_labels(out: &mut Vec<u8>, labels: &[(String, u32)], names: &[Named]) {
    let mut of: Vec<Vec<&str>> = vec![Vec::new(); names.len()];
    labels.iter().for_each(|(label, tensor)| of[*tensor as usize].push(label));
    let mut rules: Vec<Rule> = Vec::new();
    for (Named { name, .. }, labels) in names.iter().zip(&of) {
        if let [label] = labels[..]
            && apply(&rules, name) != label
        {
            let new = rule(name, label);
            if rules.iter().all(|(from, _)| *from != new.0) {
                rules.push(new);
            }
        }
    }
    let text = |out: &mut Vec<u8>, text: &str| {
        put(out, text.len() as u64);
        out.extend_from_slice(text.as_bytes());
    };
    put(out, rules.len() as u64);
    for (from, to) in &rules {
        text(out, from);
        text(out, to);
    }
    let given = |(i, labels): &(usize, &Vec<&str>)| labels[..] == [&apply(&rules, &names[*i].name)[..]];
    let others: Vec<(usize, &Vec<&str>)> = of.iter().enumerate().filter(|each| !given(each)).collect();
    put(out, others.len() as u64);
    let mut next = 0;
    for (tensor, labels) in others {
        put(out, (tensor - next) as u64);
        put(out, labels.len() as u64);
        labels.iter().for_each(|label| text(out, label));
        next = tensor + 1;
    }
}

/// Reads what [`put_labels`] wrote.
fn take_labels(r: &mut Reader, names: &[Named], limits: &Limits) -> Result<Vec<(String, u32)>> {
    let text = |r: &mut Reader| -> Result<String> {
        let n = r.within(0, limits.header, "length of a label")?;
        String::from_utf8(r.take(n, "label")?.to_vec()).map_err(|_| Error::verification("a label is not UTF-8 text"))
    };
    let mut rules: Vec<Rule> = Vec::new();
    for _ in 0..r.within(0, names.len(), "number of rules for labels")? {
        rules.push((text(r)?, text(r)?));
    }
    let mut given: BTreeMap<usize, Vec<String>> = BTreeMap::new();
    let mut next = 0;
    for _ in 0..r.within(0, names.len(), "number of tensors with labels of their own")? {
        let tensor = next + r.within(0, names.len(), "distance of a tensor with labels")?;
        if tensor >= names.len() {
            return Err(Error::verification("a label is that of no tensor"));
        }
        let count = r.within(1, limits.tensors, "number of labels")?;
        given.insert(tensor, (0..count).map(|_| text(r)).collect::<Result<_>>()?);
        next = tensor + 1;
    }
    let (mut labels, mut total) = (Vec::new(), 0);
    for (tensor, Named { name, .. }) in names.iter().enumerate() {
        for label in given.remove(&tensor).unwrap_or_else(|| vec![apply(&rules, name)]) {
            total += label.len();
            if total > limits.names {
                return Err(Error::verification("the labels are too long"));
            }
            labels.push((label, tensor as u32));
        }
    }
    Ok(labels)
}
