//! Weights from `.safetensors`: one file, or several behind a `.index.json`.
//!
//! Files are memory-mapped, so what is held in memory is only the widened copy. The safetensors crate checks the
//! header (sizes, no holes, exact length); this module turns its verdicts into sentences that name the tensor.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::path::Path;
use std::sync::Arc;

use half::{bf16, f16};
use memmap2::Mmap;
use safetensors::tensor::{Metadata, TensorInfo};
use safetensors::{SafeTensorError, SafeTensors};
use serde_json::{Map, Value};

use crate::error::{Error, Result};

/// How a tensor is stored in the source. All three widen exactly to f32.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Dtype {
    F32,
    F16,
    Bf16,
}

impl Dtype {
    /// Bytes of one weight.
    pub fn size(self) -> usize {
        match self {
            Dtype::F32 => 4,
            Dtype::F16 | Dtype::Bf16 => 2,
        }
    }

    /// The nearest value this type can hold, ties to even, rounded once.
    pub fn round(self, x: f64) -> f32 {
        match self {
            Dtype::F32 => x as f32,
            Dtype::F16 => f16::from_f64(x).to_f32(),
            Dtype::Bf16 => bf16::from_f64(x).to_f32(),
        }
    }

    /// `bytes` (little-endian, a whole number of weights) widened to f32.
    fn widen(self, bytes: &[u8]) -> Vec<f32> {
        let pairs = || bytes.chunks_exact(2).map(|b| [b[0], b[1]]);
        match self {
            Dtype::F32 => bytes.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect(),
            Dtype::F16 => pairs().map(|b| f16::from_le_bytes(b).to_f32()).collect(),
            Dtype::Bf16 => pairs().map(|b| bf16::from_le_bytes(b).to_f32()).collect(),
        }
    }
}

/// A tensor as the file holds it.
#[derive(Debug, Clone)]
pub struct RawTensor {
    pub shape: Vec<usize>,
    pub dtype: Dtype,
    /// The weights in row-major order, all finite; as many as `shape` says.
    pub data: Arc<Vec<f32>>,
}

/// Reads a `.safetensors` file, or all the files that a `.safetensors.index.json` lists.
///
/// # Errors
/// The file cannot be read, is truncated, contradicts its header, holds a dtype other than F32, F16 and BF16, or a
/// weight that is not finite. Messages begin with the path.
pub fn read(path: &Path) -> Result<BTreeMap<String, RawTensor>> {
    if path.to_string_lossy().ends_with(".index.json") {
        return read_sharded(path);
    }
    read_file(path)
}

fn read_file(path: &Path) -> Result<BTreeMap<String, RawTensor>> {
    let file = File::open(path).map_err(|e| Error::io("read", path, e))?;
    let metadata = file.metadata().map_err(|e| Error::io("read", path, e))?;
    // Mapping a folder or an empty file fails with a riddle of an errno.
    if metadata.is_dir() {
        return Err(Error::input(format!("{} is a folder, wanted a safetensors file", path.display())));
    }
    if metadata.len() == 0 {
        return Err(Error::input(format!("{} is empty", path.display())));
    }
    // SAFETY: the map is only read, and dropped before this function returns. As with every map, another process that
    // cuts the file meanwhile kills this one; nobody rewrites a checkpoint in place while it is being packed.
    let map = unsafe { Mmap::map(&file) }.map_err(|e| Error::io("map", path, e))?;
    parse(&map).map_err(|e| e.at(path.display()))
}

/// Parses the bytes of one `.safetensors` file.
///
/// # Errors
/// As [`read`], without the path.
pub fn parse(bytes: &[u8]) -> Result<BTreeMap<String, RawTensor>> {
    let file = SafeTensors::deserialize(bytes).map_err(|e| explain(bytes, &e))?;
    // In the order of names, so that of several faults always the same one is reported.
    let views: BTreeMap<&str, _> = file.iter().collect();
    let mut tensors = BTreeMap::new();
    for (name, view) in views {
        let dtype = match view.dtype() {
            safetensors::Dtype::F32 => Dtype::F32,
            safetensors::Dtype::F16 => Dtype::F16,
            safetensors::Dtype::BF16 => Dtype::Bf16,
            other => return Err(unsupported(name, &format!("{other:?}"))),
        };
        let data = dtype.widen(view.data());
        check_finite(name, view.shape(), &data)?;
        tensors.insert(name.to_string(), RawTensor { shape: view.shape().to_vec(), dtype, data: Arc::new(data) });
    }
    Ok(tensors)
}

/// Reads every file of a sharded model and holds the index against what they contain.
fn read_sharded(path: &Path) -> Result<BTreeMap<String, RawTensor>> {
    let place = |e: Error| e.at(path.display());
    let text = std::fs::read_to_string(path).map_err(|e| Error::io("read", path, e))?;
    let index: Value = serde_json::from_str(&text).map_err(|e| place(Error::input(format!("not valid JSON: {e}"))))?;
    let Some(entries) = index.get("weight_map").and_then(Value::as_object) else {
        return Err(place(Error::input("the index has no object `weight_map`")));
    };
    let mut files: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for (tensor, file) in entries {
        // A bare name: an index must not reach outside its own folder.
        let file = file.as_str().filter(|f| Path::new(f).file_name().is_some_and(|name| name == *f));
        let file = file.ok_or_else(|| {
            place(Error::input(format!("the index puts {tensor} into {}, wanted a file name", entries[tensor])))
        })?;
        files.entry(file).or_default().insert(tensor);
    }
    let mut tensors = BTreeMap::new();
    for (file, listed) in files {
        // Never another index: one that lists itself would be read for ever.
        let found = read_file(&path.with_file_name(file))?;
        if let Some(name) = listed.iter().find(|name| !found.contains_key(**name)) {
            return Err(place(Error::input(format!("the index puts {name} into {file}, which does not hold it"))));
        }
        // With this, no tensor can come from two files either: the index has one entry for it.
        if let Some(name) = found.keys().find(|name| !listed.contains(name.as_str())) {
            return Err(place(Error::input(format!("{file} holds {name}, which the index does not put there"))));
        }
        tensors.extend(found);
    }
    Ok(tensors)
}

fn check_finite(name: &str, shape: &[usize], data: &[f32]) -> Result<()> {
    let Some(first) = data.iter().position(|x| !x.is_finite()) else { return Ok(()) };
    let count = data.iter().filter(|x| !x.is_finite()).count();
    let (mut rest, mut at) = (first, Vec::new());
    for &length in shape.iter().rev() {
        at.insert(0, rest % length);
        rest /= length;
    }
    let value = data[first];
    let (total, are) = (data.len(), if count == 1 { "is" } else { "are" });
    Err(Error::input(format!("{name}: {count} of {total} weights {are} not finite, the first at {at:?} is {value}"))
        .hint("the training run diverged or the file is damaged; use an earlier checkpoint"))
}

fn unsupported(name: &str, dtype: &str) -> Error {
    Error::input(format!("{name} has dtype {dtype}, wanted F32, F16 or BF16"))
        .hint("save the model as float32, float16 or bfloat16; buffers that are no weights do not belong in it")
}

/// Says what is wrong with a file that the safetensors crate refuses, with the tensor and the figures.
fn explain(bytes: &[u8], error: &SafeTensorError) -> Error {
    let total = bytes.len();
    // Torch's own files are zip archives or pickles: say so instead of quoting a header length of 10^18.
    if bytes.starts_with(b"PK\x03\x04") || bytes.starts_with(b"\x80\x02") {
        return Error::input("not a safetensors file but a PyTorch checkpoint")
            .hint("convert it with safetensors.torch.save_file(state_dict, \"model.safetensors\")");
    }
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
