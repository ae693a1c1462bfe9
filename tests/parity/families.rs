//! Every family against an independent implementation: fixtures/make_parity.py made the models and the figures.

use std::path::{Path, PathBuf};

use candle_core::{Device, Tensor};
use serde_json::Value;
use tiepack::artifact::open::decode;
use tiepack::compile::{Effort, Options, Source, compile};
use tiepack::eval::compare::losses;
use tiepack::eval::windows::Windows;
use tiepack::ingest::{self, Overrides, folder};
use tiepack::measure::curvature::{Curvature, measure};
use tiepack::model::{Model, build};
use tiepack::nets::{self, Plain};
use tiepack::progress::Silent;

const FOLDER: &str = "fixtures/parity";

fn folders() -> Vec<PathBuf> {
    let mut found: Vec<PathBuf> = std::fs::read_dir(FOLDER).unwrap().map(|entry| entry.unwrap().path()).collect();
    found.sort();
    assert!(found.len() >= 13, "fixtures/parity has lost models");
    found
}

fn load(folder: &Path) -> (Model, Value) {
    let located = folder::locate(folder, &Overrides::default()).unwrap();
    let source = ingest::read(&located).unwrap();
    let net = nets::build(&source.config).unwrap();
    let model = build(source, net, None).unwrap();
    (model, serde_json::from_str(&std::fs::read_to_string(folder.join("golden.json")).unwrap()).unwrap())
}

fn numbers(value: &Value) -> Vec<f64> {
    value.as_array().unwrap().iter().map(|v| v.as_f64().unwrap()).collect()
}

/// Rows of inputs and one target more, joined: rows are evaluated one by one.
fn rows(golden: &Value) -> Vec<Vec<u16>> {
    let row = |row: &Value| numbers(row).into_iter().map(|t| t as u16).collect();
    golden["tokens"].as_array().unwrap().iter().map(row).collect()
}

#[test]
fn logits_and_losses_are_those_of_the_reference() {
    for folder in folders() {
        let (model, golden) = load(&folder);
        let (net, params, rows) = (model.network().unwrap(), model.params().unwrap(), rows(&golden));
        let length = rows[0].len() - 1;
        assert_eq!(net.context(), length, "{}", folder.display());
        let ids: Vec<u32> = rows.iter().flat_map(|row| row[..length].iter().map(|t| u32::from(*t))).collect();
        let ids = Tensor::from_vec(ids, (rows.len(), length), &Device::Cpu).unwrap();
        let logits = net.logits(&params, &ids, &Plain).unwrap().to_vec3::<f32>().unwrap();
        let scale = logits.iter().flatten().flatten().fold(0f32, |m, v| m.max(v.abs()));
        for (r, positions) in golden["logits"].as_array().unwrap().iter().enumerate() {
            for (wanted, t) in positions.as_array().unwrap().iter().zip(numbers(&golden["positions"])) {
                for (found, wanted) in logits[r][t as usize].iter().zip(numbers(wanted)) {
                    let error = (f64::from(*found) - wanted).abs();
                    assert!(error < 1e-4 * f64::from(scale), "{}: {found} against {wanted}", folder.display());
                }
            }
        }
        let total: f64 = rows
            .iter()
            .map(|row| losses(net, &params, &Windows::new(row, length, None), &|_| {}).unwrap().total())
            .sum();
        let mean = total / (rows.len() * length) as f64;
        let wanted = golden["mean_loss"].as_f64().unwrap();
        assert!((mean - wanted).abs() < 1e-5, "{}: mean loss {mean} against {wanted}", folder.display());
    }
}

/// Tokens with as much structure as a random network shows: none.
fn noise(vocab: usize, n: usize) -> Vec<u16> {
    let mut seed = 11u64;
    let mut next = || {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        ((seed >> 33) as usize % vocab) as u16
    };
    (0..n).map(|_| next()).collect()
}

#[test]
fn every_family_is_packed_and_comes_back() {
    for folder in folders() {
        let (model, _) = load(&folder);
        let net = model.network().unwrap();
        let calib = noise(net.vocab_size(), 24 * net.context() + 1);
        let options = Options {
            // Four bits a weight, and the control tensors.
            cap: (model.weights() / 2 + 6_000) as u64,
            includes: 0,
            effort: Effort::Fast,
            seed: 0,
            lossless: false,
            calib_rows: None,
            cache: None,
            curvature: Source::Measured,
            plan: None,
        };
        let compiled = compile(&model, Some(&calib), &options, &Silent).unwrap();
        assert!(compiled.bytes.len() as u64 <= options.cap);
        assert!(compiled.silent.is_empty(), "{}: {:?}", folder.display(), compiled.silent);
        let packed = decode(&compiled.bytes).unwrap().model;
        assert_eq!(packed.network().unwrap().layers(), net.layers());
        let windows = Windows::new(&calib, net.context(), Some(8));
        let loss = |model: &Model| losses(net, &model.params().unwrap(), &windows, &|_| {}).unwrap().mean();
        let (before, after) = (loss(&model), loss(&packed));
        assert!((before - after).abs() < 0.3, "{}: loss {before}, packed {after}", folder.display());
    }
}

/// The curvature of a layer that runs several times is that of the sum of its uses: it exceeds that of one use.
#[test]
fn loops_are_measured_at_every_use() {
    let (model, _) = load(&Path::new(FOLDER).join("golf-loop"));
    let net = model.network().unwrap();
    let tokens = noise(net.vocab_size(), 12 * net.context() + 1);
    let measured = measure(&model, &Windows::new(&tokens, net.context(), None), 1, &|_| {}).unwrap();
    for (i, curvature) in measured.iter().enumerate() {
        if let Curvature::Matrix(factors) = curvature {
            assert!(!factors.vanishes(), "{}", model.spec(i).name);
        }
    }
}
