//! Every key of config.json has a treatment, and the losses that it leads to are transformers': fixtures/make_keys.py made
//! keys.json and says what is in it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::{Map, Value, json};
use tiepack::eval::compare::losses;
use tiepack::eval::windows::Windows;
use tiepack::ingest::{self, Config, Dtype, Overrides, RawTensor, Remark, Source, folder};
use tiepack::model::{Model, build};
use tiepack::nets::keys::{Treatment, treatment};
use tiepack::nets::{self, guess};

use crate::LOSS;

const ROWS: usize = 2;
const LENGTH: usize = 24;

fn table() -> Map<String, Value> {
    let text = std::fs::read_to_string("tests/parity/keys.json").unwrap();
    serde_json::from_str(&text).unwrap()
}

/// An integer hash of a name and places in it.
fn noise(name: &str, n: usize) -> impl Iterator<Item = u32> {
    let start = name.bytes().fold(2_166_136_261u32, |h, byte| (h ^ u32::from(byte)).wrapping_mul(16_777_619));
    (0..n as u32).map(move |i| {
        let mut x = start.wrapping_add(i.wrapping_mul(2_654_435_761));
        x = (x ^ x >> 16).wrapping_mul(0x7FEB_352D);
        x = (x ^ x >> 15).wrapping_mul(0x846C_A68B);
        x ^ x >> 16
    })
}

fn weights(name: &str, shape: &[usize]) -> RawTensor {
    let width = *shape.last().unwrap() as f64;
    let one = |x: u32| {
        let u = f64::from(x >> 8) / 16_777_216.0 - 0.5;
        let v = match shape.len() {
            1 if name.ends_with("bias") => u,
            1 => 1.0 + u,
            _ => 4.0 * u / width.sqrt(),
        };
        v as f32
    };
    let data = Arc::new(noise(name, shape.iter().product()).map(one).collect());
    RawTensor { shape: shape.to_vec(), dtype: Dtype::F32, data }
}

/// The model of a configuration with weights from the formula.
pub fn model(config: Value) -> tiepack::error::Result<Model> {
    let config = Config::from_json(&config.to_string()).unwrap();
    let net = nets::build(&config)?;
    let tensors: BTreeMap<_, _> =
        net.tensors().into_iter().map(|spec| (spec.name.clone(), weights(&spec.name, &spec.shape))).collect();
    build(Source { path: PathBuf::from("made"), config, tensors, ties: None, remarks: Vec::new() }, net, None)
}

fn loss(model: &Model) -> f64 {
    let (net, params) = (model.network().unwrap(), model.params().unwrap());
    let tokens: Vec<u32> =
        noise("tokens", ROWS * (LENGTH + 1)).map(|x| ((x >> 8) as usize % net.vocab_size()) as u32).collect();
    let row = |row: &[u32]| losses(net, &params, &Windows::new(row, LENGTH, None), &|_| {}).unwrap().total();
    tokens.chunks_exact(LENGTH + 1).map(row).sum::<f64>() / (ROWS * LENGTH) as f64
}

/// A configuration with some keys changed; what is "absent" is taken out.
fn changed(base: &Value, changes: &Value) -> Value {
    let mut fields = base.as_object().unwrap().clone();
    for (key, value) in changes.as_object().unwrap() {
        if value == &json!("absent") {
            fields.shift_remove(key);
        } else {
            fields.insert(key.clone(), value.clone());
        }
    }
    Value::Object(fields)
}

#[test]
fn every_key_that_is_read_gives_the_loss_of_transformers() {
    let mut compared = 0;
    for (arch, family) in table() {
        let of = |changes: &Value, wanted: f64, most: f64| {
            let model = model(changed(&family["base"], changes)).unwrap_or_else(|e| panic!("{arch} {changes}: {e}"));
            assert!(model.remarks.is_empty(), "{arch} {changes}: {:?}", model.remarks);
            let found = loss(&model);
            assert!((found - wanted).abs() < most, "{arch} {changes}: {found} instead of {wanted}");
        };
        let usual = family["loss"].as_f64().unwrap();
        of(&json!({}), usual, LOSS);
        of(&family["silent"], usual, LOSS);
        for case in family["read"].as_array().unwrap() {
            of(&case["changes"], case["loss"].as_f64().unwrap(), LOSS);
            compared += 1;
        }
    }
    assert!(compared > 150, "{compared}");
}

#[test]
fn every_key_that_is_known_has_a_treatment_and_a_case() {
    for (arch, family) in table() {
        let tables = nets::keys_of(&arch).unwrap();
        for key in family["known"].as_array().unwrap() {
            let key = key.as_str().unwrap();
            assert!(treatment(tables, key).is_some(), "{arch}: transformers knows {key}");
        }
        let read: Vec<&str> =
            family["read"].as_array().unwrap().iter().map(|case| case["key"].as_str().unwrap()).collect();
        let refused: Vec<&Map<String, Value>> =
            family["refused"].as_array().unwrap().iter().map(|case| case.as_object().unwrap()).collect();
        for (kind, keys) in tables.iter().flat_map(|table| table.iter()) {
            for key in *keys {
                match kind {
                    // What names the family, what is tiepack's own, and how nanoGPT's MLP was in its first months.
                    Treatment::Read if ["arch", "model_type", "tiepack_context"].contains(key) => {}
                    Treatment::Read if arch == "nanogpt" && *key == "activation_function" => {}
                    Treatment::Read => assert!(read.contains(key), "{arch}: {key} is read, without a loss"),
                    Treatment::Only(..) => {
                        assert!(refused.iter().any(|case| case.contains_key(*key)), "{arch}: {key} is never refused");
                    }
                    Treatment::Silent => {}
                }
            }
        }
    }
}

#[test]
fn other_values_are_refused_by_name() {
    for (arch, family) in table() {
        for changes in family["refused"].as_array().unwrap() {
            let error = model(changed(&family["base"], changes)).err().unwrap_or_else(|| panic!("{arch} {changes}"));
            let named = changes.as_object().unwrap().keys().any(|key| error.message.contains(&key[..]));
            assert!(named || error.message.contains("rope scaling"), "{arch} {changes}: {error}");
            assert!(error.message.starts_with("config.json: "), "{error}");
        }
    }
}

/// A checkpoint as nanoGPT's train.py saves it is read by what it says of its network itself.
#[test]
fn a_checkpoint_of_nanogpt_needs_no_configuration() {
    let folder = Path::new("fixtures/nanogpt");
    let mut source = ingest::read(&folder::locate(folder, &Overrides::default()).unwrap()).unwrap();
    assert!(source.config.fields.is_empty());
    let settings = source.remarks.iter().find_map(|remark| match remark {
        Remark::Settings(settings) => Some(settings.clone()),
        _ => None,
    });
    let shapes = source.tensors.iter().map(|(name, tensor)| (name.clone(), tensor.shape.clone())).collect();
    source.config = guess::stated(&shapes, &settings.unwrap()).unwrap().config;
    let net = nets::build(&source.config).unwrap();
    let found = loss(&build(source, net, None).unwrap());
    let wanted: Value = serde_json::from_str(&std::fs::read_to_string(folder.join("loss.json")).unwrap()).unwrap();
    let wanted = wanted["loss"].as_f64().unwrap();
    assert!((found - wanted).abs() < LOSS, "{found} instead of {wanted}");
}

#[test]
fn keys_that_nobody_knows_are_said() {
    let table = table();
    let base = &table["llama"]["base"];
    let changes = json!({"sliding_window": 5, "logit_scale": 2.0, "rope_parameters": {"rope_type": "linear", "factor": 2.0, "x": 1}});
    let model = model(changed(base, &changes)).unwrap();
    let [Remark::Unread { arch, keys }] = &model.remarks[..] else { panic!("{:?}", model.remarks) };
    assert_eq!((&arch[..], &keys[..].join(" ")[..]), ("llama", "sliding_window logit_scale rope_parameters.x"));
}
