//! Two files side by side.

use std::fs;

use crate::{copy, nudge, packed, run, scratch};

#[test]
fn what_differs_is_told_and_the_exit_code_says_so() {
    let same = run("diff MODEL MODEL --exit-code", packed()).good();
    assert!(same.stdout.contains("no difference"), "{}", same.stdout);

    let dir = copy(&["ties.json"]);
    nudge(&dir.path().join("model.safetensors"), "blocks.2.attn.c_q.weight");
    let changed = run("diff MODEL {} --exit-code --by role", dir.path());
    assert_eq!(changed.code, 1);
    insta::assert_snapshot!(changed.stdout.replace(&*dir.path().to_string_lossy(), "[dir]"));
    // Without being asked, a difference is an answer and no failure.
    run("diff MODEL {}", dir.path()).good();
}

#[test]
fn streams_that_differ_are_decoded_on_request_only() {
    let dir = scratch();
    run("pack MODEL -o {}/b.tiepack --cap 90kB --statistics none --no-eval --effort fast", dir.path()).good();
    let diff = |options: &str| {
        run(&format!("diff {} {{}}/b.tiepack --json {options}", packed().display()), dir.path()).good().json()
    };
    let (plain, decoded) = (diff(""), diff("--weights"));
    assert!(plain["weights"]["undecided"].as_u64() > Some(0) && plain["weights"]["changed"] == serde_json::json!([]));
    assert_eq!(decoded["weights"]["undecided"], 0);
    let changed = decoded["weights"]["changed"].as_array().unwrap();
    assert!(changed.len() >= 19, "{}", changed.len());
    let errors: Vec<f64> = changed.iter().filter_map(|tensor| tensor["relative_error"].as_f64()).collect();
    assert!(
        errors.is_sorted_by(|a, b| a >= b) && errors.iter().all(|error| *error > 0.0 && *error < 1.0),
        "{errors:?}"
    );
    let total: i64 = decoded["bytes"].as_array().unwrap().iter().map(|group| group["change"].as_i64().unwrap()).sum();
    let size = |side: &str| decoded[side]["bytes"].as_i64().unwrap();
    assert_eq!(total, size("after") - size("before"));
}

#[test]
fn losses_are_paired() {
    let line = format!("diff MODEL {} --val fixtures/pep-tiny/val_000.bin --val-rows 2 --json", packed().display());
    let same = run(&line, packed()).good().json();
    let cost = &same["evaluation"]["cost"];
    assert_eq!((&cost["nats_per_token"]["value"], &cost["divergence"]["largest"]), (&0.0.into(), &0.0.into()));
    assert!(cost["bits_per_byte"].is_object(), "the tokenizer beside the model is found: {cost}");
}

/// `git diff` gives a file of no bytes for one that is not there.
#[test]
fn other_architectures_and_nothing_at_all_are_compared_as_far_as_that_goes() {
    let dir = scratch();
    let other = run("diff MODEL fixtures/parity/gpt2", dir.path()).good();
    assert!(other.stdout.contains("note: two architectures"), "{}", other.stdout);
    let losses = run("diff MODEL fixtures/parity/gpt2 --val fixtures/pep-tiny/val_000.bin", dir.path()).good();
    assert!(losses.stdout.contains("losses were not compared"), "{}", losses.stdout);

    let empty = dir.path().join("empty");
    fs::write(&empty, "").unwrap();
    let added = run(&format!("diff {{}}/empty {}", packed().display()), dir.path()).good();
    assert!(added.stdout.contains("nothing") && added.stdout.contains("new"), "{}", added.stdout);
    let run = run("diff {}/empty {}/empty", dir.path());
    assert_eq!(run.code, 1);
    assert!(run.stderr.contains("there is nothing in"), "{}", run.stderr);
}

#[test]
fn a_later_version_is_refused_in_clear_words() {
    let dir = scratch();
    let mut bytes = fs::read(packed()).unwrap();
    bytes[3] = b'2';
    fs::write(dir.path().join("later.tiepack"), bytes).unwrap();
    for line in ["inspect {}/later.tiepack", "diff {}/later.tiepack MODEL", "diff MODEL {}/later.tiepack"] {
        let refused = run(line, dir.path());
        assert_eq!(refused.code, 4, "{line}");
        assert!(refused.stderr.contains("later.tiepack: the artifact is of format version '2'"), "{}", refused.stderr);
    }
}
