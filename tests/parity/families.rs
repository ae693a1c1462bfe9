//! Every family against an independent implementation: fixtures/make_parity.py made the models and the figures.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use candle_core::{Device, Tensor, Var};
use serde_json::Value;
use tiepack::artifact::open::decode;
use tiepack::compile::{Effort, Options, compile};
use tiepack::eval::compare::losses;
use tiepack::eval::predictions::log_softmax;
use tiepack::eval::windows::Windows;
use tiepack::ingest::{self, Dtype, Overrides, RawTensor, TieMap, folder};
use tiepack::measure::curvature::{Curvature, measure};
use tiepack::measure::fisher::seed;
use tiepack::model::{Model, build};
use tiepack::nets::ops::linear::{Recorder, linear_transposed};
use tiepack::nets::{self, Layers, PlainLayers};
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
fn rows(golden: &Value) -> Vec<Vec<u32>> {
    let row = |row: &Value| numbers(row).into_iter().map(|t| t as u32).collect();
    golden["tokens"].as_array().unwrap().iter().map(row).collect()
}

#[test]
fn logits_and_losses_are_those_of_the_reference() {
    for folder in folders() {
        let (model, golden) = load(&folder);
        let (net, params, rows) = (model.network().unwrap(), model.params().unwrap(), rows(&golden));
        let length = rows[0].len() - 1;
        assert_eq!(net.context(), length, "{}", folder.display());
        let ids: Vec<u32> = rows.iter().flat_map(|row| row[..length].iter().copied()).collect();
        let ids = Tensor::from_vec(ids, (rows.len(), length), &Device::Cpu).unwrap();
        let logits = net.logits(&params, &ids, &PlainLayers).unwrap().to_vec3::<f32>().unwrap();
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
fn noise(vocab: usize, n: usize) -> Vec<u32> {
    let mut seed = 11u64;
    let mut next = || {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        ((seed >> 33) as usize % vocab) as u32
    };
    (0..n).map(|_| next()).collect()
}

#[test]
fn every_family_is_packed_and_comes_back() {
    for folder in folders() {
        let (model, _) = load(&folder);
        let net = model.network().unwrap();
        let calib = noise(net.vocab_size(), 24 * net.context() + 1);
        // Four bits a weight, and the control tensors.
        let options = Options::new((model.weights() / 2 + 6_000) as u64, Effort::Fast);
        let compiled = compile(&model, Some(&calib), &options, &Silent).unwrap();
        assert!(compiled.bytes.len() as u64 <= options.cap);
        assert!(compiled.dead.is_empty(), "{}: {:?}", folder.display(), compiled.dead);
        let packed = decode(&compiled.bytes).unwrap().model;
        assert_eq!(packed.network().unwrap().layers(), net.layers());
        let windows = Windows::new(&calib, net.context(), Some(8));
        let loss = |model: &Model| losses(net, &model.params().unwrap(), &windows, &|_| {}).unwrap().mean();
        let (before, after) = (loss(&model), loss(&packed));
        assert!((before - after).abs() < 0.3, "{}: loss {before}, packed {after}", folder.display());
    }
}

/// A loop is a tie: a layer that runs several times has the curvature that its copies have together.
#[test]
fn loops_are_measured_as_ties_are() {
    let (looped, _) = load(&Path::new(FOLDER).join("golf-loop"));
    let order = [0usize, 1, 2, 1, 2, 1, 0];
    let mut config = looped.config.clone();
    assert_eq!(config.fields.shift_remove("loop").unwrap(), serde_json::json!(order));
    config.fields.insert("num_layers".into(), order.len().into());
    let mut tensors = BTreeMap::new();
    for (spec, stored) in looped.specs.iter().zip(&looped.source) {
        let data = looped.stored[*stored].data.clone();
        let raw = RawTensor { shape: spec.shape.clone(), dtype: Dtype::F32, data };
        match spec.layer {
            None => drop(tensors.insert(spec.name.clone(), raw)),
            Some(layer) => {
                for step in (0..order.len()).filter(|step| order[*step] == layer) {
                    tensors.insert(format!("blocks.{step}.{}", spec.role), raw.clone());
                }
            }
        }
    }
    let ties = Some(TieMap::from_json(r#"{"copies": [0, 1, 2, 1, 2, 1, 0]}"#).unwrap());
    let net = nets::build(&config).unwrap();
    let source = ingest::Source {
        path: "tied".into(),
        config,
        tensors,
        ties,
        remarks: Vec::new(),
        sizes: ingest::Sizes::default(),
        beside: BTreeMap::new(),
    };
    let tied = build(source, net, None).unwrap();
    let tokens = noise(looped.network().unwrap().vocab_size(), 12 * looped.network().unwrap().context() + 1);
    let of = |model: &Model| {
        let windows = Windows::new(&tokens, model.network().unwrap().context(), None);
        measure(model, &windows, 1, &|_| Ok(())).unwrap().curvature
    };
    let (a, b) = (of(&looped), of(&tied));
    let mut compared = 0;
    for (i, one) in a.iter().enumerate() {
        let Curvature::Matrix(one) = one else { continue };
        let name = &looped.spec(i).name;
        let at = tied.specs.iter().position(|spec| spec.name == *name).unwrap();
        let Curvature::Matrix(other) = &b[tied.source[at]] else { panic!("{name} is no matrix") };
        for (x, y) in [(&one.input, &other.input), (&one.output, &other.output)] {
            let scale = x.iter().fold(0f32, |m, v| m.max(v.abs()));
            assert!(scale > 0.0 && x.iter().zip(y).all(|(x, y)| (x - y).abs() <= 1e-4 * scale), "{name}");
        }
        compared += 1;
    }
    assert_eq!(compared, 19, "three blocks of six matrices and the embedding");
}

/// Sums of what a matrix sees, in the terms of the network: |g|² x xᵀ and |x|² g gᵀ.
#[derive(Default)]
struct Seen {
    inputs: Vec<f64>,
    outputs: Vec<f64>,
}

struct Tap(Mutex<BTreeMap<String, Arc<Use>>>);

struct Use(Mutex<Seen>);

impl Recorder for Use {
    /// A transposed matrix is shown its output gradient first.
    fn record(&self, g: &Tensor, x: &Tensor) -> candle_core::Result<()> {
        let rows = |t: &Tensor| -> candle_core::Result<Vec<Vec<f32>>> { t.flatten_to(1)?.to_vec2::<f32>() };
        let (g, x) = (rows(g)?, rows(x)?);
        let mut seen = self.0.lock().unwrap();
        let Seen { inputs, outputs } = &mut *seen;
        let norm = |v: &[f32]| v.iter().map(|v| f64::from(*v) * f64::from(*v)).sum::<f64>();
        let add = |into: &mut Vec<f64>, v: &[f32], weight: f64| {
            into.resize(v.len() * v.len(), 0.0);
            for (i, a) in v.iter().enumerate() {
                for (j, b) in v.iter().enumerate() {
                    into[i * v.len() + j] += weight * f64::from(*a) * f64::from(*b);
                }
            }
        };
        for (x, g) in x.iter().zip(&g) {
            add(inputs, x, norm(g));
            add(outputs, g, norm(x));
        }
        Ok(())
    }
}

impl Layers for Tap {
    fn linear(&self, name: &str, x: &Tensor, w: &Tensor) -> tiepack::error::Result<Tensor> {
        PlainLayers.linear(name, x, w)
    }

    fn linear_transposed(&self, name: &str, x: &Tensor, w: &Tensor) -> tiepack::error::Result<Tensor> {
        let fresh = || Arc::new(Use(Mutex::new(Seen::default())));
        let recorder = self.0.lock().unwrap().entry(name.into()).or_insert_with(fresh).clone();
        Ok(linear_transposed(x, w, Some(recorder))?)
    }

    fn embed(&self, name: &str, table: &Tensor, tokens: &Tensor) -> tiepack::error::Result<Tensor> {
        // A variable, without which nothing would be differentiated.
        Ok(Var::from_tensor(&PlainLayers.embed(name, table, tokens)?)?.as_tensor().clone())
    }
}

#[test]
fn transposed_matrices_show_what_pytorch_sees() {
    let (model, golden) = load(&Path::new(FOLDER).join("gpt2"));
    let (net, params) = (model.network().unwrap(), model.params().unwrap());
    let tap = Tap(Mutex::new(BTreeMap::new()));
    for row in rows(&golden) {
        let length = row.len() - 1;
        let ids = Tensor::from_vec(row[..length].to_vec(), (1, length), &Device::Cpu);
        let logits = net.logits(&params, &ids.unwrap(), &tap).unwrap();
        // The gradient of the summed loss: softmax minus the real next token.
        let mut g = logits.to_vec3::<f32>().unwrap().remove(0);
        for (g, target) in g.iter_mut().zip(&row[1..]) {
            log_softmax(g);
            g.iter_mut().for_each(|v| *v = v.exp());
            g[*target as usize] -= 1.0;
        }
        let g = Tensor::from_vec(g.concat(), logits.shape(), &Device::Cpu).unwrap();
        seed(&logits, g).unwrap().backward().unwrap();
    }
    let seen = tap.0.into_inner().unwrap();
    let wanted = golden["fisher"].as_object().unwrap();
    assert_eq!(wanted.len(), 2);
    for (name, wanted) in wanted {
        let seen = seen[name].0.lock().unwrap();
        for (found, wanted) in [(&seen.inputs, &wanted["inputs"]), (&seen.outputs, &wanted["outputs"])] {
            let n = found.len().isqrt();
            let scale = (0..n).map(|i| found[i * (n + 1)]).fold(0.0, f64::max);
            for (i, line) in wanted.as_array().unwrap().iter().enumerate() {
                for (j, wanted) in numbers(line).into_iter().enumerate() {
                    let error = (found[i * n + j] - wanted).abs();
                    assert!(error < 1e-3 * scale, "{name} ({i}, {j}): {} against {wanted}", found[i * n + j]);
                }
            }
        }
        let n = seen.inputs.len().isqrt();
        let trace: f64 = (0..n).map(|i| seen.inputs[i * (n + 1)]).sum();
        assert!((trace / wanted["trace"].as_f64().unwrap() - 1.0).abs() < 1e-4, "{name}: trace {trace}");
    }
}
