//! Weights from `.safetensors` or PyTorch checkpoints: one file, or several behind an `.index.json`.
//!
//! Files are memory-mapped, so what is held in memory is only the widened copy. The safetensors crate checks the
//! header (sizes, no holes, exact length); this module turns its verdicts into sentences that name the tensor.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::path::{Path, PathBuf};

use memmap2::Mmap;
use safetensors::tensor::{Metadata, TensorInfo};
use safetensors::{SafeTensorError, SafeTensors};
use serde_json::{Map, Value};

use super::checkpoint;
use super::dtype::Element;
use super::gather::{Gather, Weights};
use crate::error::{Error, Result};

pub use super::dtype::Dtype;

/// Reads a `.safetensors` file, a PyTorch checkpoint, or all the files that an `.index.json` lists.
///
/// Which of the two a file is, its first bytes say.
///
/// # Errors
/// The file cannot be read, is truncated, contradicts its header, holds an element type that no weight has, or a
/// weight that is not finite. Messages begin with the path.
pub fn read(path: &Path) -> Result<Weights> {
    let gathered = match path.to_string_lossy().ends_with(".index.json") {
        true => read_sharded(path)?,
        false => read_file(path)?,
    };
    gathered.finish().map_err(|e| e.at(path.display()))
}

fn read_file(path: &Path) -> Result<Gather> {
    let file = File::open(path).map_err(|e| Error::io("read", path, e))?;
    let metadata = file.metadata().map_err(|e| Error::io("read", path, e))?;
    // Mapping a folder or an empty file fails with a riddle of an errno.
    if metadata.is_dir() {
        return Err(Error::input(format!("{} is a folder, wanted a weights file", path.display())));
    }
    if metadata.len() == 0 {
        return Err(Error::input(format!("{} is empty", path.display())));
    }
    // SAFETY: the map is only read, and dropped before this function returns. As with every map, another process that
    // cuts the file meanwhile kills this one; nobody rewrites a checkpoint in place while it is being packed.
    let map = unsafe { Mmap::map(&file) }.map_err(|e| Error::io("map", path, e))?;
    let gathered = if checkpoint::is_one(&map) { checkpoint::gather(&map) } else { gather(&map) };
    gathered.map_err(|e| e.at(path.display()))
}

/// Parses the bytes of one `.safetensors` file or PyTorch checkpoint.
///
/// # Errors
/// As [`read`], without the path.
pub fn parse(bytes: &[u8]) -> Result<Weights> {
    let gathered = if checkpoint::is_one(bytes) { checkpoint::gather(bytes) } else { gather(bytes) };
    gathered?.finish()
}

fn gather(bytes: &[u8]) -> Result<Gather> {
    let file = SafeTensors::deserialize(bytes).map_err(|e| explain(bytes, &e))?;
    // In the order of names, so that of several faults always the same one is reported.
    let views: BTreeMap<&str, _> = file.iter().collect();
    let mut gathered = Gather::default();
    gathered.file(file.iter().map(|(_, view)| view.data().len() as u64).sum(), "safetensors headers");
    for (name, view) in views {
        let element = element(view.dtype()).ok_or_else(|| unsupported(name, &format!("{:?}", view.dtype())))?;
        gathered.add(name, element, view.shape(), view.data())?;
    }
    Ok(gathered)
}

/// Element types as safetensors files and as this crate name them.
const ELEMENTS: [(safetensors::Dtype, Element); 15] = [
    (safetensors::Dtype::F64, Element::F64),
    (safetensors::Dtype::F32, Element::F32),
    (safetensors::Dtype::F16, Element::F16),
    (safetensors::Dtype::BF16, Element::Bf16),
    (safetensors::Dtype::F8_E4M3, Element::F8E4m3),
    (safetensors::Dtype::F8_E5M2, Element::F8E5m2),
    (safetensors::Dtype::BOOL, Element::Integer("bool", 1)),
    (safetensors::Dtype::U8, Element::Integer("u8", 1)),
    (safetensors::Dtype::I8, Element::Integer("i8", 1)),
    (safetensors::Dtype::I16, Element::Integer("i16", 2)),
    (safetensors::Dtype::U16, Element::Integer("u16", 2)),
    (safetensors::Dtype::I32, Element::Integer("i32", 4)),
    (safetensors::Dtype::U32, Element::Integer("u32", 4)),
    (safetensors::Dtype::I64, Element::Integer("i64", 8)),
    (safetensors::Dtype::U64, Element::Integer("u64", 8)),
];

/// The type of safetensors files that holds such elements.
pub fn dtype(element: Element) -> Option<safetensors::Dtype> {
    ELEMENTS.iter().find(|(_, known)| *known == element).map(|(dtype, _)| *dtype)
}

fn element(dtype: safetensors::Dtype) -> Option<Element> {
    ELEMENTS.iter().find(|(known, _)| *known == dtype).map(|(_, element)| *element)
}

/// A weights file, or an index and all the files that it lists; only the index where it cannot be read.
pub fn files(path: &Path) -> Vec<PathBuf> {
    let listed = match path.to_string_lossy().ends_with(".index.json") {
        true => index(path).unwrap_or_default().into_keys().map(|file| path.with_file_name(file)).collect(),
        false => Vec::new(),
    };
    [vec![path.to_path_buf()], listed].concat()
}

/// The tensors that an index puts into each file.
fn index(path: &Path) -> Result<BTreeMap<String, BTreeSet<String>>> {
    let place = |e: Error| e.at(path.display());
    let text = std::fs::read_to_string(path).map_err(|e| Error::io("read", path, e))?;
    let index: Value = serde_json::from_str(&text).map_err(|e| place(Error::input(format!("not valid JSON: {e}"))))?;
    let Some(entries) = index.get("weight_map").and_then(Value::as_object) else {
        return Err(place(Error::input("the index has no object `weight_map`")));
    };
    let mut files: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for (tensor, file) in entries {
        // A bare name: an index must not reach outside its own folder.
        let file = file.as_str().filter(|f| Path::new(f).file_name().is_some_and(|name| name == *f));
        let file = file.ok_or_else(|| {
            place(Error::input(format!("the index puts {tensor} into {}, wanted a file name", entries[tensor])))
        })?;
        files.entry(file.to_string()).or_default().insert(tensor.clone());
    }
    Ok(files)
}

/// Reads every file of a sharded model and holds the index against what they contain.
fn read_sharded(path: &Path) -> Result<Gather> {
    let place = |e: Error| e.at(path.display());
    let mut gathered = Gather::default();
    for (file, listed) in index(path)? {
        // Never another index: one that lists itself would be read for ever.
        let found = read_file(&path.with_file_name(&file))?;
        let names = found.names();
        if let Some(name) = listed.iter().find(|name| !names.contains(name.as_str())) {
            return Err(place(Error::input(format!("the index puts {name} into {file}, which does not hold it"))));
        }
        // With this, no tensor can come from two files either: the index has one entry for it.
        if let Some(name) = names.iter().find(|name| !listed.contains(**name)) {
            return Err(place(Error::input(format!("{file} holds {name}, which the index does not put there"))));
        }
        gathered.extend(found);
    }
    Ok(gathered)
}

fn unsupported(name: &str, dtype: &str) -> Error {
    Error::input(format!("{name} has dtype {dtype}, wanted F32, F16 or BF16"))
        .hint("save the model as float32, float16 or bfloat16")
}

/// Says what is wrong with a file that the safetensors crate refuses, with the tensor and the figures.
fn explain(bytes: &[u8], error: &SafeTensorError) -> Error {
    let total = bytes.len();
    let Some(length) = bytes.first_chunk::<8>().map(|b| u64::from_le_bytes(*b)) else {
        return Error::input(format!("truncated: {total} bytes, a safetensors file has at least 8"));
    };
    let header = usize::try_from(length).ok().and_then(|n| bytes[8..].get(..n));
    let Some(header) = header else {
        return Error::input(format!(
            "truncated, or no safetensors file: the header claims {length} bytes, {} follow",
            total - 8
        ));
    };
    let body = total - 8 - header.len();
    match error {
        SafeTensorError::MetadataIncompleteBuffer => {
            let claimed = serde_json::from_slice::<Metadata>(header).map_or(0, |m| m.data_len());
            let what = if claimed > body { "truncated" } else { "too long" };
            Error::input(format!("{what}: the header describes {claimed} bytes of tensors, {body} follow it"))
        }
        SafeTensorError::InvalidOffset(name) => Error::input(format!(
            "the header lies about {name}: its bytes do not begin where those of the tensor before it end"
        )),
        other => lying_tensor(header).unwrap_or_else(|| match other {
            SafeTensorError::InvalidHeader(e) => Error::input(format!("the header is not UTF-8: {e}")),
            SafeTensorError::InvalidHeaderDeserialization(e) => {
                Error::input(format!("the header is not that of a safetensors file: {e}"))
            }
            other => Error::input(format!("not a valid safetensors file: {other}")),
        }),
    }
}

/// The first header entry, in file order, that is ill-formed or whose byte range contradicts its shape.
fn lying_tensor(header: &[u8]) -> Option<Error> {
    let entries: Map<String, Value> = serde_json::from_slice(header).ok()?;
    for (name, entry) in entries.iter().filter(|(name, _)| *name != "__metadata__") {
        if let Some(dtype) = entry.get("dtype").and_then(Value::as_str)
            && serde_json::from_value::<safetensors::Dtype>(dtype.into()).is_err()
        {
            return Some(unsupported(name, dtype));
        }
        let info: TensorInfo = match serde_json::from_value(entry.clone()) {
            Ok(info) => info,
            Err(e) => return Some(Error::input(format!("the header's entry of {name} is ill-formed: {e}"))),
        };
        let (start, end) = info.data_offsets;
        let count = info.shape.iter().try_fold(1usize, |n, &length| n.checked_mul(length));
        let bits = count.and_then(|n| n.checked_mul(info.dtype.bitsize()));
        let (shape, dtype) = (&info.shape, info.dtype);
        match bits {
            None => return Some(Error::input(format!("the header lies about {name}: no file holds shape {shape:?}"))),
            Some(bits) if bits % 8 != 0 || end.checked_sub(start) != Some(bits / 8) => {
                return Some(Error::input(format!(
                    "the header lies about {name}: shape {shape:?} of {dtype:?} is {} bytes, its range is {start}..{end}",
                    bits / 8
                )));
            }
            Some(_) => {}
        }
    }
    None
}
