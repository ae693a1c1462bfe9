//! Paths that name something else than was asked for: taken where their meaning is certain, named where it is not.

use std::fs;
use std::path::Path;

use crate::{MODEL, packed, run, scratch};

/// A folder with the packed fixture and nothing else.
fn folder() -> tempfile::TempDir {
    let dir = scratch();
    fs::copy(packed(), dir.path().join("exact.tiepack")).unwrap();
    dir
}

#[test]
fn a_folder_stands_for_the_only_artifact_in_it() {
    let dir = folder();
    run("unpack {} -o {}/out", dir.path()).good();
    run("inspect {}", dir.path()).good();
    run(&format!("verify {{}} --against {MODEL}"), dir.path()).good();
    run(&format!("diff {{}} {} --exit-code", packed().display()), dir.path()).good();
    let loss = run("eval {} --val fixtures/pep-tiny/val_000.bin --val-rows 1 --json", dir.path()).good().json();
    assert!(loss["evaluation"]["packed"]["nats_per_token"].as_f64().unwrap() > 0.0);

    fs::copy(packed(), dir.path().join("other.tiepack")).unwrap();
    let empty = scratch();
    let mut told = String::new();
    for (line, place) in [("verify {}", dir.path()), ("inspect {}", dir.path()), ("unpack {} -o {}/out", empty.path())]
    {
        told += &format!("$ {line}\n{}\n", run(line, place).told(place));
    }
    insta::assert_snapshot!(told);
}

#[test]
fn an_artifact_in_the_place_of_a_model_is_called_one() {
    let dir = folder();
    let config = run("config {}/exact.tiepack", dir.path()).good().stdout;
    let own = fs::read_to_string(Path::new(MODEL).join("config.json")).unwrap();
    let json = |text: &str| serde_json::from_str::<serde_json::Value>(text).unwrap();
    assert_eq!(json(&config), json(&own));
    let mut told = String::new();
    for line in [
        "pack {}/exact.tiepack -o {}/out.tiepack --cap 400kB",
        "frontier {}/exact.tiepack --caps 90kB",
        "verify {}/exact.tiepack --against {}/exact.tiepack",
        "inspect {}/exact.tiepack --against {}/exact.tiepack",
        "eval MODEL --tokenizer {}",
        "pack MODEL -o {}/out.tiepack --cap 400kB --plan {}",
        "bundle {}/exact.tiepack --script {} -o {}/out.py",
    ] {
        told += &format!("$ {line}\n{}\n", run(line, dir.path()).told(dir.path()));
    }
    insta::assert_snapshot!(told);
}
