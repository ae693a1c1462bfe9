//! Plans: written by a pack, read by a person, executed to the same bytes.

use std::fs;

use serde_json::{Value, json};

use crate::{copy, nudge, run, scratch};

const OPTIONS: &str = "--cap 100000 --effort fast --calib-rows 8 --val-rows 4 --cache {}/cache";

#[test]
fn a_plan_is_executed_to_the_same_bytes() {
    let dir = scratch();
    let read = |name: &str| fs::read(dir.path().join(name)).unwrap();
    run(&format!("pack MODEL -o {{}}/searched.tiepack {OPTIONS} --write-plan {{}}/plan.json"), dir.path()).good();
    let plan = "--plan {}/plan.json --write-plan {}/again.json --threads 1";
    run(&format!("pack MODEL -o {{}}/planned.tiepack {OPTIONS} {plan}"), dir.path()).good();
    assert!(read("searched.tiepack") == read("planned.tiepack"), "the plan gave another file");
    assert_eq!(read("plan.json"), read("again.json"));

    // As a person reads it: the steps are those of this machine.
    let text = String::from_utf8(read("plan.json")).unwrap();
    insta::with_settings!({filters => vec![
        (r#""model": "[0-9a-f]{64}""#, r#""model": "[digest]""#),
        (r"\d+\.\d+(e-\d+)?", "[step]"),
        (r#""odd": "[a-z_]+""#, r#""odd": "[odd]""#),
    ]}, {
        insta::assert_snapshot!(text.lines().take(30).collect::<Vec<_>>().join("\n"));
    });
}

/// A plan written by hand: a tie undone with a residual, a low-rank term, a branch left out.
#[test]
fn a_plan_by_hand_may_use_all_terms() {
    let dir = scratch();
    run(&format!("pack MODEL -o {{}}/searched.tiepack {OPTIONS} --write-plan {{}}/plan.json"), dir.path()).good();
    let mut plan: Value = serde_json::from_slice(&fs::read(dir.path().join("plan.json")).unwrap()).unwrap();
    let parts = plan["parts"].as_array_mut().unwrap();
    let mut make = |tensor: &str, made: Value| {
        let part =
            parts.iter_mut().find(|part| part["tensors"] == json!([tensor])).unwrap_or_else(|| panic!("{tensor}"));
        part["made"] = made;
    };
    make(
        "blocks.3.attn.c_v.weight",
        json!({"sum": {"step": 2e-4, "from": "blocks.1.attn.c_v.weight", "rank": 4,
        "residual": {"states": 8, "odd": "plain"}}}),
    );
    make("blocks.3.attn.c_q.weight", json!({"sum": {"step": 2e-4, "rank": 40}}));
    make("blocks.3.attn.c_k.weight", json!("zero"));
    make("blocks.1.mlp.fc.weight", json!("exact"));
    fs::write(dir.path().join("plan.json"), plan.to_string()).unwrap();
    let options = OPTIONS.replace("100000", "400000");
    let packed = run(&format!("pack MODEL -o {{}}/out.tiepack {options} --plan {{}}/plan.json --json"), dir.path());
    let verdict = packed.good().json()["verdict"].clone();
    // The exact tensor came through, the rest is quantized.
    assert_eq!(verdict["against"]["identical"], 1);
    let rows = run("inspect {}/out.tiepack --json", dir.path()).good().json()["rows"].clone();
    let codec = |tensor: &str| {
        let row = rows.as_array().unwrap().iter().find(|row| row["tensors"] == json!([tensor]));
        row.unwrap_or_else(|| panic!("{tensor}"))["codec"].clone()
    };
    assert_eq!(codec("blocks.3.attn.c_v.weight"), "sum");
    assert_eq!(codec("blocks.3.attn.c_k.weight"), "zero");
    assert_eq!(codec("blocks.1.mlp.fc.weight"), "lossless");
    run("verify {}/out.tiepack --against MODEL --val-rows 2", dir.path()).good();
}

#[test]
fn plans_that_cannot_be_executed_are_refused() {
    let dir = scratch();
    run(&format!("pack MODEL -o {{}}/out.tiepack {OPTIONS} --write-plan {{}}/plan.json"), dir.path()).good();
    let before = fs::read(dir.path().join("out.tiepack")).unwrap();
    let plan: Value = serde_json::from_slice(&fs::read(dir.path().join("plan.json")).unwrap()).unwrap();
    let mut told = Vec::new();
    let mut refused = |name: &str, change: &dyn Fn(&mut Value)| {
        let mut bad = plan.clone();
        change(&mut bad);
        fs::write(dir.path().join("bad.json"), bad.to_string()).unwrap();
        let line = format!("pack MODEL -o {{}}/out.tiepack {OPTIONS} --plan {{}}/bad.json");
        told.push(format!("# {name}\n{}", run(&line, dir.path()).told(dir.path())));
    };
    let last = plan["parts"].as_array().unwrap().len() - 1;
    let sum = |from: &str| json!({"sum": {"step": 1e-3, "from": from}});
    refused("of a later version", &|plan| plan["plan"] = json!(7));
    refused("of another model", &|plan| plan["model"] = json!("0".repeat(64)));
    refused("an impossible step", &|plan| plan["parts"][0]["made"]["matrix"]["step"] = json!(-1.0));
    refused("an unknown tensor", &|plan| plan["parts"][1]["tensors"] = json!(["blocks.9.attn.c_q.weight"]));
    refused("a tied name", &|plan| plan["parts"][1]["tensors"] = json!(["blocks.5.attn.c_q.weight"]));
    refused("a tensor twice", &|plan| plan["parts"][2]["tensors"] = plan["parts"][1]["tensors"].clone());
    refused("a tensor missing", &|plan| drop(plan["parts"].as_array_mut().unwrap().remove(3)));
    refused("a start that comes later", &|plan| {
        plan["parts"][1]["made"] = sum("blocks.3.attn.c_q.weight");
    });
    refused("a start of another shape", &|plan| plan["parts"][1]["made"] = sum("tok_emb.weight"));
    refused("a rank above the matrix's", &|plan| {
        plan["parts"][1]["made"] = json!({"sum": {"step": 1e-3, "rank": 4000}});
    });
    refused("a matrix among control tensors", &|plan| {
        let tensors = plan["parts"][last]["tensors"].as_array_mut().unwrap();
        tensors.push(json!("tok_emb.weight"));
    });
    refused("a sum of nothing", &|plan| plan["parts"][1]["made"] = json!({"sum": {"step": 1e-3}}));
    refused("finer than the cap", &|plan| plan["parts"][0]["made"]["matrix"]["step"] = json!(1e-9));
    refused("something else", &|plan| *plan = json!({"layers": 6}));
    insta::with_settings!({filters => vec![
        (r"\b\d{3},\d{3} bytes;", "[size] bytes;"), (r"would do is \d{3},\d{3}", "would do is [size]"),
        (r"this one is [0-9a-f]{64}", "this one is [digest]"), (r"has \d{3},\d{3} bytes", "has [size] bytes"),
    ]}, {
        insta::assert_snapshot!(told.join("\n"));
    });
    assert!(fs::read(dir.path().join("out.tiepack")).unwrap() == before, "a failure touched the old file");

    // The weights are part of what a plan belongs to.
    let other = copy(&[]);
    nudge(&other.path().join("model.safetensors"), "blocks.1.mlp.fc.weight");
    let line = format!("pack {} -o {{}}/out.tiepack {OPTIONS} --plan {{}}/plan.json", other.path().display());
    let run = run(&line, dir.path());
    assert!(run.code == 1 && run.stderr.contains("made for another model"), "{}", run.stderr);
}
