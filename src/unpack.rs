//! An artifact as ordinary files again: safetensors, configuration, tie map.

use std::collections::{BTreeMap, HashMap};

use half::{bf16, f16};
use safetensors::tensor::{TensorView, serialize};
use serde_json::{Map, Value, json};

use crate::error::{Error, Result};
use crate::ingest::{Dtype, weights};
use crate::model::{Kept, Model, Stored};
use crate::text::type_name;

/// A model's files.
pub struct Files {
    /// `model.safetensors`, tied tensors written out in full under each of their names.
    pub weights: Vec<u8>,
    /// `config.json`; `None`: the model had none.
    pub config: Option<String>,
    /// `ties.json`; `None`: nothing is tied.
    pub ties: Option<String>,
    /// Tensors of each element type, by its name.
    pub types: BTreeMap<&'static str, usize>,
}

/// Writes a model down.
///
/// Tensors have the names that they had in the file that was packed. A tensor keeps the element type that the artifact names for it where that type holds its values exactly (as it does
/// after lossless coding). Quantized values lie between those of a 16-bit type; rounding them would change the
/// network that was verified, so they are written in f32.
///
/// # Errors
/// Compute, when the tensors cannot be serialized.
pub fn unpack(model: &Model) -> Result<Files> {
    let raw: Vec<(Dtype, Vec<u8>)> = model.stored.iter().map(bytes_of).collect();
    let view = |name: &String, dtype, shape: &[usize], bytes| match TensorView::new(dtype, shape.to_vec(), bytes) {
        Ok(view) => Ok((name.clone(), view)),
        Err(e) => Err(Error::compute(format!("cannot write {name}: {e}"))),
    };
    let mut views = Vec::with_capacity(model.labels.len() + model.kept.len());
    for (label, spec) in &model.labels {
        let (dtype, bytes) = &raw[model.source[*spec]];
        let dtype = match dtype {
            Dtype::F32 => safetensors::Dtype::F32,
            Dtype::F16 => safetensors::Dtype::F16,
            Dtype::Bf16 => safetensors::Dtype::BF16,
        };
        views.push(view(label, dtype, &model.specs[*spec].shape, bytes)?);
    }
    for Kept { name, shape, element, bytes } in &model.kept {
        let dtype = weights::dtype(*element)
            .ok_or_else(|| Error::compute(format!("safetensors hold no {}, as {name} is", element.name())))?;
        views.push(view(name, dtype, shape, bytes)?);
    }
    // Loaders of the ecosystem look for this key.
    let metadata = HashMap::from([("format".to_string(), "pt".to_string())]);
    let weights = serialize(views, Some(metadata)).map_err(|e| Error::compute(format!("cannot write tensors: {e}")))?;
    let mut types = BTreeMap::new();
    let weights_types = model.labels.iter().map(|(_, spec)| type_name(raw[model.source[*spec]].0));
    for name in weights_types.chain(model.kept.iter().map(|kept| kept.element.name())) {
        *types.entry(name).or_insert(0) += 1;
    }
    let fields = Some(model.config.fields.clone()).filter(|fields| !fields.is_empty());
    let config = fields.map(|fields| pretty(&Value::Object(fields)));
    Ok(Files { weights, config, ties: ties(model).map(|ties| pretty(&ties)), types })
}

/// A tensor's element type, f32 where the model's does not hold its values, and little-endian bytes.
pub fn bytes_of(stored: &Stored) -> (Dtype, Vec<u8>) {
    let Stored { dtype, data, .. } = stored;
    let exact = data.iter().all(|&x| dtype.round(f64::from(x)).to_bits() == x.to_bits());
    let dtype = if exact { *dtype } else { Dtype::F32 };
    let bytes = match dtype {
        Dtype::F32 => data.iter().flat_map(|x| x.to_le_bytes()).collect(),
        Dtype::F16 => data.iter().flat_map(|&x| f16::from_f32(x).to_le_bytes()).collect(),
        Dtype::Bf16 => data.iter().flat_map(|&x| bf16::from_f32(x).to_le_bytes()).collect(),
    };
    (dtype, bytes)
}

/// The tie map: whole layers by `copies`, what they do not explain by `aliases`.
fn ties(model: &Model) -> Option<Value> {
    let copies = &model.ties.copies;
    let whole = copies.iter().enumerate().any(|(layer, &source)| layer != source);
    let role_of: BTreeMap<&str, _> = model.specs.iter().map(|spec| (spec.name.as_str(), spec)).collect();
    let explained = |name: &str, source: &str| {
        let (spec, source) = (role_of.get(name), role_of.get(source));
        spec.zip(source).is_some_and(|(spec, source)| {
            let copied = spec.layer.zip(source.layer).is_some_and(|(layer, from)| copies[layer] == from);
            copied && spec.role == source.role && model.tied_roles.contains(&spec.role)
        })
    };
    let mut aliases = Map::new();
    for (index, spec) in model.specs.iter().enumerate() {
        let first = &model.specs[model.stored[model.source[index]].spec];
        // Equal vectors are the coder's thrift, not a tie.
        if first.name != spec.name && spec.is_matrix() && !explained(&spec.name, &first.name) {
            aliases.insert(spec.name.clone(), first.name.clone().into());
        }
    }
    let mut map = Map::new();
    if whole {
        map.insert("layers".into(), json!(copies.len()));
        map.insert("copies".into(), json!(copies));
    }
    if !aliases.is_empty() {
        map.insert("aliases".into(), aliases.into());
    }
    (!map.is_empty()).then_some(Value::Object(map))
}

fn pretty(value: &Value) -> String {
    format!("{value:#}\n")
}
