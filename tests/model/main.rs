//! What makes a checked model of files: the right tensors, ties that hold, every distinct tensor stored once.

mod checks;
mod parts;
mod ties;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use candle_core::Tensor;
use tiepack::error::{Error, Result};
use tiepack::ingest::{Config, Dtype, RawTensor, Sizes, Source, TieMap};
use tiepack::model::Model;
use tiepack::nets::{Form, Layers, Net, Params, State, TensorSpec};

/// Three layers with two matrices and a gain each, between an embedding and a head of the same shape.
struct Toy;

impl Net for Toy {
    fn tensors(&self) -> Vec<TensorSpec> {
        let spec = |layer: Option<usize>, role: &str, shape: &[usize], form| {
            let name = layer.map_or_else(|| role.to_string(), |layer| format!("blocks.{layer}.{role}"));
            TensorSpec { name, role: role.to_string(), layer, shape: shape.to_vec(), form }
        };
        let mut specs = vec![spec(None, "emb", &[4, 2], Form::Embedding)];
        for layer in 0..3 {
            specs.push(spec(Some(layer), "in", &[3, 2], Form::Matrix));
            specs.push(spec(Some(layer), "out", &[2, 3], Form::Matrix));
            specs.push(spec(Some(layer), "gain", &[2], Form::Vector));
        }
        specs.push(spec(None, "head", &[4, 2], Form::Matrix));
        specs
    }

    fn vocab_size(&self) -> usize {
        4
    }

    fn context(&self) -> usize {
        8
    }

    fn layers(&self) -> usize {
        3
    }

    fn tied_roles(&self) -> &'static [&'static str] {
        &["in", "out"]
    }

    fn enter(&self, _: &Params, _: &Tensor, _: &dyn Layers) -> Result<State> {
        Err(Error::compute("a toy does not run"))
    }

    fn run_position(&self, _: usize, _: State, _: &Params, _: &dyn Layers) -> Result<State> {
        Err(Error::compute("a toy does not run"))
    }

    fn leave(&self, _: State, _: &Params, _: &dyn Layers) -> Result<Tensor> {
        Err(Error::compute("a toy does not run"))
    }
}

fn toy() -> Arc<dyn Net> {
    Arc::new(Toy)
}

fn config() -> Config {
    Config::from_json(r#"{"arch": "toy"}"#).expect("a valid configuration")
}

fn tensor(dtype: Dtype, shape: &[usize], data: Vec<f32>) -> RawTensor {
    RawTensor { shape: shape.to_vec(), dtype, data: Arc::new(data) }
}

/// Tensors that all differ, bf16 matrices and f32 vectors.
fn tensors() -> BTreeMap<String, RawTensor> {
    let fill = |(index, spec): (usize, TensorSpec)| {
        let count: usize = spec.shape.iter().product();
        let dtype = if spec.form == Form::Vector { Dtype::F32 } else { Dtype::Bf16 };
        let data = (0..count).map(|i| (16 * index + i) as f32).collect();
        (spec.name, tensor(dtype, &spec.shape, data))
    };
    Toy.tensors().into_iter().enumerate().map(fill).collect()
}

fn source(tensors: BTreeMap<String, RawTensor>, ties: Option<&str>) -> Source {
    let ties = ties.map(|text| TieMap::from_json(text).expect("a valid tie map"));
    Source {
        path: PathBuf::from("model.safetensors"),
        config: config(),
        tensors,
        ties,
        remarks: Vec::new(),
        sizes: Sizes::default(),
        beside: BTreeMap::new(),
    }
}

/// The name under which the tensor of `name` is stored.
fn stored_as<'a>(model: &'a Model, name: &str) -> &'a str {
    let spec = model.specs.iter().position(|s| s.name == name).expect("a name of the toy");
    &model.spec(model.source[spec]).name
}

/// An error as the command line prints it.
fn told(error: &Error) -> String {
    match &error.hint {
        Some(hint) => format!("error: {error}\nhint: {hint}"),
        None => format!("error: {error}"),
    }
}
