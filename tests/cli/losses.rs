//! Losses as the command tells them, against PyTorch's.

use std::fs;
use std::path::Path;

use serde_json::Value;

use crate::{MODEL, copy, packed, run};

fn golden() -> Value {
    let text = fs::read_to_string(Path::new(MODEL).join("golden.json")).unwrap();
    serde_json::from_str::<Value>(&text).unwrap()["loss"].clone()
}

fn evaluation(line: &str) -> Value {
    run(&format!("eval {line} --json"), packed()).good().json()["evaluation"].clone()
}

#[test]
fn bits_per_byte_are_those_of_the_reference() {
    let (golden, found) = (golden(), evaluation("MODEL --val-rows 64"));
    assert_eq!((&found["rows"], &found["tokens"]), (&golden["rows"], &golden["tokens"]));
    assert_eq!((&found["rows_available"], &found["text_bytes"]), (&492.into(), &golden["target_bytes"]));
    for (key, wanted) in [("nats_per_token", "mean_nats"), ("bits_per_byte", "bits_per_byte")] {
        let (found, wanted) = (found["packed"][key].as_f64().unwrap(), golden[wanted].as_f64().unwrap());
        assert!((found - wanted).abs() < 1e-5, "{key}: {found} instead of {wanted}");
    }
}

#[test]
fn a_sliding_window_sees_more_and_predicts_better() {
    let of = |line: &str| evaluation(&format!("MODEL --val-rows 8 {line}"));
    let nats = |e: &Value| e["packed"]["nats_per_token"].as_f64().unwrap();
    let (disjoint, same, sliding) = (of(""), of("--stride 128"), of("--stride 48"));
    assert_eq!(disjoint, same);
    assert_eq!((&sliding["tokens"], &sliding["text_bytes"]), (&disjoint["tokens"], &disjoint["text_bytes"]));
    assert!(nats(&sliding) < nats(&disjoint) - 0.01, "{} and {}", nats(&sliding), nats(&disjoint));
}

#[test]
fn the_loss_is_one_line() {
    let text = |line: &str| run(&format!("eval {line}"), packed()).good().stdout;
    let filters = vec![(r"(\d\.\d\d)\d+", "$1..")];
    insta::with_settings!({filters => filters}, {
        insta::assert_snapshot!(text("MODEL --val-rows 64"), @"pep-tiny: 2.90.. nats/token, 1.84.. bits/byte on first 64 of 492 rows of 128, 8,192 tokens");
        insta::assert_snapshot!(text("MODEL --val-rows 2 --stride 64"), @"pep-tiny: 2.22.. nats/token, 1.52.. bits/byte on first 2 of 492 rows of 128, 256 tokens, stride 64");
    });
}

#[test]
fn without_a_tokenizer_there_are_no_bits_per_byte() {
    let dir = copy(&["tokenizer.model", "train_000.bin"]);
    let said = run("eval {} --val-rows 1", dir.path()).good().stdout;
    assert!(!said.contains("bits/byte") && said.contains("--tokenizer"), "{said}");
}
