//! Weights from `.safetensors` or PyTorch checkpoints: one file, or several behind an `.index.json`.
//!
//! Files are memory-mapped, so what is held in memory is only the widened copy. The safetensors crate checks the
//! header (sizes, no holes, exact length); [`super::header`] turns its verdicts into sentences that name the tensor.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::path::{Path, PathBuf};

use memmap2::Mmap;
use safetensors::SafeTensors;
use serde_json::Value;

use super::dtype::Element;
use super::gather::{Gather, Weights};
use super::{checkpoint, foreign, header, json, parts};
use crate::error::{Error, Result};

pub use super::dtype::Dtype;

/// Reads a `.safetensors` file, a PyTorch checkpoint, all the files that an `.index.json` lists, or all the parts of
/// the model that a file named `…-00001-of-00003…` is a part of.
///
/// What a file is, its first bytes say.
///
/// # Errors
/// The file cannot be read, is truncated, contradicts its header, holds an element type that no weight has, or a
/// weight that is not finite. Messages begin with the path.
pub fn read(path: &Path) -> Result<Weights> {
    let gathered = match (path.to_string_lossy().ends_with(".index.json"), parts::all(path)) {
        (true, _) => read_sharded(path)?,
        (false, Some(parts)) => read_parts(&parts)?,
        (false, None) => read_file(path)?,
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
    if let Some(error) = foreign::named(bytes) {
        return Err(error);
    }
    header::check(bytes)?;
    let file = SafeTensors::deserialize(bytes).map_err(|e| header::explain(bytes, &e))?;
    // In the order of names, so that of several faults always the same one is reported.
    let views: BTreeMap<&str, _> = file.iter().collect();
    let mut gathered = Gather::default();
    gathered.file(file.iter().map(|(_, view)| view.data().len() as u64).sum(), "safetensors headers");
    for (name, view) in views {
        let element = element(view.dtype()).ok_or_else(|| header::unsupported(name, &format!("{:?}", view.dtype())))?;
        gathered.add(name, element, view.shape(), view.data())?;
    }
    for (name, kept) in header::ties(bytes) {
        gathered.tie(&name, &kept);
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

/// A weights file, all the parts that it is one of, or an index and all the files that it lists; only the index where
/// it cannot be read.
pub fn files(path: &Path) -> Vec<PathBuf> {
    let listed = match path.to_string_lossy().ends_with(".index.json") {
        true => index(path).unwrap_or_default().into_keys().map(|file| path.with_file_name(file)).collect(),
        false => parts::all(path).unwrap_or_default().into_iter().filter(|part| part != path).collect(),
    };
    [vec![path.to_path_buf()], listed].concat()
}

/// The tensors that an index puts into each file.
fn index(path: &Path) -> Result<BTreeMap<String, BTreeSet<String>>> {
    let place = |e: Error| e.at(path.display());
    let text = std::fs::read_to_string(path).map_err(|e| Error::io("read", path, e))?;
    let index: Value = json::parse(&text).map_err(place)?;
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

/// Reads all the parts of a model that no index lists.
fn read_parts(parts: &[PathBuf]) -> Result<Gather> {
    let mut gathered = Gather::default();
    let mut places: BTreeMap<String, &Path> = BTreeMap::new();
    for path in parts {
        if !path.exists() {
            let (missing, of) = (path.display(), parts.len());
            return Err(Error::input(format!("{missing} is missing, one of {of} parts of the model"))
                .hint("a model is packed whole: fetch the part that is missing"));
        }
        let found = read_file(path)?;
        for name in found.names() {
            if let Some(first) = places.insert(name.to_string(), path) {
                let (first, second) = (first.display(), path.display());
                return Err(Error::input(format!("{first} and {second} both hold {name}"))
                    .hint("are these parts of one model?"));
            }
        }
        gathered.extend(found);
    }
    Ok(gathered)
}
