//! Ctrl-C, as a terminal sends it: nothing is written of what is only half done, and what is, says so.

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::scratch;

/// Starts a command, which hears signals by the time that this returns.
fn start(line: &str, dir: &Path) -> Child {
    let words = line.split_whitespace().map(|word| word.replace("{}", &dir.to_string_lossy()));
    let mut command = Command::new(env!("CARGO_BIN_EXE_tiepack"));
    let child = command.args(words).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let listens = || {
        let status = fs::read_to_string(format!("/proc/{}/status", child.id())).unwrap();
        let caught = status.lines().find_map(|line| line.strip_prefix("SigCgt:")).unwrap();
        // SIGINT is the second signal.
        u64::from_str_radix(caught.trim(), 16).unwrap() & 2 != 0
    };
    let begun = Instant::now();
    while !listens() {
        assert!(begun.elapsed() < Duration::from_secs(120), "{line} never listens");
        std::thread::sleep(Duration::from_millis(5));
    }
    child
}

fn interrupt(child: &Child) {
    assert!(Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap().success());
}

/// The exit code, stdout and stderr.
fn end(mut child: Child) -> (i32, String, String) {
    let (mut stdout, mut stderr) = (String::new(), String::new());
    child.stdout.take().unwrap().read_to_string(&mut stdout).unwrap();
    if let Some(mut pipe) = child.stderr.take() {
        pipe.read_to_string(&mut stderr).unwrap();
    }
    (child.wait().unwrap().code().expect("no signal"), stdout, stderr)
}

#[test]
fn measuring_ends_at_once_and_leaves_nothing() {
    let dir = scratch();
    // Long enough that it cannot be through by then.
    let line = "pack fixtures/pep-tiny -o {}/out.tiepack --cap 60kB --effort max --no-cache --no-eval";
    for (json, words) in [("", "error: interrupted while measuring"), (" --json", "\"kind\": \"interrupted\"")] {
        let child = start(&format!("{line}{json}"), dir.path());
        std::thread::sleep(Duration::from_millis(500));
        interrupt(&child);
        let (code, stdout, stderr) = end(child);
        assert_eq!(code, 130, "{stdout}{stderr}");
        assert!(format!("{stdout}{stderr}").contains(words), "{stdout}{stderr}");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0, "something was left behind");
    }
}

#[test]
fn healing_ends_with_the_best_so_far_and_says_so() {
    let dir = scratch();
    let line = "pack fixtures/pep-tiny -o {}/out.tiepack --cap 60kB --effort fast --calib-rows 16 --no-cache --val-rows 2 \
        --heal 100000 --json";
    let mut child = start(line, dir.path());
    let mut said = BufReader::new(child.stderr.take().unwrap()).lines().map_while(Result::ok);
    let begins = said.find(|line| line.starts_with("healing takes"));
    assert!(begins.is_some(), "it never heals");
    std::thread::sleep(Duration::from_secs(2));
    interrupt(&child);
    let rest = std::thread::spawn(move || said.collect::<Vec<_>>());
    let (code, stdout, _) = end(child);
    assert_eq!((code, rest.join().unwrap().iter().any(|line| line.starts_with("ending"))), (0, true));
    let document: Value = serde_json::from_str(&stdout).unwrap();
    assert_eq!(document["interrupted"], true);
    let notes = document["verdict"]["notes"].as_array().unwrap();
    assert!(notes.iter().any(|note| note["message"].as_str().unwrap().starts_with("interrupted")), "{notes:?}");
    assert!(document["healing"]["course"]["steps"].as_u64() < Some(100_000));
    assert!(fs::metadata(dir.path().join("out.tiepack")).unwrap().len() <= 60_000);
    // One that nobody ended says so too.
    let line = "pack MODEL -o {}/whole.tiepack --cap 400kB --lossless --no-eval --json";
    assert_eq!(crate::run(line, dir.path()).good().json()["interrupted"], false);
}
