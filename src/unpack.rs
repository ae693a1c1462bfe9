//! An artifact as ordinary files again: safetensors, configuration, tie map.

use std::collections::{BTreeMap, HashMap};

use half::{bf16, f16};
use safetensors::tensor::{TensorView, serialize};
use serde_json::{Map, Value, json};

use crate::error::{Error, Result};
use crate::ingest::Dtype;
use crate::model::{Model, Stored};
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
/// A tensor keeps the element type that the artifact names for it where that type holds its values exactly (as it does
/// after lossless coding). Quantized values lie between those of a 16-bit type; rounding them would change the
/// network that was verified, so they are written in f32.
///
/// # Errors
/// Compute, when the tensors cannot be serialized.
pub fn unpack(model: &Model) -> Result<Files> {
    let raw: Vec<(Dtype, Vec<u8>)> = model.stored.iter().map(bytes_of).collect();
    let mut views = Vec::with_capacity(model.specs.len());
    for (spec, &stored) in model.specs.iter().zip(&model.source) {
        let (dtype, bytes) = &raw[stored];
        let dtype = match dtype {
            Dtype::F32 => safetensors::Dtype::F32,
            Dtype::F16 => safetensors::Dtype::F16,
            Dtype::Bf16 => safetensors::Dtype::BF16,
        };
        let view = TensorView::new(dtype, spec.shape.clone(), bytes)
            .map_err(|e| Error::compute(format!("cannot write {}: {e}", spec.name)))?;
        views.push((spec.name.clone(), view));
    }
    // Loaders of the ecosystem look for this key.
    let metadata = HashMap::from([("format".to_string(), "pt".to_string())]);
    let weights = serialize(views, Some(metadata)).map_err(|e| Error::compute(format!("cannot write tensors: {e}")))?;
    let mut types = BTreeMap::new();
    for &stored in &model.source {
        *types.entry(type_name(raw[stored].0)).or_insert(0) += 1;
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
