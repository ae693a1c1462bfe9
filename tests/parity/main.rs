//! The networks compute what PyTorch computes: fixtures/pep-tiny/golden.json, described at the head of
//! fixtures/make_golden.py.

mod curvature;
mod families;
mod keys;
mod large;

use std::path::Path;

use candle_core::{DType, Device, Tensor};
use serde_json::Value;
use tiepack::eval::bits::{bits_per_byte, target_bytes};
use tiepack::eval::compare::losses;
use tiepack::eval::windows::Windows;
use tiepack::ingest::{self, Located, Overrides, TokenBytes, folder};
use tiepack::model::{Model, build};
use tiepack::nets::{self, PlainLayers};

const FOLDER: &str = "fixtures/pep-tiny";
/// Largest difference of a logit; f32 and f64 differ by 3.3e-5 in PyTorch itself.
const LOGIT: f64 = 1e-4;
/// Largest difference of a mean loss in nats.
const LOSS: f64 = 1e-5;

fn golden() -> Value {
    let text = std::fs::read_to_string(Path::new(FOLDER).join("golden.json")).unwrap();
    serde_json::from_str(&text).unwrap()
}

fn model() -> (Located, Model) {
    let located = folder::locate(Path::new(FOLDER), &Overrides::default()).unwrap();
    let source = ingest::read(&located).unwrap();
    let net = nets::build(&source.config).unwrap();
    (located, build(source, net, None).unwrap())
}

fn numbers(value: &Value) -> Vec<f64> {
    value.as_array().unwrap().iter().map(|v| v.as_f64().unwrap()).collect()
}

fn indices(value: &Value) -> Vec<usize> {
    value.as_array().unwrap().iter().map(|v| v.as_u64().unwrap() as usize).collect()
}

#[test]
fn logits_are_those_of_pytorch() {
    let (golden, (_, model)) = (golden(), model());
    let params = model.params().unwrap();
    let vocab = model.network().unwrap().vocab_size();
    for (row, wanted) in golden["rows"].as_array().unwrap().iter().enumerate() {
        let tokens: Vec<u32> = indices(&wanted["tokens"]).iter().map(|&t| t as u32).collect();
        let length = tokens.len();
        let tokens = Tensor::from_vec(tokens, (1, length), &Device::Cpu).unwrap();
        let logits = model.network().unwrap().logits(&params, &tokens, &PlainLayers).unwrap();
        assert_eq!(logits.dims(), [1, length, vocab]);
        let logits: Vec<f32> = logits.flatten_all().unwrap().to_vec1().unwrap();
        let at = |position: usize| &logits[position * vocab..(position + 1) * vocab];
        let close = |found: f64, wanted: f64, what: &str| {
            let off = (found - wanted).abs();
            assert!(off < LOGIT, "row {row}, {what}: {found} instead of {wanted}, off by {off:.1e}");
        };

        let (ids, targets) = (indices(&wanted["ids"]), indices(&wanted["targets"]));
        for (i, position) in indices(&wanted["positions"]).into_iter().enumerate() {
            let here = at(position);
            for (&id, wanted) in ids.iter().zip(numbers(&wanted["logits"][i])) {
                close(f64::from(here[id]), wanted, &format!("logit of token {id} at {position}"));
            }
            let target = wanted["target_logits"][i].as_f64().unwrap();
            close(f64::from(here[targets[position]]), target, &format!("logit of the target at {position}"));
            let sum = here.iter().map(|&x| f64::from(x).exp()).sum::<f64>().ln();
            close(sum, wanted["logsumexp"][i].as_f64().unwrap(), &format!("log-sum-exp at {position}"));
        }
        for (position, wanted) in wanted["full_logits"].as_object().unwrap() {
            let wanted = numbers(wanted);
            assert_eq!(wanted.len(), vocab);
            for (id, (found, wanted)) in at(position.parse().unwrap()).iter().zip(wanted).enumerate() {
                close(f64::from(*found), wanted, &format!("logit of token {id} at {position}"));
            }
        }
    }
}

/// What is neither f32 nor on the CPU runs on candle's own operations: in f64 they must come to the same.
#[test]
fn composed_operations_give_the_logits_of_fused_ones() {
    let (golden, (_, model)) = (golden(), model());
    let params = model.params().unwrap();
    let wide = params.iter().map(|(name, t)| (name.clone(), t.to_dtype(DType::F64).unwrap())).collect();
    for wanted in golden["rows"].as_array().unwrap() {
        let tokens: Vec<u32> = indices(&wanted["tokens"]).iter().map(|&t| t as u32).collect();
        let length = tokens.len();
        let tokens = Tensor::from_vec(tokens, (1, length), &Device::Cpu).unwrap();
        let net = model.network().unwrap();
        let fused = net.logits(&params, &tokens, &PlainLayers).unwrap().to_dtype(DType::F64).unwrap();
        let composed = net.logits(&wide, &tokens, &PlainLayers).unwrap();
        assert_eq!((composed.dtype(), composed.dims()), (DType::F64, fused.dims()));
        let off = (fused - composed).unwrap().abs().unwrap().max_all().unwrap().to_scalar::<f64>().unwrap();
        assert!(off < LOGIT, "off by {off:.1e}");
    }
}

#[test]
fn losses_are_those_of_pytorch() {
    let (golden, (located, model)) = (golden(), model());
    let wanted = &golden["loss"];
    let tokens = located.val_tokens(model.network().unwrap().vocab_size()).unwrap();
    let rows = wanted["rows"].as_u64().unwrap() as usize;
    let windows = Windows::new(&tokens, model.network().unwrap().context(), Some(rows));
    assert_eq!(windows.tokens() as u64, wanted["tokens"].as_u64().unwrap());
    let found = losses(model.network().unwrap(), &model.params().unwrap(), &windows, &|_| {}).unwrap();

    let mean = wanted["mean_nats"].as_f64().unwrap();
    assert!((found.mean() - mean).abs() < LOSS, "mean loss {} instead of {mean}", found.mean());
    for (row, (nats, wanted)) in found.rows.iter().zip(numbers(&wanted["row_means"])).enumerate() {
        let mean = nats / found.length as f64;
        assert!((mean - wanted).abs() < LOSS, "mean loss of row {row}: {mean} instead of {wanted}");
    }

    let table = TokenBytes::read(located.tokenizer.as_deref().unwrap()).unwrap();
    let bytes = target_bytes(&windows, &table);
    assert_eq!(bytes, wanted["target_bytes"].as_u64().unwrap());
    let (bits, wanted) = (bits_per_byte(found.total(), bytes).unwrap(), wanted["bits_per_byte"].as_f64().unwrap());
    assert!((bits - wanted).abs() < LOSS, "{bits} bits per byte instead of {wanted}");
}
