//! Small runs on the bundled text.

use std::path::Path;

use clap::Parser;
use tiepack::eval::compare::losses;
use tiepack::eval::windows::Windows;
use tiepack::ingest::{self, Overrides, Shard, folder};
use tiepack::model::build;
use tiepack::nets;
use tiepack::progress::Silent;

use super::args::Args;

const SMALL: &str =
    "--dim 16 --layers 3 --heads 2 --kv-heads 1 --context 32 --batch 64 --val-rows 8 --checkpoint-every 5";

fn run(line: &str, out: &Path) -> tiepack::error::Result<serde_json::Value> {
    let words = ["train_tied", "fixtures/pep-tiny", out.to_str().unwrap()];
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
        let result = run(&format!("--steps 12 --shape {shape}"), dir.path()).unwrap();
        let source = ingest::read(&folder::locate(dir.path(), &Overrides::default()).unwrap()).unwrap();
        let model = build(source.clone(), nets::build(&source.config).unwrap(), None).unwrap();
        let tokens = Shard::read(Path::new("fixtures/pep-tiny/val_000.bin")).unwrap().tokens;
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
    assert!(error.exit_code() == 1 && std::fs::read(dir.path().join("checkpoint.safetensors")).unwrap() == before);
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
