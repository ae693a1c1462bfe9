//! Packing below what every bit takes: the figures of the verdict are those of a network that was changed.

use std::fs;

use crate::{run, scratch};

const CAP: u64 = 100_000;

#[test]
fn a_model_is_packed_under_a_cap_and_proved() {
    let dir = scratch();
    let pack = |out: &str, more: &str| {
        let line = format!(
            "pack MODEL -o {{}}/{out} --cap {CAP} --effort fast --calib-rows 16 --val-rows 16 --no-cache --json {more}"
        );
        run(&line, dir.path()).good().json()
    };
    let document = pack("out.tiepack", "--threads 1");
    let verdict = &document["verdict"];
    let bytes = fs::metadata(dir.path().join("out.tiepack")).unwrap().len();
    assert_eq!((&verdict["artifact"]["bytes"], verdict["budget"]["free"].as_u64()), (&bytes.into(), Some(CAP - bytes)));
    assert!(bytes <= CAP && bytes > CAP - CAP / 1000, "{bytes} bytes of {CAP}: the cap is there to be used");

    let cost = &verdict["evaluation"]["cost"];
    let number = |path: &str| cost.pointer(path).and_then(|v| v.as_f64()).unwrap_or_else(|| panic!("{path} in {cost}"));
    let (kl, median) = (number("/divergence/mean/value"), number("/divergence/median"));
    let (high, largest) = (number("/divergence/percentile_99"), number("/divergence/largest"));
    assert!(0.0 < median && median < kl && kl < high && high <= largest, "{cost}");
    assert!(number("/nats_per_token/standard_error") > 0.0 && number("/same_top") > 0.5, "{cost}");
    assert!(number("/nats_per_token/value").abs() < 0.2, "{cost}");

    // The verdict can be had again from the file alone, and unpacking changes nothing.
    let verify = "verify {}/out.tiepack --against MODEL --val-rows 16 --json";
    let again = run(verify, dir.path()).good().json();
    assert_eq!(&again["verdict"]["evaluation"]["cost"], cost);
    run("unpack {}/out.tiepack -o {}/out", dir.path()).good();
    let loss = |model: &str| {
        let line = format!("eval {model} --val fixtures/pep-tiny/val_000.bin --val-rows 4 --json");
        run(&line, dir.path()).good().json()["evaluation"]["packed"].clone()
    };
    assert_eq!(loss("{}/out"), loss("{}/out.tiepack"));

    // The same seed gives the same file, whatever the number of threads.
    pack("two.tiepack", "--threads 2");
    let read = |name: &str| fs::read(dir.path().join(name)).unwrap();
    assert!(read("out.tiepack") == read("two.tiepack"), "the file depends on the number of threads");
}

#[test]
fn cached_statistics_give_the_same_file() {
    let dir = scratch();
    // Enough rows that every matrix's correction is measured too.
    let pack = |out: &str| {
        let options = "--effort fast --calib-rows 320 --no-eval --cache {}/cache --json";
        run(&format!("pack MODEL -o {{}}/{out} --cap {CAP} {options}"), dir.path()).good().json()
    };
    assert_eq!(pack("measured.tiepack")["cached_statistics"], false);
    assert_eq!(pack("cached.tiepack")["cached_statistics"], true);
    let read = |name: &str| fs::read(dir.path().join(name)).unwrap();
    assert!(read("measured.tiepack") == read("cached.tiepack"), "the file depends on where the statistics came from");
}

#[test]
fn what_the_original_predicts_is_kept() {
    let dir = scratch();
    let pack = |rows: usize| {
        let options = format!("--statistics none --val-rows {rows} --cache {{}}/cache --json");
        let line = format!("pack MODEL -o {{}}/out.tiepack --cap {CAP} --effort fast {options}");
        run(&line, dir.path()).good().json()["verdict"]["evaluation"].clone()
    };
    let kept = || {
        let files = fs::read_dir(dir.path().join("cache")).unwrap().map(|file| file.unwrap().path());
        files.filter(|path| path.to_string_lossy().ends_with(".residual.safetensors")).collect::<Vec<_>>()
    };
    let first = pack(8);
    let [file] = &kept()[..] else { panic!("one file for one model and its tokens") };
    // 8 rows of 128 tokens, 80 wide.
    let size = fs::metadata(file).unwrap().len();
    assert!((8 * 128 * 80 * 4..8 * 128 * 80 * 4 + 1000).contains(&size), "{size}");
    // The figures are the same to the last bit, and come from the file: another model's predictions would show.
    let before = fs::read(file).unwrap();
    assert_eq!(pack(8), first);
    assert!(fs::read(file).unwrap() == before);
    let data = 8 + u64::from_le_bytes(*before.first_chunk().unwrap()) as usize;
    let mut foreign = before.clone();
    foreign[data..].fill(0);
    let [old, new] = [&before, &foreign].map(|bytes| blake3::hash(&bytes[data..]).to_hex());
    crate::replace(&mut foreign, &old, &new);
    fs::write(file, &foreign).unwrap();
    assert_ne!(pack(8), first, "the file was not read");
    // A damaged file counts as none and is written anew.
    foreign[data] = 1;
    fs::write(file, &foreign).unwrap();
    assert_eq!(pack(8), first);
    assert!(fs::read(file).unwrap() == before);
    // Other rows are another file.
    pack(9);
    assert_eq!(kept().len(), 2);
}

#[test]
fn statistics_can_be_measured_in_bf16() {
    let dir = scratch();
    let divergence = |precision: &str| {
        let options = format!("--effort fast --calib-rows 16 --val-rows 8 --no-cache --precision {precision} --json");
        let line = format!("pack MODEL -o {{}}/{precision}.tiepack --cap {CAP} {options}");
        run(&line, dir.path()).good();
        // Both judged in f32.
        let line = format!("verify {{}}/{precision}.tiepack --against MODEL --val-rows 8 --json");
        let cost = run(&line, dir.path()).good().json()["verdict"]["evaluation"]["cost"].clone();
        cost["divergence"]["mean"]["value"].as_f64().unwrap()
    };
    let (full, half) = (divergence("f32"), divergence("bf16"));
    assert!(full != half && (half / full - 1.0).abs() < 0.1, "{full} with statistics in f32, {half} in bf16");
}
