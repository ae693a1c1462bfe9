//! Makes what is missing of fixtures/golden: of a file that is to be made again, take its entry out of expected.json. Run it when the
//! format changes on purpose, never to make a test pass:
//!
//!     cargo test --release --test golden -- --ignored make

use std::collections::BTreeMap;
use std::sync::Arc;

use half::{bf16, f16};
use serde_json::{Map, Value, json};
use tiepack::artifact::open::decode;
use tiepack::compile::{self, Effort, Options, compile};
use tiepack::ingest::dtype::Element;
use tiepack::ingest::{Config, Dtype, RawTensor, Sizes, Source, TieMap};
use tiepack::model::{Kept, Model, Structure, build};
use tiepack::nets::{self, Form};
use tiepack::plan::{PLAN_VERSION, Part, Plan};
use tiepack::progress::Silent;
use tiepack::recipe::{Grid, Made, Odd, Prediction, Recipe, Terms};

use crate::{BESIDE, FOLDER, FOREIGN, LOSSLESS, QUANTIZED, hashes};

const CONFIG: &str = r#"{"arch":"parameter-golf-baseline","vocab_size":64,"num_layers":3,"model_dim":16,"num_heads":2,"num_kv_heads":1,"mlp_mult":2,"tie_embeddings":true,"logit_softcap":30.0,"rope_base":10000.0,"train_seq_len":32}"#;
/// Layer 2 is layer 0 again, so that a tie map is needed.
const TIES: &str = r#"{"copies":[0,1,0]}"#;
/// About four bits a weight: zeros, large indices and everything between occur.
const CAP: u64 = 3_000;

/// Deterministic noise, about normal: the sum of twelve uniform numbers.
struct Noise(u64);

impl Noise {
    fn bits(&mut self) -> u32 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 32) as u32
    }

    fn normal(&mut self) -> f64 {
        (0..12).map(|_| f64::from(self.bits()) / 4_294_967_296.0).sum::<f64>() - 6.0
    }
}

/// Rows and columns of different scales, a few outliers: what a coder must cope with.
fn matrix(noise: &mut Noise, rows: usize, cols: usize) -> Vec<f64> {
    let columns: Vec<f64> = (0..cols).map(|_| (0.5 * noise.normal()).exp2()).collect();
    let mut data = Vec::with_capacity(rows * cols);
    for _ in 0..rows {
        let row = 0.25 * (0.5 * noise.normal()).exp2();
        for column in &columns {
            let outlier = if noise.bits().is_multiple_of(199) { 12.0 } else { 1.0 };
            data.push(row * column * outlier * noise.normal());
        }
    }
    data
}

pub fn model() -> Model {
    let config = Config::from_json(CONFIG).unwrap();
    let net = nets::build(&config).unwrap();
    let mut noise = Noise(1);
    let mut tensors = BTreeMap::new();
    for spec in net.tensors() {
        // All three types: the embedding, the matrices, the vectors.
        let (dtype, values) = match spec.form {
            Form::Embedding => (Dtype::F16, matrix(&mut noise, spec.shape[0], spec.shape[1])),
            Form::Matrix => (Dtype::Bf16, matrix(&mut noise, spec.shape[0], spec.shape[1])),
            Form::Vector => {
                let n = spec.shape.iter().product::<usize>();
                (Dtype::F32, (0..n).map(|_| 1.0 + 0.1 * noise.normal()).collect())
            }
        };
        let round = |v: f64| match dtype {
            Dtype::F32 => v as f32,
            Dtype::F16 => f16::from_f64(v).to_f32(),
            Dtype::Bf16 => bf16::from_f64(v).to_f32(),
        };
        let data = Arc::new(values.into_iter().map(round).collect());
        // The file leaves out what is tied; the model takes it from layer 0.
        if spec.layer == Some(2) && spec.form == Form::Matrix {
            continue;
        }
        tensors.insert(spec.name, RawTensor { shape: spec.shape, dtype, data });
    }
    let ties = Some(TieMap::from_json(TIES).unwrap());
    build(
        Source {
            path: "golden".into(),
            config,
            tensors,
            ties,
            remarks: Vec::new(),
            sizes: Sizes::default(),
            beside: BTreeMap::new(),
        },
        net,
        None,
    )
    .unwrap()
}

/// A model that no network explains. Layer 3 is layer 0 again, layer 1 is near layer 0, and a branch does nothing.
fn foreign() -> Model {
    let mut noise = Noise(5);
    let mut tensors = BTreeMap::new();
    let mut add = |name: &str, shape: &[usize], data: Vec<f64>| {
        let data = Arc::new(data.into_iter().map(|v| v as f32).collect());
        tensors.insert(name.to_string(), RawTensor { shape: shape.to_vec(), dtype: Dtype::F32, data });
    };
    let base = matrix(&mut noise, 48, 32);
    for layer in 0..4 {
        let mixed: Vec<f64> = match layer {
            0 | 3 => base.clone(),
            1 => base.iter().zip(matrix(&mut noise, 48, 32)).map(|(a, b)| 0.7 * a + 0.3 * b).collect(),
            _ => matrix(&mut noise, 48, 32),
        };
        add(&format!("h.{layer}.mixer.weight"), &[48, 32], mixed);
        add(&format!("h.{layer}.gain"), &[32], (0..32).map(|_| 1.0 + 0.1 * noise.normal()).collect());
    }
    add("bank", &[2, 24, 32], matrix(&mut noise, 48, 32));
    add("silent", &[32, 32], vec![0.0; 1024]);
    add("kept", &[3, 5], matrix(&mut noise, 3, 5));
    let config = Config::none();
    let net = Err(tiepack::error::Error::input("there is no configuration"));
    let structure = Structure::of_file(net, &tensors);
    build(
        Source {
            path: "foreign".into(),
            config,
            tensors,
            ties: None,
            remarks: Vec::new(),
            sizes: Sizes::default(),
            beside: BTreeMap::new(),
        },
        structure,
        None,
    )
    .unwrap()
}

/// The same with a prefix before most names, a second name for one tensor, another for one, and what is no weight.
pub fn beside() -> Model {
    let mut model = foreign();
    let label = |(i, spec): (usize, &tiepack::nets::TensorSpec)| match &spec.name[..] {
        "bank" => vec![("bank".to_string(), i), ("store".to_string(), i)],
        "kept" => vec![("left.alone".to_string(), i)],
        name => vec![(format!("net.{name}"), i)],
    };
    model.labels = model.specs.iter().enumerate().flat_map(label).collect();
    let element = |name, size| Element::Integer(name, size);
    let elements = [
        element("i64", 8),
        element("bool", 1),
        element("u8", 1),
        element("i8", 1),
        element("i16", 2),
        element("u16", 2),
        element("i32", 4),
        element("u32", 4),
        element("u64", 8),
        Element::F32,
        Element::F16,
        Element::Bf16,
        Element::F64,
        Element::F8E4m3,
        Element::F8E5m2,
    ];
    let mut noise = Noise(9);
    let mut kept: Vec<Kept> = Vec::new();
    for (i, element) in elements.into_iter().enumerate() {
        let shape = if i % 4 == 0 { vec![] } else { vec![i, 3] };
        let count = shape.iter().product::<usize>() * element.size();
        let byte = |_| if element == Element::Integer("bool", 1) { noise.bits() as u8 & 1 } else { noise.bits() as u8 };
        let bytes = Arc::new((0..count).map(byte).collect());
        kept.push(Kept { name: format!("buffers.{i}.table"), shape, element, bytes });
    }
    let empty = Kept { name: "nothing".into(), shape: vec![0, 2], element: Element::F64, bytes: Arc::default() };
    kept.push(empty);
    model.keeping(kept)
}

/// Every way to make a tensor: alone, chains of sums with and without ranks and residuals, zeros, exact, vectors.
fn foreign_plan(model: &Model) -> Plan {
    let grid = |states, odd| Grid { states, odd };
    let step = 5e-4;
    let sum = |from: Option<&str>, rank, residual| {
        let prediction = from.map(|from| Prediction { from: from.to_string(), gain: None });
        Recipe::Sum(Terms { prediction, rank, residual })
    };
    let part = |tensors: &[&str], recipe| {
        let mut made = Made { recipe, step: 0.0 };
        if made.has_step() {
            made.step = step;
        }
        Part { tensors: tensors.iter().map(ToString::to_string).collect(), mean_of: Vec::new(), made }
    };
    let (first, second) = ("h.0.mixer.weight", "h.1.mixer.weight");
    let parts = vec![
        part(&[first], sum(None, 0, Some(grid(16, Odd::Plain)))),
        part(&[second], sum(Some(first), 2, Some(grid(4, Odd::WithZero)))),
        part(&["h.2.mixer.weight"], sum(Some(second), 0, Some(grid(1, Odd::WithZero)))),
        part(&["bank"], sum(None, 5, None)),
        part(&["silent"], Recipe::ZERO),
        part(&["kept"], Recipe::Exact),
        part(&["h.0.gain", "h.1.gain", "h.2.gain", "h.3.gain"], Recipe::Vectors),
    ];
    Plan { plan: PLAN_VERSION, model: model.digest().to_hex().to_string(), parts }
}

#[test]
#[ignore = "writes fixtures/golden"]
fn make() {
    let model = model();
    let mut noise = Noise(2);
    // Tokens with a little structure: mostly the one before plus one.
    let mut tokens = vec![0u32];
    for _ in 0..4096 {
        let last = tokens[tokens.len() - 1];
        tokens.push(if noise.bits().is_multiple_of(4) { noise.bits() % 64 } else { (last + 1) % 64 });
    }
    let path = format!("{FOLDER}/expected.json");
    let mut expected: Map<String, Value> = serde_json::from_str(&std::fs::read_to_string(&path).unwrap()).unwrap();
    let options = |cap| Options::new(cap, Effort::Fast);
    let foreign = foreign();
    let planned =
        || Options { curvature: compile::Source::Flat, plan: Some(foreign_plan(&foreign)), ..options(20_000) };
    let beside = beside();
    for (name, model, options) in [
        (QUANTIZED, &model, options(CAP)),
        (LOSSLESS, &model, Options { lossless: true, ..options(12_000) }),
        (FOREIGN, &foreign, planned()),
        (BESIDE, &beside, planned()),
    ] {
        // What is there stays as it is.
        if expected.contains_key(name) {
            continue;
        }
        let compiled = compile(model, Some(&tokens), &options, &Silent).unwrap();
        let opened = decode(&compiled.bytes).unwrap();
        let root = blake3::Hash::from_bytes(opened.parsed.root).to_hex().to_string();
        expected.insert(name.into(), json!({ "root": root, "tensors": hashes(&opened.model) }));
        std::fs::write(format!("{FOLDER}/{name}"), &compiled.bytes).unwrap();
    }
    let text = format!("{:#}\n", Value::Object(expected));
    std::fs::write(path, text).unwrap();
}
