//! What the search over structures finds, and how it is driven.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use safetensors::tensor::{Dtype, TensorView, serialize_to_file};
use serde_json::{Value, json};

use crate::{run, scratch};

const WIDTH: usize = 64;
const VOCAB: usize = 96;
const LENGTH: usize = 32;

/// Numbers between −1 and 1, the same ones for the same seed.
struct Numbers(u64);

impl Numbers {
    fn next(&mut self) -> f32 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    }

    /// Nearly normal, of variance `scale`².
    fn normal(&mut self, n: usize, scale: f32) -> Vec<f32> {
        (0..n).map(|_| scale * (self.next() + self.next() + self.next())).collect()
    }
}

/// Eight layers: 4 is 1 plus a low-rank term, 5 is nearly 1, 6 is its own, nothing depends on 7; and random tokens.
fn planted(dir: &Path) {
    let mut numbers = Numbers(11);
    let mut tensors: BTreeMap<String, (Vec<usize>, Vec<f32>)> = BTreeMap::new();
    let roles = [
        ("attn.c_q.weight", WIDTH, WIDTH),
        ("attn.c_k.weight", WIDTH, WIDTH),
        ("attn.c_v.weight", WIDTH, WIDTH),
        ("attn.proj.weight", WIDTH, WIDTH),
        ("mlp.fc.weight", 2 * WIDTH, WIDTH),
        ("mlp.proj.weight", WIDTH, 2 * WIDTH),
    ];
    tensors.insert("tok_emb.weight".into(), (vec![VOCAB, WIDTH], numbers.normal(VOCAB * WIDTH, 0.15)));
    tensors.insert("skip_weights".into(), (vec![4, WIDTH], vec![0.3; 4 * WIDTH]));
    for layer in 0..8 {
        let at = |role: &str| format!("blocks.{layer}.{role}");
        for (role, rows, cols) in roles {
            let fresh = numbers.normal(rows * cols, 0.12);
            let first = tensors.get(&format!("blocks.1.{role}")).map(|(_, data)| data.clone());
            let data = match (layer, first) {
                (4, Some(mut w)) => {
                    for _ in 0..3 {
                        let (a, b) = (numbers.normal(rows, 0.25), numbers.normal(cols, 0.25));
                        w.iter_mut().enumerate().for_each(|(k, w)| *w += a[k / cols] * b[k % cols]);
                    }
                    w
                }
                // Not equal: that would be a tie.
                (5, Some(w)) => w.iter().zip(&fresh).map(|(w, n)| w + 1e-4 * n).collect(),
                _ => fresh,
            };
            tensors.insert(at(role), (vec![rows, cols], data));
        }
        let scale = if layer == 7 { 0.0 } else { 0.7 };
        tensors.insert(at("attn.q_gain"), (vec![2], vec![1.5; 2]));
        tensors.insert(at("attn_scale"), (vec![WIDTH], vec![scale; WIDTH]));
        tensors.insert(at("mlp_scale"), (vec![WIDTH], vec![scale; WIDTH]));
        let mix = [vec![1.0; WIDTH], vec![0.0; WIDTH]].concat();
        tensors.insert(at("resid_mix"), (vec![2, WIDTH], mix));
    }
    let bytes: BTreeMap<&String, (Vec<usize>, Vec<u8>)> = tensors
        .iter()
        .map(|(name, (shape, data))| (name, (shape.clone(), data.iter().flat_map(|v| v.to_le_bytes()).collect())))
        .collect();
    let views: BTreeMap<&String, TensorView> = bytes
        .iter()
        .map(|(name, (shape, data))| (*name, TensorView::new(Dtype::F32, shape.clone(), data).unwrap()))
        .collect();
    serialize_to_file(views, None, &dir.join("model.safetensors")).unwrap();
    let config = json!({
        "arch": "parameter-golf-baseline", "vocab_size": VOCAB, "num_layers": 8, "model_dim": WIDTH, "num_heads": 2,
        "num_kv_heads": 2, "mlp_mult": 2, "tie_embeddings": true, "logit_softcap": 30.0, "rope_base": 10000.0,
        "train_seq_len": LENGTH
    });
    fs::write(dir.join("config.json"), config.to_string()).unwrap();
    let tokens: Vec<u16> =
        (0..16_000).map(|_| ((numbers.next() + 1.0) * 0.5 * VOCAB as f32) as u16 % VOCAB as u16).collect();
    let mut shard = vec![0i32; 256];
    shard[..3].copy_from_slice(&[20240520, 1, tokens.len() as i32]);
    let head = shard.iter().flat_map(|v| v.to_le_bytes());
    fs::write(dir.join("train_000.bin"), head.chain(tokens.iter().flat_map(|t| t.to_le_bytes())).collect::<Vec<u8>>())
        .unwrap();
}

/// What a plan makes of every stored matrix, by name.
fn made(plan: &Path) -> BTreeMap<String, Value> {
    let plan: Value = serde_json::from_slice(&fs::read(plan).unwrap()).unwrap();
    let parts = plan["parts"].as_array().unwrap().iter();
    parts
        .flat_map(|part| {
            part["tensors"].as_array().unwrap().iter().map(|t| (t.as_str().unwrap().to_string(), part["made"].clone()))
        })
        .collect()
}

#[test]
fn a_planted_structure_is_found() {
    let dir = scratch();
    fs::create_dir(dir.path().join("model")).unwrap();
    planted(&dir.path().join("model"));
    let pack = |out: &str, more: &str| {
        let options = "--cap 73000 --effort fast --no-eval --cache {}/cache";
        run(&format!("pack {{}}/model -o {{}}/{out}.tiepack {options} --write-plan {{}}/{out}.json {more}"), dir.path())
    };
    let searched = pack("searched", "--json").good().json();
    let plan = made(&dir.path().join("searched.json"));
    let mut found = String::new();
    for (name, made) in plan.iter().filter(|(name, _)| name.ends_with(".weight")) {
        let sum = &made["sum"];
        let how = match (made.as_str(), made.get("matrix"), sum["from"].as_str()) {
            (Some(word), _, _) => word.to_string(),
            (_, Some(_), _) => "alone".into(),
            (_, _, from) => {
                let grid = if sum["residual"].is_null() { "" } else { " + grid" };
                format!("{} + rank {}{grid}", from.unwrap_or("nothing"), sum["rank"].as_u64().unwrap_or(0))
            }
        };
        found.push_str(&format!("{name}: {how}\n"));
    }
    insta::assert_snapshot!(found);
    assert_eq!(searched["structure"]["rows"].as_array().unwrap().len(), 49);

    // At the same cap nothing else comes near: the predicted loss of storing every layer is many times as high.
    let lost = |document: &Value| -> f64 {
        document["structure"]["rows"].as_array().unwrap().iter().map(|row| row["nats"].as_f64().unwrap()).sum()
    };
    let declared = pack("declared", "--shape declared --json").good().json();
    assert!(lost(&declared) > 2.0 * lost(&searched), "{} against {}", lost(&declared), lost(&searched));

    // The plan is the structure: executing it gives the same file.
    let line = "pack {}/model -o {}/again.tiepack --cap 73000 --effort fast --no-eval --cache {}/cache --plan {}/searched.json";
    run(line, dir.path()).good();
    let read = |name: &str| fs::read(dir.path().join(name)).unwrap();
    assert!(read("searched.tiepack") == read("again.tiepack"), "the plan gave another file");
}

const OPTIONS: &str = "--cap 40000 --effort fast --calib-rows 32 --no-eval --cache {}/cache";

/// Figures of a log that do not depend on the clock.
fn trials(path: &Path) -> Vec<Value> {
    let text = fs::read_to_string(path).unwrap();
    let mut lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    for line in &mut lines {
        line.as_object_mut().unwrap().remove("seconds");
    }
    lines
}

#[test]
fn a_search_goes_on_from_its_log_to_the_same_file() {
    let dir = scratch();
    let read = |name: &str| fs::read(dir.path().join(name)).unwrap();
    let pack = |out: &str, more: &str| {
        let log = format!("--trials 3 --search-log {{}}/{out}.log {more}");
        run(&format!("pack MODEL -o {{}}/{out}.tiepack {OPTIONS} {log}"), dir.path())
    };
    pack("whole", "--threads 1").good();
    let whole = trials(&dir.path().join("whole.log"));
    assert!(whole.len() > 10, "{whole:?}");
    // A search that was cut off in the middle of a line.
    let text = fs::read_to_string(dir.path().join("whole.log")).unwrap();
    fs::write(dir.path().join("broken.log"), &text[..text.len() / 2]).unwrap();
    pack("broken", "--resume").good();
    assert_eq!(trials(&dir.path().join("broken.log")), whole);
    assert!(read("whole.tiepack") == read("broken.tiepack"), "going on gave another file");
    // Two workers find what one process finds.
    pack("jobs", "--jobs 2").good();
    assert_eq!(trials(&dir.path().join("jobs.log")), whole);
    assert!(read("whole.tiepack") == read("jobs.tiepack"), "workers gave another file");

    // Of another run, or none at all.
    let before = read("whole.tiepack");
    let mut told = Vec::new();
    let mut refused = |name: &str, more: &str| {
        let line = format!("pack MODEL -o {{}}/whole.tiepack {OPTIONS} {more}");
        told.push(format!("# {name}\n{}", run(&line, dir.path()).told(dir.path())));
    };
    refused("a log of another run", "--trials 9 --seed 7 --search-log {}/whole.log --resume");
    fs::write(dir.path().join("no.log"), "{\"plan\": 1}\n").unwrap();
    refused("something else", "--trials 9 --search-log {}/no.log --resume");
    refused("no log", "--resume");
    refused("nobody to work", "--jobs 0");
    refused("a shape that there is not", "--shape round");
    refused("too many layers", "--shape cycle=9");
    refused("layers that are not there", "--shape without=2,6");
    insta::assert_snapshot!(told.join("\n"));
    assert!(read("whole.tiepack") == before, "a failure touched the old file");
}

#[test]
fn shapes_are_packed_as_asked() {
    let dir = scratch();
    for (shape, wanted) in [("albert", 1), ("early=1,late=1,rank=2", 1), ("without=3", 2)] {
        let line =
            format!("pack MODEL -o {{}}/out.tiepack {OPTIONS} --shape {shape} --write-plan {{}}/plan.json --force");
        run(&line, dir.path()).good();
        let alone = |name: &str, made: &Value| name.ends_with("mlp.fc.weight") && made.get("matrix").is_some();
        let stored = made(&dir.path().join("plan.json")).iter().filter(|(name, made)| alone(name, made)).count();
        // Of six layers the model itself shares all but three.
        assert_eq!(stored, wanted, "{shape}");
    }
}
