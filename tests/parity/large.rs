//! Large vocabularies: what is computed in pieces of the positions is what all of them at once give.

use candle_core::{Device, Tensor, Var};
use serde_json::json;
use tiepack::eval::logits::{predict, tokens};
use tiepack::eval::predictions::{CPU_LOGITS, Predictions};
use tiepack::eval::windows::Windows;
use tiepack::measure::fisher::seed;
use tiepack::model::Model;
use tiepack::nets::{Params, PlainLayers};
use tiepack::train::gradient::gradient;
use tiepack::train::objective::Objective;
use tiepack::train::teacher::Teacher;

use crate::keys::model;

const VOCAB: usize = 90_000;
const LENGTH: usize = 400;

fn large() -> (Model, Vec<u32>) {
    let model = model(json!({
        "model_type": "llama", "vocab_size": VOCAB, "hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1,
        "num_attention_heads": 1, "max_position_embeddings": LENGTH, "tie_word_embeddings": true,
    }));
    const { assert!(LENGTH * VOCAB > CPU_LOGITS) };
    (model.unwrap(), (0..=LENGTH).map(|i| (i * 7919 % 60_000) as u32).collect())
}

/// A model with all weights a little larger.
fn changed(model: &Model) -> Vec<Vec<f32>> {
    model.stored.iter().map(|stored| stored.data.iter().map(|v| v * 1.1).collect()).collect()
}

fn params(model: &Model, weights: &[Vec<f32>]) -> (Vec<Var>, Params) {
    let var = |(i, w): (usize, &Vec<f32>)| {
        Var::from_tensor(&Tensor::from_slice(w, model.shape(i), &Device::Cpu).unwrap()).unwrap()
    };
    let vars: Vec<Var> = weights.iter().enumerate().map(var).collect();
    let named = model.specs.iter().zip(&model.source);
    let params = named.map(|(spec, i)| (spec.name.clone(), vars[*i].as_tensor().clone())).collect();
    (vars, params)
}

#[test]
fn predictions_in_pieces_are_those_of_all() {
    let (model, text) = large();
    let net = model.network().unwrap();
    let windows = Windows::new(&text, LENGTH, None);
    let both = [model.params().unwrap(), params(&model, &changed(&model)).1];
    let whole = both.each_ref().map(|params| {
        let ids = tokens(&windows, 0..1, &Device::Cpu).unwrap();
        Predictions::of(&net.logits(params, &ids, &PlainLayers).unwrap()).unwrap()
    });
    let parts = both.each_ref().map(|params| predict(net, params, &windows, 0..1).unwrap());
    assert!(parts.iter().all(|part| matches!(part, Predictions::Head(_))));
    assert!(parts[0].pieces().unwrap().len() > 1);
    let targets = windows.target(0);
    for (whole, part) in whole.iter().zip(&parts) {
        assert_eq!(whole.losses(targets.iter()).unwrap(), part.losses(targets.iter()).unwrap());
        assert_eq!(whole.tops().unwrap(), part.tops().unwrap());
    }
    let wanted = whole[0].divergence(&whole[1]).unwrap();
    assert!(wanted.iter().sum::<f32>() > 0.0);
    assert_eq!(wanted, parts[0].divergence(&parts[1]).unwrap());
    assert_eq!(wanted, whole[0].divergence(&parts[1]).unwrap());
}

#[test]
fn gradients_in_pieces_are_those_of_all() {
    let (model, text) = large();
    let net = model.network().unwrap();
    let windows = Windows::new(&text, LENGTH, None);
    let teacher = Teacher::new(net, model.params().unwrap());
    let weights = changed(&model);
    let objective = Objective::Both;
    let found = gradient(&model, &weights, Some(&teacher), &vec![windows], objective).unwrap();

    let (vars, params) = params(&model, &weights);
    let ids = tokens(&windows, 0..1, &Device::Cpu).unwrap();
    let original = Predictions::of(&net.logits(teacher.params(), &ids, &PlainLayers).unwrap()).unwrap();
    let logits = net.logits(&params, &ids, &PlainLayers).unwrap();
    let (totals, cotangent) = objective.gradient(&logits, Some(&original), windows.target(0)).unwrap();
    let grads = seed(&logits, cotangent).unwrap().backward().unwrap();
    assert!((found.totals.mean(objective) - totals.mean(objective)).abs() < 1e-6);
    assert_eq!(found.totals.positions, totals.positions);
    for (i, (found, var)) in found.tensors.iter().zip(&vars).enumerate() {
        let wanted: Vec<f32> = grads.get(var).unwrap().flatten_all().unwrap().to_vec1().unwrap();
        let wanted: Vec<f32> = wanted.iter().map(|g| g / LENGTH as f32).collect();
        let largest = wanted.iter().fold(0f32, |m, v| m.max(v.abs()));
        let off = found.iter().zip(&wanted).fold(0f32, |m, (a, b)| m.max((a - b).abs()));
        assert!(largest > 0.0 && off < 1e-4 * largest, "{}: off by {off:e} of {largest:e}", model.spec(i).name);
    }
}
