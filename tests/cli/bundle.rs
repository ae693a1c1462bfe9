//! Bundles: their bytes, and that they run and decode to the same bits, with a compiler and without.

use std::fs;
use std::process::Command;

use crate::{MODEL, edit, packed, run, scratch};

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
    // The decoder's cost, all it needs included, names and shapes too, for matrices and vectors.
    let line = format!("bundle {ARTIFACT} --script {{}}/train.py -o {{}}/c.py --json");
    let cost = run(&line, dir.path()).good().json()["bytes"]["decoder"].as_u64().unwrap();
    assert!(cost <= 6000, "{cost} bytes");
}

#[test]
fn a_pack_with_its_bundle_fills_the_cap() {
    let dir = scratch();
    fs::write(dir.path().join("train.py"), "import tiepack\nprint(len(tiepack.bundled()))\n").unwrap();
    fs::write(dir.path().join("notes.txt"), "123").unwrap();
    let line = "pack MODEL -o {}/out.tiepack --cap 60kB --statistics none --effort fast --no-eval \
        --bundle {}/train.py --include {}/notes.txt --json";
    let report = run(line, dir.path()).good().json();
    let bytes = fs::read(dir.path().join("out.py")).unwrap().len();
    let budget = &report["verdict"]["budget"];
    assert_eq!((&report["bundle"]["bytes"]["total"], &budget["total"]), (&bytes.into(), &(bytes + 3).into()));
    assert!(budget["free"].as_u64().unwrap() <= 60, "{budget}");
}

#[test]
fn what_cannot_be_bundled_is_refused() {
    let dir = scratch();
    fs::write(dir.path().join("train.py"), "pass\n").unwrap();
    for (line, code, words) in [
        (format!("bundle {ARTIFACT} --script {{}}/train.py -o {{}}/train.py"), 1, "it is one of the inputs"),
        ("bundle {}/out.py --script {}/train.py -o {}/train.py".to_string(), 1, "it is one of the inputs"),
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

/// Run by a Python that has numpy and, in this script, nothing of tiepack; compared with what `unpack` writes.
#[test]
#[ignore = "needs python3 with numpy and zstandard"]
fn bundles_decode_to_the_same_bits() {
    let python = std::env::var_os("PYTHON").unwrap_or_else(|| "python3".into());
    let dir = scratch();
    let script = "import sys\nsys.path.insert(0, 'formats')\nimport reader, tiepack\n\
        wanted, found = reader.read_safetensors(sys.argv[1]), tiepack.bundled()\n\
        assert not hasattr(tiepack, '__file__') and wanted.keys() == found.keys()\n\
        assert all(found[n].astype('<f4').tobytes() == wanted[n].astype('<f4').tobytes() for n in wanted)\nprint('same')\n";
    fs::write(dir.path().join("check.py"), script).unwrap();
    for name in ["quantized", "lossless", "foreign"] {
        let artifact = format!("fixtures/golden/v1-{name}.tiepack");
        run(&format!("unpack {artifact} -o {{}}/{name}.safetensors --force"), dir.path()).good();
        for apart in ["", " --apart"] {
            let line = format!("bundle {artifact} --script {{}}/check.py -o {{}}/out.py{apart} --force");
            run(&line, dir.path()).good();
            for compiler in ["cc", "no-such-compiler"] {
                let mut command = Command::new(&python);
                command.arg("-B").arg(dir.path().join("out.py")).arg(dir.path().join(format!("{name}.safetensors")));
                if compiler != "cc" {
                    command.env("CC", compiler).env("PATH", "");
                }
                let output = command.output().unwrap();
                let said = String::from_utf8_lossy(&output.stderr);
                assert_eq!(String::from_utf8_lossy(&output.stdout), "same\n", "{line}, {compiler}: {said}");
                assert_eq!(said.contains("no C compiler"), compiler != "cc", "{said}");
            }
        }
        // Cut, or changed: said before anything is used.
        let bad = fs::read(dir.path().join("weights.bin")).unwrap();
        fs::write(dir.path().join("weights.bin"), &bad[1..]).unwrap();
        let output = Command::new(&python).arg(dir.path().join("out.py")).output().unwrap();
        assert!(!output.status.success() && String::from_utf8_lossy(&output.stderr).contains("is damaged"));
    }
}

#[test]
fn a_bundle_is_inspected_and_verified_like_its_artifact() {
    let dir = scratch();
    for (name, options) in [("a.py", ""), ("b.py", "--nameless"), ("c.py", "--decoder import")] {
        let line = format!("bundle {} --script fixtures/bundled.py -o {{}}/{name} {options}", packed().display());
        run(&line, dir.path()).good();
        let size = fs::metadata(dir.path().join(name)).unwrap().len();
        let seen = run(&format!("inspect {{}}/{name} --json"), dir.path()).good().json();
        let rows = seen["rows"].as_array().unwrap();
        let sum: u64 = rows.iter().map(|row| row["bytes"].as_u64().unwrap()).sum();
        assert_eq!((&seen["kind"], seen["bytes"].as_u64(), sum), (&"bundle".into(), Some(size), size), "{name}");
        assert!(rows.iter().any(|row| row["part"].as_str().unwrap().starts_with("script and")), "{name}");
        // Bit for bit the model, though only its streams are there.
        let against = run(&format!("verify {{}}/{name} --against {MODEL} --val-rows 1 --cap 400kB --json"), dir.path());
        let verdict = against.good().json()["verdict"].clone();
        assert_eq!(verdict["against"]["identical"], verdict["against"]["tensors"], "{name}");
        assert_eq!(
            (verdict["artifact"]["bytes"].as_u64(), verdict["budget"]["total"].as_u64()),
            (Some(size), Some(size))
        );
        run(&format!("verify {{}}/{name}"), dir.path()).good();
        edit(&dir.path().join(name), |bytes| bytes[20_000] ^= 1);
        let damaged = run(&format!("verify {{}}/{name}"), dir.path());
        assert!(damaged.code == 4 && damaged.stderr.contains("the bundle is damaged"), "{name}: {}", damaged.stderr);
    }
}
