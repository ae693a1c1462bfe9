//! Losses as the command tells them, against PyTorch's.

use std::fs;
use std::path::Path;

use serde_json::Value;

use crate::{MODEL, copy, packed, run, scratch};

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

/// The f32 of a `.npy`, read as numpy reads it.
fn numpy(path: &Path) -> Vec<f32> {
    let bytes = fs::read(path).unwrap();
    assert_eq!(bytes[..8], *b"\x93NUMPY\x01\x00");
    let end = 10 + usize::from(u16::from_le_bytes([bytes[8], bytes[9]]));
    let header = std::str::from_utf8(&bytes[10..end]).unwrap();
    assert!(end % 64 == 0 && header.ends_with('\n'), "{header:?}");
    let data: Vec<f32> = bytes[end..].chunks_exact(4).map(|b| f32::from_le_bytes(*b.first_chunk().unwrap())).collect();
    let wanted = format!("{{'descr': '<f4', 'fortran_order': False, 'shape': ({},), }}", data.len());
    assert_eq!(header.trim_end(), wanted);
    data
}

#[test]
fn losses_of_tokens_add_up_to_the_loss() {
    let dir = scratch();
    let path = dir.path().join("losses.npy");
    let run = |line: &str| {
        let whole =
            crate::run(&format!("eval MODEL {line} --losses {{}}/losses.npy --force --json"), dir.path()).good().json();
        let losses = numpy(&path);
        let mean = losses.iter().map(|x| f64::from(*x)).sum::<f64>() / losses.len() as f64;
        let told = whole["evaluation"]["packed"]["nats_per_token"].as_f64().unwrap();
        assert!((mean - told).abs() < 1e-12, "{line}: {mean} and {told}");
        assert_eq!(whole["evaluation"]["tokens"], losses.len(), "{line}");
        losses
    };
    let (disjoint, sliding) = (run("--val-rows 3"), run("--val-rows 3 --stride 48"));
    // The first row is the same either way.
    assert_eq!((disjoint.len(), &disjoint[..128]), (384, &sliding[..128]));
    assert!(disjoint[128..] != sliding[128..]);
    // A limit cuts the same losses short, in the middle of a row.
    let limited = run("--limit 300");
    let close = limited.iter().zip(&disjoint).all(|(a, b)| (a - b).abs() < 1e-4);
    assert!(limited.len() == 300 && close);
}

#[test]
fn losses_replace_nothing() {
    let dir = copy(&[]);
    let told = &mut String::new();
    fs::write(dir.path().join("thesis.tex"), "years of work").unwrap();
    for line in ["--losses {}/model.safetensors", "--losses {}/thesis.tex", "--losses {}", "--losses {}/deep/x.npy"] {
        let before = fs::read(dir.path().join("model.safetensors")).unwrap();
        let refused = run(&format!("eval {{}} --val-rows 1 {line}"), dir.path());
        *told += &format!("$ tiepack eval {{}} {line}\n{}\n", refused.told(dir.path()));
        assert_eq!(fs::read(dir.path().join("model.safetensors")).unwrap(), before);
    }
    insta::assert_snapshot!(told);
}

#[test]
fn documents_are_scored_each_by_itself() {
    let mark = 1;
    let tokens: Vec<u16> = {
        let bytes = fs::read(Path::new(MODEL).join("val_000.bin")).unwrap();
        bytes[1024..].chunks_exact(2).map(|b| u16::from_le_bytes([b[0], b[1]])).collect()
    };
    let first: Vec<usize> = (0..tokens.len()).filter(|i| tokens[*i] == mark).take(3).collect();
    assert_eq!(first[0], 0);
    let whole = run("eval MODEL --documents 1 --json", packed()).good().json();
    assert_eq!(
        whole["documents"],
        tokens[..whole["evaluation"]["tokens"].as_u64().unwrap() as usize].iter().filter(|t| **t == mark).count()
    );
    assert_eq!(whole["evaluation"]["tokens"], 62_976);
    // The second document alone in a shard has the losses that it has among the others.
    let dir = scratch();
    let alone = &tokens[first[1]..=first[2]];
    let mut shard: Vec<u8> = [20_240_520, 1, alone.len() as i32].iter().flat_map(|x: &i32| x.to_le_bytes()).collect();
    shard.resize(1024, 0);
    shard.extend(alone.iter().flat_map(|t| t.to_le_bytes()));
    fs::write(dir.path().join("alone.bin"), shard).unwrap();
    let losses = |line: &str| {
        run(&format!("eval MODEL {line} --stride 64 --losses {{}}/l.npy --force"), dir.path()).good();
        numpy(&dir.path().join("l.npy"))
    };
    let among = losses(&format!("--documents {mark} --limit {}", first[2]));
    let alone = losses(&format!("--val {{}}/alone.bin --limit {}", first[2] - first[1]));
    for (i, (a, b)) in among[first[1]..].iter().zip(&alone).enumerate() {
        assert!((a - b).abs() < 1e-4, "token {i}: {a} and {b}");
    }
    assert!(run("eval MODEL --documents 7 --limit 10", packed()).stderr.contains("no document begins in 10"));
}

/// Values of a plain loop in PyTorch: one forward pass a window, windows cut as the challenge's rule says. The first is what
/// `examples/peers/pytorch.py sliding --tokens 1024` prints.
#[test]
fn windows_are_cut_and_scored_as_the_challenge_does() {
    for (line, bytes, bits) in [
        ("--val-rows 8 --stride 64", 2_452, 1.435285997),
        ("--val-rows 8 --stride 48", 2_452, 1.434560973609215),
        ("--val-rows 64 --stride 48 --documents 1", 18_572, 1.822723838190746),
        ("--val-rows 64 --documents 1", 18_572, 1.847358839413747),
    ] {
        let found = evaluation(&format!("MODEL {line}"));
        assert_eq!(found["text_bytes"], bytes, "{line}");
        let relative = found["packed"]["bits_per_byte"].as_f64().unwrap() / bits - 1.0;
        assert!(relative.abs() < 1e-6, "{line}: {relative:e}");
    }
}

/// Every parameter and activation has 8 digits then; norms, softmax and losses stay in f32.
#[test]
fn bf16_is_what_a_training_run_evaluates_in() {
    let of = |line: &str| evaluation(line)["packed"]["nats_per_token"].as_f64().unwrap();
    let (full, half) = (of("MODEL --val-rows 16"), of("MODEL --val-rows 16 --precision bf16"));
    assert!(full != half && (full - half).abs() < 5e-3, "{full} in f32, {half} in bf16");
}
