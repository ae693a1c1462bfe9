//! Configurations, read or recognised.

use std::fs;

use serde_json::Value;

use crate::{MODEL, copy, run, scratch};

#[test]
fn a_configuration_is_recognised_from_the_tensors() {
    let dir = copy(&["config.json", "ties.json"]);
    let found = run("config {}", dir.path()).good();
    insta::assert_snapshot!(format!("{}---\n{}", found.stdout, found.stderr));
    let document = run("config {} --json", dir.path()).good().json();
    assert_eq!((&document["source"], &document["fault"]), (&Value::Null, &Value::Null));
    // All that shapes tell is what the model's own file says.
    let own: Value = serde_json::from_str(&fs::read_to_string(format!("{MODEL}/config.json")).unwrap()).unwrap();
    let guesses = document["guesses"].as_array().unwrap();
    for (key, value) in own.as_object().unwrap().iter().filter(|(key, _)| !guesses.contains(&Value::from(key.as_str())))
    {
        assert_eq!(&document["config"][key], value, "{key}");
    }
    // What it writes is a configuration to go on with.
    run("config {} -o {}/config.json", dir.path()).good();
    let loss = run("eval {} --limit 64 --json", dir.path()).good().json();
    assert_eq!(loss["evaluation"]["row_length"], 1024);
    let again = run("config {} -o {}/config.json", dir.path());
    assert_eq!(again.code, 1, "{}", again.stderr);
}

#[test]
fn a_configuration_that_is_there_is_explained() {
    let found = run("config MODEL", scratch().path()).good();
    insta::assert_snapshot!(format!("{}---\n{}", found.stdout, found.stderr));
    // One that contradicts the tensors is shown too, with what contradicts it.
    let dir = copy(&["ties.json"]);
    crate::edit(&dir.path().join("config.json"), |b| crate::replace(b, "\"num_layers\": 6", "\"num_layers\": 5"));
    let document = run("config {} --json", dir.path()).good().json();
    let fault = document["fault"].as_str().unwrap();
    assert!(document["network"].is_null() && fault.contains("blocks.5."), "{fault}");
}

#[test]
fn tensors_of_no_known_architecture_are_named() {
    let dir = scratch();
    fs::copy("fixtures/checkpoints/views.pt", dir.path().join("views.pt")).unwrap();
    insta::assert_snapshot!(run("config {}/views.pt", dir.path()).told(dir.path()));
}

/// nanoGPT's checkpoint needs no config.json: it says itself what its network is.
#[test]
fn a_checkpoint_that_says_its_configuration_is_run_by_it() {
    let dir = scratch();
    fs::copy("fixtures/nanogpt/ckpt.pt", dir.path().join("ckpt.pt")).unwrap();
    let mut shard: Vec<u8> = [20_240_520, 1, 481].iter().flat_map(|n: &i32| n.to_le_bytes()).collect();
    shard.resize(1024, 0);
    shard.extend((0..481u16).flat_map(|i| (i * 7 % 48).to_le_bytes()));
    fs::write(dir.path().join("val_000.bin"), shard).unwrap();
    let found = run("config {}/ckpt.pt", dir.path()).good();
    insta::assert_snapshot!(format!("{}---\n{}", found.stdout, found.stderr));
    let before = run("eval {} --json", dir.path()).good().json();
    assert_eq!(before["evaluation"]["row_length"], 24);
    run("pack {} -o {}/out.tiepack --cap 40kB --lossless", dir.path()).good();
    let after = run("eval {}/out.tiepack --json", dir.path()).good().json();
    assert_eq!(before["evaluation"], after["evaluation"]);
}

#[test]
fn networks_that_are_not_computed_are_named() {
    // nanochat's names, as small as they can be.
    let dir = scratch();
    let names = [
        "transformer.wte.weight",
        "transformer.h.0.attn.c_q.weight",
        "transformer.h.0.mlp.c_fc.weight",
        "lm_head.weight",
    ];
    let data = vec![0u8; 4 * 64];
    let view = || safetensors::tensor::TensorView::new(safetensors::Dtype::F32, vec![8, 8], &data).unwrap();
    let bytes = safetensors::serialize(names.map(|name| (name, view())), None).unwrap();
    fs::write(dir.path().join("model.safetensors"), bytes).unwrap();
    for line in ["config {}", "pack {} -o {}/out.tiepack --cap 4kB"] {
        let told = run(line, dir.path()).told(dir.path());
        assert!(told.contains("those of nanochat") && told.contains("tiepack.torch"), "{told}");
    }
}
