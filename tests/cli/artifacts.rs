//! Artifacts: damaged ones are refused, sound ones are shown, verified and unpacked.

use std::fs;

use crate::{MODEL, copy, edit, nudge, packed, replace, run, scratch};

#[test]
fn damage_is_found_by_every_command() {
    let dir = scratch();
    let bad = dir.path().join("bad.tiepack");
    let sound = fs::read(packed()).unwrap();
    let flip = |at: usize| {
        let mut bytes = sound.clone();
        bytes[at] ^= 0x10;
        bytes
    };
    let end = sound.len();
    let damaged = [
        ("cut short", sound[..end - 1].to_vec()),
        ("only its first half", sound[..end / 2].to_vec()),
        ("a header byte", flip(40)),
        ("a weight", flip(end / 2)),
        ("the root", flip(end - 20)),
        ("the checksum", flip(end - 1)),
        ("the version", flip(3)),
    ];
    for (what, bytes) in damaged {
        fs::write(&bad, bytes).unwrap();
        for line in ["verify {}/bad.tiepack", "verify {}/bad.tiepack --against MODEL", "inspect {}/bad.tiepack"] {
            let run = run(line, dir.path());
            assert_eq!((run.code, &run.stdout[..]), (4, ""), "{what}: {line}: {}", run.stderr);
            assert!(run.stderr.contains("bad.tiepack: "), "{what}: {line} names the file: {}", run.stderr);
        }
    }
    for line in ["eval {}/bad.tiepack --val fixtures/pep-tiny/val_000.bin", "unpack {}/bad.tiepack -o {}/out"] {
        assert_eq!(run(line, dir.path()).code, 4, "{line}");
    }
    assert!(!dir.path().join("out/model.safetensors").exists());
    assert_eq!(run("verify MODEL/model.safetensors".replace("MODEL", MODEL).as_str(), dir.path()).code, 4);
}

#[test]
fn an_artifact_of_another_model_is_told_apart() {
    for (file, from, to, what) in [
        ("config.json", "\"rope_base\": 10000.0", "\"rope_base\": 20000.0", "rope_base is 10000.0"),
        ("config.json", "\"logit_softcap\": 30.0", "\"logit_softcap\": 31.0", "logit_softcap is 30.0"),
    ] {
        let dir = copy(&[]);
        edit(&dir.path().join(file), |b| replace(b, from, to));
        let line = format!("verify {} --against {{}} --val-rows 1", packed().display());
        let run = run(&line, dir.path());
        assert_eq!(run.code, 4, "{}", run.stderr);
        assert!(run.stderr.contains(what), "{what}: {}", run.stderr);
    }
    // The weights of one tied layer differ, and the tie map admits it.
    let dir = copy(&["ties.json"]);
    nudge(&dir.path().join("model.safetensors"), "blocks.2.attn.c_q.weight");
    let run = run(&format!("verify {} --against {{}} --val-rows 1", packed().display()), dir.path());
    assert_eq!(run.code, 4, "{}", run.stderr);
    assert!(run.stderr.contains("blocks.2.attn.c_q.weight is tied to blocks.0"), "{}", run.stderr);
}

#[test]
fn a_cap_is_checked_on_request() {
    let size = fs::metadata(packed()).unwrap().len();
    let verify = |cap: u64| run(&format!("verify {} --cap {cap}", packed().display()), packed());
    verify(size).good();
    let over = verify(size - 1);
    assert_eq!(over.code, 3);
    assert!(over.stderr.contains("the smallest cap"), "{}", over.stderr);
}

#[test]
fn every_byte_is_in_one_row() {
    let size = fs::metadata(packed()).unwrap().len();
    for (path, size) in [(packed().display().to_string(), size), (MODEL.into(), 715_472)] {
        let inventory = run(&format!("inspect {path} --json"), packed()).good().json();
        let bytes = |list: &str| -> u64 {
            inventory[list].as_array().unwrap().iter().map(|row| row["bytes"].as_u64().unwrap()).sum()
        };
        assert_eq!((bytes("rows"), bytes("roles"), &inventory["bytes"]), (size, size, &size.into()), "{path}");
        assert_eq!(bytes("groups"), size, "{path}");
        assert_eq!(inventory["copies"], serde_json::json!([0, 1, 0, 3, 3, 0]), "{path}");
        assert_eq!((&inventory["parameters"], &inventory["stored"]), (&352_904.into(), &218_504.into()), "{path}");
    }
}

#[test]
fn the_table_of_a_model() {
    let mut shown = String::new();
    for options in ["", "--by layer", "--by role -n 4", "--by kind"] {
        let run = run(&format!("inspect MODEL {options}"), packed()).good();
        assert_eq!(run.stderr, "");
        shown += &format!("$ tiepack inspect MODEL {options}\n{}\n", run.stdout);
    }
    insta::assert_snapshot!(shown);
}

#[test]
fn an_artifact_tells_what_it_is_made_of() {
    let golden = "fixtures/golden/v1-foreign.tiepack";
    let run = run(&format!("inspect {golden} --indices"), packed()).good();
    insta::assert_snapshot!(run.stdout);
    assert!(run.stdout.lines().all(|line| line.chars().count() <= 80), "80 columns: {}", run.stdout);
}

#[test]
fn an_artifact_is_held_against_its_model() {
    let exact =
        run(&format!("inspect {} --against MODEL --effort fast --json", packed().display()), packed()).good().json();
    let rows = exact["rows"].as_array().unwrap();
    let matrices: Vec<_> = rows.iter().filter(|row| row["fidelity"].is_object()).collect();
    assert!(matrices.len() > 19, "{}", matrices.len());
    for row in matrices {
        assert_eq!(
            (&row["fidelity"]["relative_error"], &row["fidelity"]["predicted_loss"]),
            (&0.0.into(), &0.0.into())
        );
        assert!(row["fidelity"]["gaussian_bound"].is_null(), "no finite number of bits: {row}");
    }
    let refused = run("inspect MODEL --against MODEL", packed());
    assert!(refused.code == 2 && refused.stderr.contains("wants an artifact"), "{}", refused.stderr);
}

#[test]
fn unpacking_gives_the_model_back() {
    let dir = scratch();
    let unpack = |to: &str| run(&format!("unpack {} -o {{}}/{to}", packed().display()), dir.path());
    let said = unpack("out").good().stdout;
    assert!(said.contains("tensors: 37 in bf16, 25 in f32"), "{said}");
    let out = dir.path().join("out");
    assert!(
        run("verify {} --against {}/out".replacen("{}", &packed().to_string_lossy(), 1).as_str(), dir.path())
            .good()
            .stdout
            .contains("62 of 62 tensors bit-identical")
    );
    let loss = |model: &str| {
        let line = format!("eval {model} --val fixtures/pep-tiny/val_000.bin --val-rows 4 --json");
        run(&line, dir.path()).good().json()["evaluation"]["packed"]["nats_per_token"].as_f64().unwrap()
    };
    assert_eq!((loss("{}/out"), loss(&packed().to_string_lossy())), (loss("MODEL"), loss("MODEL")));

    // Again is no conflict, but somebody's changed file is.
    unpack("out").good();
    fs::write(out.join("config.json"), "{}").unwrap();
    fs::remove_file(out.join("model.safetensors")).unwrap();
    let refused = unpack("out");
    assert_eq!(refused.code, 1);
    assert!(refused.stderr.contains("config.json") && refused.stderr.contains("--force"), "{}", refused.stderr);
    assert!(!out.join("model.safetensors").exists(), "nothing is written when something is refused");
    unpack("out --force").good();
    assert_ne!(fs::read_to_string(out.join("config.json")).unwrap(), "{}");

    // A name that ends in .safetensors is that of the file.
    let before = fs::read_dir(dir.path()).unwrap().count();
    unpack("other.safetensors").good();
    assert!(dir.path().join("other.safetensors").is_file());
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), before + 1, "one named file is one file");
    assert_eq!(unpack("nowhere/model.safetensors").code, 1);
    fs::write(dir.path().join("taken"), "").unwrap();
    assert_eq!(unpack("taken").code, 1);
}
