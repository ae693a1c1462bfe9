//! Bundles as files; that they run, and decode to the same bits, is what python/tests/test_bundle.py is about.

use std::fs;

use crate::{run, scratch};

const ARTIFACT: &str = "fixtures/golden/v1-quantized.tiepack";

#[test]
fn a_bundle_is_as_large_as_it_says_and_the_same_every_time() {
    let dir = scratch();
    fs::write(dir.path().join("train.py"), "import tiepack\nprint(len(tiepack.bundled()))\n").unwrap();
    let line = format!("bundle {ARTIFACT} --script {{}}/train.py -o {{}}/a.py --cap 9kB --json");
    let report = run(&line, dir.path()).good().json();
    let bytes = fs::read(dir.path().join("a.py")).unwrap();
    assert_eq!(report["bytes"]["total"], bytes.len());
    assert_eq!(report["budget"]["free"], 9000 - bytes.len());
    run(&line.replace("a.py", "b.py"), dir.path()).good();
    assert_eq!(fs::read(dir.path().join("b.py")).unwrap(), bytes);
    // The decoder's cost, all it needs included, for matrices and vectors.
    let line = format!("bundle {ARTIFACT} --script {{}}/train.py -o {{}}/c.py --nameless --json");
    let cost = run(&line, dir.path()).good().json()["bytes"]["decoder"].as_u64().unwrap();
    assert!(cost <= 6000, "{cost} bytes");
}

#[test]
fn what_cannot_be_bundled_is_refused() {
    let dir = scratch();
    fs::write(dir.path().join("train.py"), "pass\n").unwrap();
    for (line, code, words) in [
        (format!("bundle {ARTIFACT} --script {{}}/train.py -o {{}}/train.py"), 1, "would replace its script"),
        (format!("bundle {ARTIFACT} --script {{}}/none.py -o {{}}/out.py"), 1, "cannot read"),
        (format!("bundle {ARTIFACT} --script {{}}/train.py -o {{}}/out.py --cap 8000"), 3, "over the cap"),
        ("bundle {}/train.py --script {}/train.py -o {}/out.py".to_string(), 4, "not a tiepack artifact"),
    ] {
        let run = run(&line, dir.path());
        assert_eq!(run.code, code, "{line}: {}", run.stderr);
        assert!(run.stderr.contains(words), "{line}: {}", run.stderr);
    }
    assert_eq!(fs::read(dir.path().join("train.py")).unwrap(), b"pass\n");
    assert!(!dir.path().join("out.py").exists());
}
