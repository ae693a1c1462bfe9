//! The help texts, and what is said to a wrong command line.

use std::path::Path;

use crate::{run, tiepack};

#[test]
fn help_texts() {
    let seen = ["", "pack", "eval", "verify", "inspect", "diff", "frontier", "unpack", "bundle", "config"];
    for command in seen.into_iter().chain(["completions", "man"]) {
        let name = if command.is_empty() { "tiepack" } else { command };
        let run = run(&format!("{command} --help"), Path::new("")).good();
        assert_eq!(run.stderr, "");
        insta::assert_snapshot!(format!("help_{name}"), run.stdout);
    }
    let version = tiepack(&["--version"]).good();
    assert_eq!(version.stdout, format!("tiepack {}\n", env!("CARGO_PKG_VERSION")));
}

#[test]
fn wrong_usage() {
    let mut told = String::new();
    for line in [
        "",
        "squeeze",
        "pack MODEL -o out.tiepack",
        "pack MODEL --cap 16MB",
        "pack MODEL -o out.tiepack --cap 0",
        "pack MODEL -o out.tiepack --cap 16Mb",
        "pack MODEL -o out.tiepack --cap big",
        "pack MODEL -o out.tiepack --cap 1.00001kB",
        "pack MODEL -o out.tiepack --cap 16MB --effort heroic",
        "pack MODEL -o out.tiepack --cap 16MB --retie last",
        "pack MODEL -o out.tiepack --cap 16MB --val-rows 0",
        "pack MODEL -o out.tiepack --cap 16MB --calib-rows some",
        "pack MODEL -o out.tiepack --cap 16MB --no-cache --cache here",
        "eval MODEL --threads 0",
        "eval MODEL --device gpu",
        "eval MODEL --stride 0",
        "eval MODEL --stride 129",
        "eval MODEL --documents 1024",
        "eval MODEL --documents 4294967296",
        "eval MODEL --limit 0",
        "eval MODEL --limit 100 --val-rows 2",
        "verify out.tiepack --include train_gpt.py",
    ] {
        let run = run(line, Path::new("[none]"));
        assert_eq!((run.code, &run.stdout[..]), (2, ""), "{line}: {}", run.stderr);
        // The usage that clap repeats below is in the help texts.
        let first = run.stderr.split("\n\n").next().unwrap();
        told += &format!("$ tiepack {line}\n{}\n\n", first.trim_end());
    }
    insta::assert_snapshot!(told);
}

#[test]
fn errors_are_json_when_json_is_asked_for() {
    for (line, kind, code) in [
        ("pack MODEL -o out.tiepack --cap 0 --json", "usage", 2),
        ("eval MODEL --stride 129 --json", "usage", 2),
        ("inspect nowhere --json", "input", 1),
        ("pack MODEL -o {}/out.tiepack --cap 1kB --lossless --no-eval --json", "cap", 3),
        ("verify MODEL/config.json --json", "verification", 4),
    ] {
        let dir = crate::scratch();
        let run = run(&line.replace("MODEL", crate::MODEL), dir.path());
        let document = run.json();
        assert_eq!((run.code, &document["schema"]), (code, &1.into()), "{line}");
        let error = &document["error"];
        assert_eq!((error["kind"].as_str(), error["exit_code"].as_i64()), (Some(kind), Some(code.into())), "{line}");
        assert!(error["message"].as_str().is_some_and(|m| !m.is_empty()), "{line}");
        assert!(!run.stderr.contains("error"), "{line}: {}", run.stderr);
    }
}

/// A build with CUDA says something else, and what depends on the machine.
#[cfg(not(feature = "cuda"))]
#[test]
fn a_build_without_cuda_says_so() {
    let mut told = String::new();
    for line in ["eval MODEL --device cuda:0", "verify out.tiepack --device cuda:1"] {
        let run = run(line, Path::new("[none]"));
        told += &format!("$ tiepack {line}\n{}\n", run.told(Path::new("[none]")));
    }
    insta::assert_snapshot!(told);
}
