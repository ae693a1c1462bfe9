//! Packing: the verdict, the cap, what counts against it, what a failure leaves behind.

use std::fs;

use serde_json::Value;

use crate::{AMPLE, MODEL, copy, edit, nudge, run, scratch, tiepack};

#[test]
fn the_verdict() {
    let dir = scratch();
    let out = dir.path().join("out.tiepack");
    let out = out.to_string_lossy();
    let line = ["pack", MODEL, "-o", &out, "--cap", AMPLE, "--lossless", "--val-rows", "64", "--include"];
    let run = tiepack(&[&line[..], &["fixtures/pep-tiny/ties.json"]].concat()).good();
    // What differs between machines, or between releases of the coder.
    insta::with_settings!({filters => vec![
        (r"\b2[89]\d,\d{3}\b", "[size]"),
        (r"\b1[01]\d,\d{3} free", "[free] free"),
        (r"\d+\.\d+ bits", "[n] bits"),
        (r"[0-9a-f]{64}", "[hash]"),
        (r"(?m)^time .*$", "time             [times]"),
        // Two decimals of a loss are the same on every machine.
        (r"(\d\.\d\d)\d+", "$1.."),
    ]}, {
        insta::assert_snapshot!(run.stdout.replace(&*dir.path().to_string_lossy(), "[dir]"));
    });
    assert_eq!(run.stderr, "", "quiet when piped");
}

/// All keys of a document, as paths.
fn keys(value: &Value, path: &str, found: &mut Vec<String>) {
    match value {
        Value::Object(map) => map.iter().for_each(|(key, value)| keys(value, &format!("{path}.{key}"), found)),
        Value::Array(entries) => entries.iter().take(1).for_each(|entry| keys(entry, &format!("{path}[]"), found)),
        Value::Null => found.push(format!("{path}: null")),
        Value::Bool(_) => found.push(format!("{path}: boolean")),
        Value::Number(_) => found.push(format!("{path}: number")),
        Value::String(_) => found.push(format!("{path}: text")),
    }
}

#[test]
fn the_verdict_in_json() {
    let dir = scratch();
    let run = run("pack MODEL -o {}/out.tiepack --cap 400kB --lossless --val-rows 2 --json --quiet", dir.path()).good();
    assert_eq!(run.stderr, "");
    let document = run.json();
    let mut found = Vec::new();
    keys(&document, "", &mut found);
    insta::assert_snapshot!(found.join("\n"));
    let verdict = &document["verdict"];
    let on_disk = fs::read(dir.path().join("out.tiepack")).unwrap();
    assert_eq!(verdict["artifact"]["bytes"], on_disk.len());
    assert_eq!(verdict["artifact"]["blake3"], blake3::hash(&on_disk).to_hex().as_str());
    assert_eq!(verdict["budget"]["total"].as_u64().unwrap() + verdict["budget"]["free"].as_u64().unwrap(), 400_000);
    // What is bit-identical loses nothing.
    assert_eq!(verdict["against"]["identical"], verdict["against"]["tensors"]);
    assert_eq!(verdict["evaluation"]["cost"]["divergence"]["largest"], 0.0);
}

#[test]
fn the_cap_is_exact_and_counts_the_includes() {
    let dir = scratch();
    fs::write(dir.path().join("train_gpt.py"), [b'#'; 1_234]).unwrap();
    let pack = |cap: u64| {
        let include = "--include {}/train_gpt.py --no-eval --lossless --json";
        run(&format!("pack MODEL -o {{}}/out.tiepack --cap {cap} {include}"), dir.path())
    };
    let size = pack(400_000).good().json()["verdict"]["artifact"]["bytes"].as_u64().unwrap();
    let budget = &pack(size + 1_234).good().json()["verdict"]["budget"];
    assert_eq!((&budget["includes"], &budget["free"]), (&1_234.into(), &0.into()));
    assert_eq!(pack(size + 1_233).code, 3);
}

#[test]
fn what_does_not_fit_leaves_the_old_artifact_alone() {
    let dir = scratch();
    let out = dir.path().join("out.tiepack");
    fs::write(&out, "an old artifact").unwrap();
    let run = run("pack MODEL -o {}/out.tiepack --cap 1kB --lossless --no-eval --force", dir.path());
    assert_eq!((run.code, &run.stdout[..]), (3, ""));
    assert!(run.stderr.contains("smallest"), "names the smallest cap: {}", run.stderr);
    assert_eq!(fs::read_to_string(&out).unwrap(), "an old artifact");
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1, "nothing is left beside it");
}

#[test]
fn a_pack_replaces_an_old_artifact_and_is_reproducible() {
    let dir = scratch();
    let out = dir.path().join("out.tiepack");
    let mut seen = Vec::new();
    for threads in [1, 2] {
        let line = format!("pack MODEL -o {{}}/out.tiepack --cap 400kB --lossless --no-eval --threads {threads}");
        run(&line, dir.path()).good();
        seen.push(fs::read(&out).unwrap());
    }
    assert!(seen[0] == seen[1], "the file depends on the number of threads");
}

#[test]
fn shared_text_is_refused_unless_allowed() {
    let dir = scratch();
    let line = "pack MODEL -o {}/out.tiepack --cap 400kB --effort fast --calib-rows 8 --val-rows 2 --no-cache \
                --val fixtures/pep-tiny/train_000.bin";
    let refused = run(line, dir.path());
    assert_eq!(refused.code, 1);
    assert!(refused.stderr.contains("share text") && refused.stderr.contains("--allow-overlap"), "{}", refused.stderr);
    assert!(!dir.path().join("out.tiepack").exists());
    let allowed = run(&format!("{line} --allow-overlap --json"), dir.path()).good().json();
    let note = allowed["verdict"]["notes"][0]["message"].as_str().unwrap();
    assert!(note.contains("too good") && note.contains("share text"), "{note}");
}

#[test]
fn rows_that_share_text_with_validation_are_left_out() {
    // A tenth of the validation text is quoted in the calibration text.
    let dir = copy(&[]);
    let quote = fs::read(dir.path().join("val_000.bin")).unwrap()[1024..1024 + 2 * 6_400].to_vec();
    edit(&dir.path().join("train_000.bin"), |b| b[1024 + 2 * 12_800..1024 + 2 * 19_200].copy_from_slice(&quote));
    let line = "pack {} -o {}/out.tiepack --cap 100kB --effort fast --calib-rows 8 --val-rows 2 --no-cache --json";
    let packed = run(line, dir.path()).good().json();
    let note = packed["verdict"]["notes"][0]["message"].as_str().unwrap();
    assert!(note.starts_with("left out 5") && note.contains("up to 6,4"), "{note}");
}

#[test]
fn an_output_is_never_an_input() {
    let dir = copy(&[]);
    let at = |name: &str| dir.path().join(name);
    fs::write(at("plan.json"), "{}").unwrap();
    fs::hard_link(at("model.safetensors"), at("hard.tiepack")).unwrap();
    #[cfg(unix)]
    std::os::unix::fs::symlink(at("val_000.bin"), at("soft.tiepack")).unwrap();
    let before: Vec<_> = ["model.safetensors", "val_000.bin"].map(|name| fs::read(at(name)).unwrap()).into();
    let told = &mut String::new();
    for line in [
        "-o {}/model.safetensors",
        "-o {}/config.json",
        "-o {}/ties.json",
        "-o {}/tokenizer.model",
        "-o {}/train_000.bin",
        "-o {}/../{name}/val_000.bin",
        "-o {}/hard.tiepack",
        "-o {}/soft.tiepack",
        "-o {}/plan.json --include {}/plan.json",
        "-o {}/plan.json --plan {}/plan.json",
        "-o {}/plan.json --statistics {}/plan.json",
        "-o {}/out.tiepack --write-plan {}/config.json",
        "-o {}/out.tiepack --write-plan {}/out.tiepack",
    ] {
        let line = line.replace("{name}", &dir.path().file_name().unwrap().to_string_lossy());
        let run = run(&format!("pack {{}} --cap 400kB {line}"), dir.path());
        let name = dir.path().file_name().unwrap().to_string_lossy();
        *told += &format!("$ tiepack pack {line}\n{}\n", run.told(dir.path())).replace(&*name, "[name]");
        assert!(run.stdout.is_empty() && !run.stderr.contains("measuring"), "{line}: before any work");
    }
    let after: Vec<_> = ["model.safetensors", "val_000.bin"].map(|name| fs::read(at(name)).unwrap()).into();
    assert!(before == after && !at("out.tiepack").exists());
    insta::assert_snapshot!(told);
    // The other commands that write.
    let artifact = crate::packed().display().to_string();
    fs::copy(&artifact, at("a.safetensors")).unwrap();
    fs::create_dir(at("folder")).unwrap();
    fs::copy(&artifact, at("folder/config.json")).unwrap();
    for line in
        ["unpack {}/a.safetensors -o {}/a.safetensors --force", "unpack {}/folder/config.json -o {}/folder --force"]
    {
        let run = run(line, dir.path());
        assert!(run.code == 1 && run.stderr.contains("one of the inputs"), "{line}: {}", run.stderr);
    }
    assert!(fs::read(&artifact).unwrap() == fs::read(at("folder/config.json")).unwrap());
    let run = run("config {} -o {}/config.json", dir.path());
    assert!(run.code == 1 && run.stderr.contains("one of the inputs"), "{}", run.stderr);
}

#[test]
fn the_shards_of_an_index_are_inputs() {
    let dir = copy(&[]);
    fs::rename(dir.path().join("model.safetensors"), dir.path().join("part-1.safetensors")).unwrap();
    let bytes = fs::read(dir.path().join("part-1.safetensors")).unwrap();
    let length = u64::from_le_bytes(*bytes.first_chunk().unwrap()) as usize;
    let header: Value = serde_json::from_slice(&bytes[8..8 + length]).unwrap();
    let names = header.as_object().unwrap().keys().filter(|name| *name != "__metadata__");
    let map: serde_json::Map<String, Value> = names.map(|name| (name.clone(), "part-1.safetensors".into())).collect();
    let index = serde_json::json!({ "weight_map": map }).to_string();
    fs::write(dir.path().join("model.safetensors.index.json"), index).unwrap();
    let run = run("pack {} -o {}/part-1.safetensors --cap 400kB", dir.path());
    assert!(run.code == 1 && run.stderr.contains("one of the inputs"), "{}", run.stderr);
    assert!(fs::read(dir.path().join("part-1.safetensors")).unwrap() == bytes);
}

#[test]
fn what_is_missing_is_said_and_is_no_failure() {
    let dir = copy(&["val_000.bin", "tokenizer.model", "train_000.bin"]);
    let pack = "pack {} -o {}/out.tiepack --cap 400kB --lossless";
    let without = run(pack, dir.path()).good().stdout;
    assert!(without.contains("not evaluated") && without.contains("--val"), "{without}");
    let line = format!("{pack} --val fixtures/pep-tiny/val_000.bin --val-rows 2");
    let without = run(&line, dir.path()).good().stdout;
    assert!(without.contains("no bits per byte") && without.contains("--tokenizer"), "{without}");
    assert!(!without.contains("loss, bits per byte"), "{without}");
}

#[test]
fn ties_are_made_to_hold_on_purpose_only() {
    let dir = copy(&["val_000.bin", "train_000.bin"]);
    nudge(&dir.path().join("model.safetensors"), "blocks.4.mlp.fc.weight");
    let pack = "pack {} -o {}/out.tiepack --cap 400kB --lossless";
    let refused = run(pack, dir.path());
    assert_eq!(refused.code, 1);
    assert!(refused.stderr.contains("not equal") && refused.stderr.contains("--retie"), "{}", refused.stderr);
    for how in ["first", "mean"] {
        let packed = run(&format!("{pack} --retie {how}"), dir.path()).good().stdout;
        assert!(packed.contains("made equal by --retie: "), "{packed}");
    }
}
