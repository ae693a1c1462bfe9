//! A model that is certain of every token: its own curvature vanishes, and its weights matter all the same.

use std::fs;
use std::path::Path;

use safetensors::tensor::{Dtype, TensorView, serialize};
use serde_json::json;

use crate::{run, scratch};

const VOCAB: usize = 256;
const WIDTH: usize = 64;
const HIDDEN: usize = 32;
const CAP: u64 = 18_000;

/// Deterministic noise in −½ to ½.
struct Noise(u64);

impl Noise {
    fn next(&mut self) -> f32 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 40) as f32 / (1 << 24) as f32 - 0.5
    }
}

/// A Llama of one layer whose embedding, which is its head as well, is drawn as PyTorch draws one, twice as large: after the
/// last norm every token predicts itself.
fn certain(dir: &Path) {
    let mut noise = Noise(3);
    let mut matrix = |shape: [usize; 2], deviation: f32| -> (Vec<usize>, Vec<u8>) {
        // A uniform distribution of width 1 has a deviation of 1/√12.
        let value = |_| (noise.next() * 12f32.sqrt() * deviation).to_le_bytes();
        (shape.to_vec(), (0..shape[0] * shape[1]).flat_map(value).collect())
    };
    let ones = || (vec![WIDTH], 1f32.to_le_bytes().repeat(WIDTH));
    let layer = "model.layers.0.";
    let mut tensors = vec![("model.embed_tokens.weight".to_string(), matrix([VOCAB, WIDTH], 2.0))];
    for part in ["q", "k", "v", "o"] {
        tensors.push((format!("{layer}self_attn.{part}_proj.weight"), matrix([WIDTH, WIDTH], 0.02)));
    }
    for (part, shape) in [("gate", [HIDDEN, WIDTH]), ("up", [HIDDEN, WIDTH]), ("down", [WIDTH, HIDDEN])] {
        tensors.push((format!("{layer}mlp.{part}_proj.weight"), matrix(shape, 0.02)));
    }
    for norm in ["input_layernorm", "post_attention_layernorm"] {
        tensors.push((format!("{layer}{norm}.weight"), ones()));
    }
    tensors.push(("model.norm.weight".into(), ones()));
    let views = tensors
        .iter()
        .map(|(name, (shape, data))| (name.as_str(), TensorView::new(Dtype::F32, shape.clone(), data).unwrap()));
    fs::write(dir.join("model.safetensors"), serialize(views, None).unwrap()).unwrap();
    let config = json!({
        "model_type": "llama", "vocab_size": VOCAB, "hidden_size": WIDTH, "intermediate_size": HIDDEN,
        "num_hidden_layers": 1, "num_attention_heads": 4, "num_key_value_heads": 4, "max_position_embeddings": 128,
        "rms_norm_eps": 1e-6, "rope_theta": 10000.0, "hidden_act": "silu", "tie_word_embeddings": true
    });
    fs::write(dir.join("config.json"), config.to_string()).unwrap();
    for (name, tokens) in [("train_000.bin", 4_000), ("val_000.bin", 2_000)] {
        let mut shard: Vec<u8> = [20_240_520i32, 1, tokens].iter().flat_map(|v| v.to_le_bytes()).collect();
        shard.resize(1024, 0);
        shard.extend((0..tokens).flat_map(|_| (((noise.next() + 0.5) * VOCAB as f32) as u16).to_le_bytes()));
        fs::write(dir.join(name), shard).unwrap();
    }
}

#[test]
fn a_model_that_is_certain_fills_its_cap_and_keeps_its_predictions() {
    let dir = scratch();
    certain(dir.path());
    let options = "--effort fast --calib-rows 16 --val-rows 8 --no-cache --json";
    let document = run(&format!("pack {{}} -o {{}}/out.tiepack --cap {CAP} {options}"), dir.path()).good().json();
    let verdict = &document["verdict"];
    let bytes = verdict["artifact"]["bytes"].as_u64().unwrap();
    assert!(bytes <= CAP && bytes > CAP - CAP / 50, "{bytes} bytes of {CAP}");
    let cost = &verdict["evaluation"]["cost"];
    let kl = cost["divergence"]["mean"]["value"].as_f64().unwrap();
    assert!(kl < 0.01 && cost["same_top"].as_f64().unwrap() > 0.99, "{cost}");
}
