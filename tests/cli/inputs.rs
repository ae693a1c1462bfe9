//! Files that are damaged, missing or not of the model: each refused with what is wrong and the way out.

use std::fs;
use std::path::Path;

use crate::{copy, edit, replace, run};

/// Damages a copy of the fixture in one way, runs one command and returns what was said.
fn case(told: &mut String, name: &str, line: &str, damage: impl FnOnce(&Path)) {
    let dir = copy(&[]);
    damage(dir.path());
    let run = run(line, dir.path());
    assert_eq!(run.stdout, "", "{name}");
    assert!(!dir.path().join("out.tiepack").exists(), "{name}");
    *told += &format!("## {name}\n$ tiepack {line}\n{}\n", run.told(dir.path()));
}

const PACK: &str = "pack {} -o {}/out.tiepack --cap 400kB";

#[test]
fn weights() {
    let told = &mut String::new();
    let weights = |dir: &Path| dir.join("model.safetensors");
    case(told, "truncated", PACK, |dir| edit(&weights(dir), |b| b.truncate(b.len() - 100)));
    case(told, "only a header length", PACK, |dir| edit(&weights(dir), |b| b.truncate(8)));
    case(told, "empty", PACK, |dir| edit(&weights(dir), Vec::clear));
    case(told, "a header that lies", PACK, |dir| edit(&weights(dir), |b| replace(b, "[80,80]", "[80,81]")));
    case(told, "not a number", PACK, |dir| {
        // The last tensor is in bf16: 0x7fc0 is NaN.
        edit(&weights(dir), |b| {
            let end = b.len();
            b[end - 2..].copy_from_slice(&[0xc0, 0x7f]);
        });
    });
    case(told, "another name", PACK, |dir| {
        edit(&weights(dir), |b| replace(b, "blocks.3.attn.c_q.weight", "blocks.9.attn.c_q.weight"));
    });
    case(told, "no weights", PACK, |dir| fs::remove_file(weights(dir)).unwrap());
    case(told, "no model", "inspect {}/nowhere", |_| {});
    insta::assert_snapshot!(told);
}

#[test]
fn configurations() {
    let told = &mut String::new();
    let config = |dir: &Path, text: &str| fs::write(dir.join("config.json"), text).unwrap();
    case(told, "missing", PACK, |dir| fs::remove_file(dir.join("config.json")).unwrap());
    case(told, "not JSON", PACK, |dir| config(dir, "{"));
    case(told, "unknown architecture", PACK, |dir| config(dir, r#"{"arch": "perceptron"}"#));
    case(told, "of transformers, unknown", PACK, |dir| config(dir, r#"{"model_type": "gemma2"}"#));
    case(told, "a mixture of experts", PACK, |dir| config(dir, r#"{"model_type": "mixtral"}"#));
    case(told, "quantized already", PACK, |dir| {
        config(dir, r#"{"model_type": "llama", "quantization_config": {"quant_method": "awq", "bits": 4}}"#);
    });
    case(told, "another network by one key", PACK, |dir| {
        config(dir, r#"{"model_type": "qwen2", "hidden_size": 80, "partial_rotary_factor": 0.5}"#);
    });
    case(told, "of another model", PACK, |dir| {
        edit(&dir.join("config.json"), |b| replace(b, "\"num_layers\": 6", "\"num_layers\": 5"));
    });
    insta::assert_snapshot!(told);
}

#[test]
fn tie_maps() {
    let told = &mut String::new();
    let ties = |dir: &Path, copies: &str| {
        fs::write(dir.join("ties.json"), format!("{{\"copies\": {copies}}}")).unwrap();
    };
    case(told, "a circle", PACK, |dir| ties(dir, "[2, 1, 0, 3, 3, 0]"));
    case(told, "out of range", PACK, |dir| ties(dir, "[0, 1, 6, 3, 3, 0]"));
    case(told, "of another length", PACK, |dir| ties(dir, "[0, 1, 0, 3]"));
    case(told, "ties that do not hold", PACK, |dir| ties(dir, "[0, 0, 0, 3, 3, 0]"));
    insta::assert_snapshot!(told);
}

#[test]
fn shards() {
    let told = &mut String::new();
    let field = |dir: &Path, name: &str, at: usize, value: i32| {
        edit(&dir.join(name), |b| b[4 * at..4 * at + 4].copy_from_slice(&value.to_le_bytes()));
    };
    case(told, "wrong magic", PACK, |dir| field(dir, "train_000.bin", 0, 7));
    case(told, "unknown version", PACK, |dir| field(dir, "val_000.bin", 1, 2));
    case(told, "wrong count", PACK, |dir| field(dir, "val_000.bin", 2, 63_050));
    case(told, "negative count", "eval {}", |dir| field(dir, "val_000.bin", 2, -1));
    case(told, "ids beyond the vocabulary", PACK, |dir| {
        edit(&dir.join("train_000.bin"), |b| b[1024 + 2 * 99..1024 + 2 * 100].copy_from_slice(&1024u16.to_le_bytes()));
    });
    case(told, "too few tokens", "eval {} --val {}/few.bin", |dir| {
        let mut few = fs::read(dir.join("val_000.bin")).unwrap()[..1024 + 2 * 128].to_vec();
        few[8..12].copy_from_slice(&128i32.to_le_bytes());
        fs::write(dir.join("few.bin"), few).unwrap();
    });
    case(told, "no validation tokens", "eval {}", |dir| fs::remove_file(dir.join("val_000.bin")).unwrap());
    case(told, "no calibration tokens", PACK, |dir| fs::remove_file(dir.join("train_000.bin")).unwrap());
    case(told, "ids beyond the vocabulary", "eval {}", |dir| {
        edit(&dir.join("val_000.bin"), |b| b[1024 + 2 * 4000..1024 + 2 * 4001].copy_from_slice(&9999u16.to_le_bytes()));
    });
    case(told, "a pattern that matches nothing", "eval {} --val {}/valid_*.bin", |_| {});
    case(told, "a named shard that is not there", "eval {} --val {}/val_001.bin", |_| {});
    insta::assert_snapshot!(told);
}

#[test]
fn tokenizers() {
    let told = &mut String::new();
    case(told, "missing", "eval {} --tokenizer {}/another.model --val-rows 1", |_| {});
    case(told, "truncated", "eval {} --val-rows 1", |dir| {
        edit(&dir.join("tokenizer.model"), |b| b.truncate(5_000));
    });
    case(told, "of another vocabulary", "eval {} --val-rows 1", |dir| {
        // The first field once more: a piece that the model has no id for.
        edit(&dir.join("tokenizer.model"), |b| b.extend_from_within(..2 + usize::from(b[1])));
    });
    case(told, "bytes of a model that has more", "eval {} --val-rows 1 --tokenizer {}/bytes.json", |dir| {
        fs::write(dir.join("bytes.json"), "[1, 1]").unwrap();
    });
    insta::assert_snapshot!(told);
}

#[test]
fn checkpoints() {
    let told = &mut String::new();
    let checkpoint = |dir: &Path, file: &str| {
        fs::remove_file(dir.join("model.safetensors")).unwrap();
        fs::copy(Path::new("fixtures/checkpoints").join(file), dir.join("final.pt")).unwrap();
    };
    case(told, "with code", PACK, |dir| checkpoint(dir, "code.pt"));
    case(told, "a whole module", PACK, |dir| checkpoint(dir, "module.pt"));
    case(told, "truncated", PACK, |dir| {
        checkpoint(dir, "state_dict.pt");
        edit(&dir.join("final.pt"), |b| b.truncate(b.len() / 2));
    });
    case(told, "of another model", PACK, |dir| checkpoint(dir, "nested.pt"));
    insta::assert_snapshot!(told);
}

#[test]
fn outputs() {
    let told = &mut String::new();
    let pack = |out: &str| format!("pack {{}} -o {{}}/{out} --cap 400kB");
    case(told, "in no folder", &pack("deep/out.tiepack"), |_| {});
    case(told, "below a file", &pack("config.json/out.tiepack"), |_| {});
    case(told, "a folder", &pack("there"), |dir| fs::create_dir(dir.join("there")).unwrap());
    case(told, "an include that is not there", &format!("{PACK} --include {{}}/train_gpt.py"), |_| {});
    case(told, "an include that is a folder", &format!("{PACK} --include {{}}"), |_| {});
    case(told, "includes beyond the cap", "pack {} -o {}/out.tiepack --cap 10kB --include {}/tokenizer.model", |_| {});
    insta::assert_snapshot!(told);
}
