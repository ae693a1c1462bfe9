//! Small runs on the bundled text.

use std::path::Path;

use clap::Parser;
use tiepack::eval::compare::losses;
use tiepack::eval::windows::Windows;
use tiepack::ingest::{self, Overrides, Reading, Shard, folder};
use tiepack::model::build;
use tiepack::nets;
use tiepack::progress::Silent;

use super::args::Args;

const SMALL: &str =
    "--dim 16 --layers 3 --heads 2 --kv-heads 1 --context 32 --batch 64 --val-rows 8 --checkpoint-every 5";

fn run(line: &str, out: &Path) -> tiepack::error::Result<serde_json::Value> {
    run_on(Path::new("fixtures/pep-tiny"), line, out)
}

fn run_on(data: &Path, line: &str, out: &Path) -> tiepack::error::Result<serde_json::Value> {
    let words = ["train_tied", data.to_str().unwrap(), out.to_str().unwrap()];
    let words = words.into_iter().chain(SMALL.split(' ')).chain(line.split(' '));
    crate::run(&Args::parse_from(words), &Silent)
}

#[test]
fn every_shape_trains_and_is_read_back_with_the_same_loss() {
    let shapes = [
        "untied",
        "albert --embedding-dim 8",
        "universal --optimizer adamw --schedule cosine",
        "cycle --rank 2",
        "trunk --rank 2 --late 1 --pack-aware straight --cap 8000 --pack-aware-from 0.5",
        "dynamic --decide 0 1 --decide-every 1 --pack-aware noise --cap 8000",
        "cycle --rank 0 --cap 9000 --bits 2.5",
    ];
    for shape in shapes {
        let dir = tempfile::tempdir().unwrap();
        let result = run(&format!("--steps 20 --shape {shape}"), dir.path()).unwrap();
        let source = ingest::read(&folder::locate(dir.path(), &Overrides::default()).unwrap()).unwrap();
        let model = build(source.clone(), nets::build(&source.config).unwrap(), None).unwrap();
        let tokens = Shard::read(Path::new("fixtures/pep-tiny/val_000.bin"), &Reading::default(), 1024).unwrap().tokens;
        let windows = Windows::new(&tokens, 32, Some(8));
        let loss = losses(model.network().unwrap(), &model.params().unwrap(), &windows, &|_| {}).unwrap().mean();
        let said = result["validation"]["nats_per_token"].as_f64().unwrap();
        assert!((loss - said).abs() < 1e-5 && said < 6.9, "{shape}: {loss} read back, {said} said");
        assert_eq!(serde_json::json!(model.ties.copies), result["copies"], "{shape}");
    }
}

#[test]
fn a_run_that_is_broken_off_ends_as_an_unbroken_one() {
    for shape in ["untied --optimizer adamw", "dynamic --decide 0 1 --decide-every 2 --pack-aware noise --cap 8000"] {
        let (whole, broken) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let line = format!("--steps 14 --pack-aware-from 0.4 --shape {shape}");
        run(&line, whole.path()).unwrap();
        run(&format!("{line} --stop-after 8"), broken.path()).unwrap();
        run(&format!("{line} --resume"), broken.path()).unwrap();
        let bytes = |dir: &Path, name: &str| std::fs::read(dir.join(name)).ok();
        for name in ["model.safetensors", "ties.json", "decisions.jsonl", "ties.svg"] {
            assert!(bytes(whole.path(), name) == bytes(broken.path(), name), "{shape}: {name}");
        }
    }
}

#[test]
fn low_rank_terms_come_from_an_untied_model() {
    let (untied, cycle) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let loss = |result: serde_json::Value| result["validation"]["nats_per_token"].as_f64().unwrap();
    run("--steps 30", untied.path()).unwrap();
    let from =
        format!("--from {} --steps 1 --matrix-rate 0 --embedding-rate 0 --vector-rate 0", untied.path().display());
    // One block for every layer: nothing is left out, so the loss is that of the untied model.
    let same = loss(run(&format!("{from} --shape cycle --blocks 3 --rank 2"), cycle.path()).unwrap());
    let other = loss(run("--steps 30", untied.path()).unwrap());
    assert!((same - other).abs() < 0.01, "{same} {other}");
    let refused = run(&format!("{from} --shape cycle --layers 4"), cycle.path()).unwrap_err();
    assert!(refused.message.contains("--from wants an untied model of 4 layers"), "{refused}");
}

/// A folder with shards of these tokens, and none where there are none.
fn shards(parts: [&[u32]; 2]) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    for (tokens, name) in
        parts.into_iter().zip(["train_000.bin", "val_000.bin"]).filter(|(tokens, _)| !tokens.is_empty())
    {
        let mut header = [0i32; 256];
        header[..3].copy_from_slice(&[20_240_520, 1, tokens.len() as i32]);
        let bytes =
            header.iter().flat_map(|v| v.to_le_bytes()).chain(tokens.iter().flat_map(|t| (*t as u16).to_le_bytes()));
        std::fs::write(dir.path().join(name), bytes.collect::<Vec<u8>>()).unwrap();
    }
    dir
}

#[test]
fn bad_shards_are_refused_before_any_work() {
    let text: Vec<u32> = (0..200).collect();
    let out = tempfile::tempdir().unwrap();
    let out = out.path().join("model");
    let none = Path::new("fixtures/nowhere");
    let refuse = |data: &Path, line: &str| {
        let error = run_on(data, line, &out).unwrap_err();
        assert!(error.exit_code() == 1 && !out.join("model.safetensors").exists(), "{error}");
        error
    };
    assert!(refuse(none, "--steps 1").message.contains("fixtures/nowhere"));
    let cases: [([&[u32]; 2], &str, &str); 6] = [
        ([&[], &text], "--steps 1", "there is no train_*.bin in "),
        ([&text, &[]], "--steps 1", "there is no val_*.bin in "),
        ([&text, &[1, 2, 1024]], "--steps 1", "val_000.bin: token 2 is 1024, but the model knows only ids below 1024"),
        ([&text[..64], &text], "--steps 1", "64 training tokens are too few for a step, which takes 65"),
        ([&text, &text[..32]], "--steps 1", "32 validation tokens fill no row, one takes 33"),
        ([&text, &text], "--steps 1 --context 256", "200 validation tokens fill no row, one takes 257"),
    ];
    for (parts, line, told) in cases {
        let dir = shards(parts);
        let error = refuse(dir.path(), line);
        assert!(error.message.contains(told), "{told}: {error}");
        assert!(error.hint.is_some() || told.starts_with("val_000.bin"), "{error} has no way out");
    }
    let cut = shards([&text, &text]);
    let path = cut.path().join("train_000.bin");
    let bytes = std::fs::read(&path).unwrap();
    std::fs::write(&path, &bytes[..bytes.len() - 2]).unwrap();
    assert!(refuse(cut.path(), "--steps 1").message.contains("train_000.bin"));
}

#[test]
fn the_command_at_the_end_packs_the_model() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("a model");
    let result = run("--steps 5 --shape albert --cap 9000", &out).unwrap();
    let command = result["pack"].as_str().unwrap();
    let (_, line) = command.split_once("pack ").unwrap();
    let out = out.display();
    let wanted = format!(
        "'{out}' -o '{out}.tiepack' --cap 9000 --calib fixtures/pep-tiny/train_000.bin --val fixtures/pep-tiny/val_000.bin"
    );
    assert_eq!(line, wanted);
    let args = line.replace(&format!("'{out}"), "OUT").replace('\'', "");
    let args = args.split(' ').map(|word| word.replace("OUT", &out.to_string()).into());
    let quick = ["--effort", "fast", "--heal", "off", "--val-rows", "4", "--no-cache"].map(Into::into);
    let (code, document) =
        tiepack::cli::json(["tiepack".into(), "pack".into()].into_iter().chain(args).chain(quick).collect(), &Silent);
    assert_eq!(code, 0, "{document}");
    assert!(std::fs::metadata(format!("{out}.tiepack")).unwrap().len() <= 9000);
}

#[test]
fn bad_input_is_refused_with_the_way_out() {
    let dir = tempfile::tempdir().unwrap();
    let refuse = |line: &str| run(line, dir.path()).unwrap_err();
    let error = refuse("--vocab 512");
    assert!(error.message.contains("train_000.bin: token") && error.message.contains("below 512"), "{error}");
    let error = refuse("--batch 1000000");
    assert!(
        error.message.contains("151,092 training tokens are too few for a step") && error.exit_code() == 1,
        "{error}"
    );
    assert!(refuse("--resume").message.starts_with("cannot read"));
    run("--steps 5", dir.path()).unwrap();
    let error = refuse("--steps 5 --seed 1 --resume");
    assert!(error.message.contains("a run with other arguments or other training tokens"), "{error}");
    let before = std::fs::read(dir.path().join("checkpoint.safetensors")).unwrap();
    let error = refuse("--steps 50 --vector-rate 1e30 --checkpoint-every 1000");
    assert!(error.message.starts_with("training diverged: ") && error.message.contains("at step"), "{error}");
    assert!(error.message.contains("no checkpoint had been written"), "{error}");
    assert!(error.exit_code() == 1 && std::fs::read(dir.path().join("checkpoint.safetensors")).unwrap() == before);
    // Two checkpoints of a run of its own, then the end: the second stays, and says so.
    let own = tempfile::tempdir().unwrap();
    let diverging =
        "--steps 60 --warmup 0 --vector-rate 3 --matrix-rate 1e12 --embedding-rate 1e15 --decay 1 --checkpoint-every 1";
    let error = run(diverging, own.path()).unwrap_err();
    assert!(error.message.contains("checkpoint.safetensors holds step "), "{error}");
    assert!(error.exit_code() == 1 && !own.path().join("model.safetensors").exists());
    let path = dir.path().join("checkpoint.safetensors");
    std::fs::write(&path, &before[..before.len() / 2]).unwrap();
    assert!(refuse("--steps 5 --resume").message.contains("is not a checkpoint of a training run"));
    for (line, told) in [
        ("--pack-aware noise", "--pack-aware needs --cap"),
        ("--bits 2", "--bits needs --cap"),
        ("--shape cycle --blocks 4", "--blocks 4: the network runs 3 layers"),
        ("--device tpu", "wanted cpu or cuda:N"),
        ("--dim 15", "the head size must be"),
    ] {
        let error = refuse(line);
        assert!(error.message.contains(told) && error.exit_code() == 2, "{error}");
    }
}
