//! The header of a safetensors file: bounded before it is parsed, and explained where the safetensors crate refuses it.

use std::collections::BTreeMap;

use safetensors::tensor::{Metadata, TensorInfo};
use safetensors::{SafeTensorError, SafeTensors};
use serde_json::{Map, Value};

use super::gather::MAX_TENSORS;
use crate::error::{Error, Result};

/// Bytes of a header, by the format.
const MAX_HEADER: usize = 100_000_000;
/// Keys of one tensor, its name among them.
const KEYS: usize = 4;
/// Keys of `__metadata__`, and more: a header holds nothing else.
const MAX_METADATA: usize = 1 << 16;
/// Values of one tensor that commas set apart: its keys, its dimensions, its range.
const VALUES: usize = 16;

/// Refuses a header that describes more than a model has, before anything is made of it: what is parsed takes many
/// times the bytes of its text.
///
/// # Errors
/// There are too many tensors, or too many values of whatever kind.
pub fn check(bytes: &[u8]) -> Result<()> {
    let Some(header) = of(bytes) else { return Ok(()) };
    if header.len() > MAX_HEADER {
        let length = header.len();
        return Err(Error::input(format!("the header takes {length} bytes, the format allows {MAX_HEADER}")));
    }
    let (mut tensors, mut keys, mut values) = (0usize, 0usize, 0usize);
    let (mut at, mut last): (usize, &[u8]) = (0, b"");
    while at < header.len() {
        match header[at] {
            b'"' => {
                let start = at + 1;
                at = start;
                while at < header.len() && header[at] != b'"' {
                    at += if header[at] == b'\\' { 2 } else { 1 };
                }
                last = header.get(start..at).unwrap_or_default();
            }
            b':' => {
                keys += 1;
                tensors += usize::from(last == b"data_offsets");
            }
            b',' => values += 1,
            _ => {}
        }
        at += 1;
    }
    if tensors > MAX_TENSORS {
        return Err(Error::input(format!("the header describes {tensors} tensors, a model has at most {MAX_TENSORS}"))
            .hint("give the tensors of one model"));
    }
    let (most_keys, most_values) = (KEYS * MAX_TENSORS + MAX_METADATA, VALUES * MAX_TENSORS + MAX_METADATA);
    if keys > most_keys || values > most_values {
        return Err(Error::input(format!(
            "the header has {keys} keys and {values} commas, a model's has at most {most_keys} and {most_values}"
        )));
    }
    Ok(())
}

/// The ties that a file states itself, as `save_model` of safetensors does: names that it left out, each with the name
/// under which its tensor is.
pub fn ties(bytes: &[u8]) -> BTreeMap<String, String> {
    let Ok((_, metadata)) = SafeTensors::read_metadata(bytes) else { return BTreeMap::new() };
    let tensors = metadata.tensors();
    let stated = metadata.metadata().iter().flatten();
    let tie = |(name, kept): &(&String, &String)| !tensors.contains_key(*name) && tensors.contains_key(*kept);
    stated.filter(tie).map(|(name, kept)| (name.clone(), kept.clone())).collect()
}

/// The header of a file that is long enough to hold what it claims.
fn of(bytes: &[u8]) -> Option<&[u8]> {
    let length = u64::from_le_bytes(*bytes.first_chunk::<8>()?);
    bytes[8..].get(..usize::try_from(length).ok()?)
}

/// The first line of what a person could read.
fn text(bytes: &[u8]) -> Option<&str> {
    let start = std::str::from_utf8(&bytes[..bytes.len().min(40)]).ok()?.lines().next()?;
    (!start.is_empty() && !start.contains(char::is_control)).then_some(start)
}

pub fn unsupported(name: &str, dtype: &str) -> Error {
    Error::input(format!("{name} has dtype {dtype}, wanted F32, F16 or BF16"))
        .hint("save the model as float32, float16 or bfloat16")
}

/// Says what is wrong with a file that the safetensors crate refuses, with the tensor and the figures.
pub fn explain(bytes: &[u8], error: &SafeTensorError) -> Error {
    let total = bytes.len();
    let Some(length) = bytes.first_chunk::<8>().map(|b| u64::from_le_bytes(*b)) else {
        return Error::input(format!("truncated: {total} bytes, a safetensors file has at least 8"));
    };
    let header = usize::try_from(length).ok().and_then(|n| bytes[8..].get(..n));
    let Some(header) = header else {
        if let Some(text) = text(bytes) {
            return Error::input(format!("text, no weights file: it begins with {text:?}"))
                .hint("name a .safetensors file or a PyTorch checkpoint");
        }
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
