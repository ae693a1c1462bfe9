//! Bundles: their bytes, and that they run and decode to the same bits, with a compiler and without.

use std::fs;
use std::path::Path;
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
    assert!(cost <= 6300, "{cost} bytes");
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

/// Every form that a bundle can have.
const FORMS: [&str; 3] = ["--form zip", "--form text", "--apart"];
const SCRIPTS: &str = "tests/cli/scripts";

/// PYTHON is the interpreter, which needs numpy.
fn python(folder: &Path, args: &[&str], env: &[(&str, &str)]) -> (Option<i32>, String, String) {
    let python = std::env::var_os("PYTHON").unwrap_or_else(|| "python3".into());
    let mut command = Command::new(python);
    let output = command.args(args).current_dir(folder).envs(env.iter().copied()).output().expect("Python runs");
    // In a traceback a script goes by its name, whatever folder it is in.
    let text = |bytes: &[u8]| {
        String::from_utf8_lossy(bytes).replace(&format!("{}/", folder.canonicalize().unwrap().display()), "")
    };
    (output.status.code(), text(&output.stdout), text(&output.stderr))
}

/// Runs `script` by itself and in every form of a bundle, under one name: what they print and how they end must be the same.
fn same_in_every_form(script: &[u8], runs: &[&[&str]]) {
    let dir = scratch();
    let own = dir.path().join("own");
    fs::create_dir(&own).unwrap();
    fs::write(own.join("train.py"), script).unwrap();
    let wanted: Vec<_> = runs.iter().map(|args| python(&own, args, &[])).collect();
    for (i, form) in FORMS.iter().enumerate() {
        let folder = dir.path().join(i.to_string());
        fs::create_dir(&folder).unwrap();
        run(&format!("bundle {ARTIFACT} --script {{}}/own/train.py -o {{}}/{i}/train.py {form}"), dir.path()).good();
        for (args, wanted) in runs.iter().zip(&wanted) {
            assert_eq!(&python(&folder, args, &[]), wanted, "{args:?}, {form}");
        }
    }
}

fn script(name: &str) -> Vec<u8> {
    fs::read(Path::new(SCRIPTS).join(name)).unwrap()
}

#[test]
#[ignore = "needs python3 with numpy"]
fn a_bundled_script_finds_in_its_module_what_it_finds_by_itself() {
    same_in_every_form(&script("module.py"), &[&["-W", "error", "-X", "dev", "train.py", "a", "b c"]]);
}

#[test]
#[ignore = "needs python3 with numpy"]
fn workers_of_a_bundled_script_find_it() {
    same_in_every_form(&script("children.py"), &[&["train.py", "spawn", "forkserver", "fork"]]);
}

#[test]
#[ignore = "needs python3 with numpy"]
fn a_bundled_script_shows_its_sources() {
    same_in_every_form(&script("sources.py"), &[&["train.py"]]);
}

#[test]
#[ignore = "needs python3 with numpy"]
fn a_bundled_script_ends_as_it_does_by_itself() {
    let ends = ["code", "words", "stop", "spoken", "chained", "hook", "other"].map(|how| ["train.py", how]);
    same_in_every_form(&script("ends.py"), &ends.each_ref().map(|args| &args[..]));
}

#[test]
#[ignore = "needs python3 with numpy"]
fn a_bundled_script_may_be_written_as_python_allows() {
    for script in [
        &b"\xef\xbb\xbfimport sys\nprint(sys.argv, '\xc3\xa9')\n1 / 0"[..],
        b"# -*- coding: latin-1 -*-\nprint(ascii('\xe9'))\nraise ValueError(ascii('\xe9'))\n",
        b"'''Doc'''\r\nfrom __future__ import annotations\r\n\r\nprint(__doc__)\r\ndef f(x: y):\r\n    1 / 0\r\nf(1)\r\n",
        // Not every character at which str.splitlines ends a line ends one for Python.
        "import inspect\n\x0c\nx = '\u{2028}\u{85}'\ndef f():\n    return x\nprint(ascii(inspect.getsource(f)))\nf.g".as_bytes(),
        b"if 1:\n    print(1)\nx = = 2\n",
        b"x = 'triple'\nimport __main__\nprint(x, \"\"\"'''\"\"\", '\\\\', r'\\0', __main__.x)\n# no end",
        b"",
    ] {
        same_in_every_form(script, &[&["train.py", "a"]]);
    }
}

/// The challenge's own script: it opens its own file, so nobody has to ask for text.
#[test]
#[ignore = "needs python3 with numpy"]
fn a_script_that_logs_its_own_code_is_bundled_as_text() {
    let dir = scratch();
    for apart in ["", " --apart"] {
        let line = format!("bundle {ARTIFACT} --script {SCRIPTS}/baseline.py -o {{}}/out.py --json{apart}");
        let report = run(&line, dir.path()).good().json();
        assert_eq!(report["form"], if apart.is_empty() { "text" } else { "apart" });
        let bytes = report["files"][0]["bytes"].as_u64().unwrap();
        let text = String::from_utf8(fs::read(dir.path().join("out.py")).unwrap()).unwrap();
        assert!(text.is_ascii() && text.len() as u64 == bytes);
        // As torchrun starts it, as runpy and an import run it, and from elsewhere.
        for rank in ["0", "1"] {
            let (code, said, error) = python(dir.path(), &["out.py"], &[("RANK", rank), ("WORLD_SIZE", "2")]);
            assert_eq!((code, &error[..]), (Some(0), ""));
            assert!(said.starts_with(&format!("rank {rank} of 2: {bytes} bytes of code, ")), "{said}");
        }
        let path = dir.path().join("out.py").display().to_string();
        for args in [
            &["-c", "import runpy; print(runpy.run_path('out.py')['Batches'](1)(2))"][..],
            &["-c", "import out, pickle; print(pickle.loads(pickle.dumps(out.Batches(1)))(2))"],
        ] {
            let (code, said, error) = python(dir.path(), args, &[]);
            assert!(code == Some(0) && error.is_empty() && said.starts_with("0."), "{args:?}: {said}{error}");
        }
        let (code, said, error) = python(Path::new("/"), &[&path], &[]);
        assert!(code == Some(0) && said.starts_with("rank 0 of 1"), "{said}{error}");
    }
}

/// Written by version 0.2, the artifact is fixtures/golden/v1-quantized.tiepack.
#[test]
#[ignore = "needs python3 with numpy"]
fn bundles_of_earlier_versions_run() {
    let dir = scratch();
    let line = format!("bundle {ARTIFACT} --script fixtures/bundled.py -o {{}}/new.py");
    run(&line, dir.path()).good();
    fs::copy("fixtures/golden/bundle-v0.2.py", dir.path().join("old.py")).unwrap();
    let new = python(dir.path(), &["new.py"], &[]);
    assert_eq!((new.0, &new.2[..]), (Some(0), ""));
    assert_eq!(python(dir.path(), &["old.py"], &[]), new);
}

#[test]
fn the_form_is_chosen_by_whether_a_script_looks_at_its_own_file() {
    let dir = scratch();
    let form = |script: &str, options: &str| {
        fs::write(dir.path().join("train.py"), script).unwrap();
        let line = format!("bundle {ARTIFACT} --script {{}}/train.py -o {{}}/out.py --json{options}");
        let report = run(&line, dir.path()).good().json();
        let bytes = report["files"].as_array().unwrap().iter().map(|file| file["bytes"].as_u64().unwrap()).sum::<u64>();
        assert_eq!(report["bytes"]["total"], bytes);
        (report["form"].as_str().unwrap().to_string(), report["looks_at_itself"].as_u64(), bytes)
    };
    let looks = "import sys\ncode = open(sys.argv[0]).read()\n";
    let (text, line, long) = form(looks, "");
    assert_eq!((&text[..], line), ("text", Some(2)));
    let (zip, line, short) = form(looks, " --form zip");
    assert_eq!((&zip[..], line), ("zip", None));
    assert_eq!(form("import os\nhere = os.path.dirname(__file__)\n", "").0, "zip");
    let (apart, line, between) = form(looks, " --apart");
    assert_eq!((&apart[..], line), ("apart", None));
    assert!(short < between && between < long && long < short * 7 / 6 + 400, "{short}, {between}, {long}");
}

#[test]
fn imports_that_a_bundle_would_not_have_are_refused_by_line() {
    let dir = scratch();
    let folder = dir.path();
    fs::create_dir_all(folder.join("pack")).unwrap();
    fs::create_dir_all(folder.join("datasets/shards")).unwrap();
    for file in ["model.py", "pack/__init__.py", "pack/deep.py"] {
        fs::write(folder.join(file), "").unwrap();
    }
    let bundle = |script: &str, options: &str| {
        fs::write(folder.join("train.py"), script).unwrap();
        run(&format!("bundle {ARTIFACT} --script {{}}/train.py -o {{}}/out.py{options}"), folder)
    };
    for (script, line) in [
        ("import os\nif 1:\n    import model as m\n", 3),
        ("\nfrom pack.deep import x\n", 2),
        ("from pack import deep", 1),
        ("from . import model\n", 1),
        ("import train\n", 1),
    ] {
        let run = bundle(script, "");
        assert_eq!(run.code, 1, "{script}");
        assert!(run.stderr.contains(&format!("train.py, line {line}")), "{}", run.stderr);
        assert!(!folder.join("out.py").exists());
    }
    // What is caught, is a folder of data, or will lie beside the bundle.
    bundle("try:\n    from .model import x\nexcept ImportError:\n    from datasets import load\n", "").good();
    bundle("import model, pack.deep\n", " --include {}/model.py --include {}/pack/__init__.py").good();
}

#[test]
fn a_script_that_python_cannot_read_is_refused() {
    let dir = scratch();
    fs::write(dir.path().join("train.py"), b"x = 1\ny = '\xe9'\n").unwrap();
    let run = run(&format!("bundle {ARTIFACT} --script {{}}/train.py -o {{}}/out.py"), dir.path());
    assert_eq!(run.code, 1);
    assert!(run.stderr.contains("train.py, line 2: byte 0xe9 is not UTF-8"), "{}", run.stderr);
}

/// As text a bundle holds fewer weights, and `pack` knows it.
#[test]
fn a_pack_with_its_bundle_as_text_fills_the_cap() {
    let dir = scratch();
    let line = format!(
        "pack MODEL -o {{}}/out.tiepack --cap 60kB --statistics none --effort fast --no-eval \
        --bundle {SCRIPTS}/baseline.py --json"
    );
    let report = run(&line, dir.path()).good().json();
    assert_eq!((&report["bundle"]["form"], &report["bundle"]["looks_at_itself"]), (&"text".into(), &34.into()));
    let free = report["verdict"]["budget"]["free"].as_u64().unwrap();
    assert!(free <= 100 && fs::read(dir.path().join("out.py")).unwrap().len() as u64 == 60_000 - free, "{free}");
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
