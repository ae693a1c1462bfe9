//! The command as a person or a script runs it: what it prints, what it refuses, how it exits.

mod artifacts;
mod bundle;
mod certain;
mod checkpoints;
mod config;
mod diff;
mod escapes;
mod evaluator;
mod examples;
mod figures;
mod foreign;
mod frontier;
mod help;
mod inputs;
#[cfg(target_os = "linux")]
mod interrupts;
mod losses;
mod lossy;
mod outputs;
mod pack;
mod plan;
mod report;
mod search;
mod text;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use serde_json::Value;
use tempfile::TempDir;

const MODEL: &str = "fixtures/pep-tiny";
/// Enough for pep-tiny with every weight bit for bit.
const AMPLE: &str = "400kB";

/// What a run left.
struct Run {
    code: i32,
    stdout: String,
    stderr: String,
}

impl Run {
    fn json(&self) -> Value {
        serde_json::from_str(&self.stdout).unwrap_or_else(|e| panic!("{e} in {:?}", self.stdout))
    }

    /// The run, which must have succeeded.
    #[track_caller]
    fn good(self) -> Run {
        assert_eq!(self.code, 0, "stdout: {}\nstderr: {}", self.stdout, self.stderr);
        self
    }

    /// The exit code and the error as printed, `dir` taken out of it.
    fn told(&self, dir: &Path) -> String {
        let error = self.stderr.find("error: ").map_or("", |at| &self.stderr[at..]);
        format!("exit {}\n{}", self.code, error.replace(&*dir.to_string_lossy(), "[dir]"))
    }
}

/// Runs the binary. Statistics are never kept in the user's cache folder.
fn tiepack<S: AsRef<std::ffi::OsStr>>(args: &[S]) -> Run {
    let output = Command::new(env!("CARGO_BIN_EXE_tiepack"))
        .args(args)
        .env("XDG_CACHE_HOME", env!("CARGO_TARGET_TMPDIR"))
        .env_remove("COLUMNS")
        .output()
        .expect("the binary runs");
    Run {
        code: output.status.code().expect("no signal"),
        stdout: String::from_utf8(output.stdout).unwrap(),
        stderr: String::from_utf8(output.stderr).unwrap(),
    }
}

/// The same with arguments separated by spaces; `{}` stands for `dir`, `MODEL` for the fixture.
fn run(line: &str, dir: &Path) -> Run {
    let dir = dir.to_string_lossy();
    let word = |word: &str| if word == "MODEL" { MODEL.to_string() } else { word.replace("{}", &dir) };
    tiepack(&line.split_whitespace().map(word).collect::<Vec<_>>())
}

fn scratch() -> TempDir {
    tempfile::tempdir().expect("a folder for temporary files")
}

/// A copy of the fixture, without what `but` names, to be damaged.
fn copy(but: &[&str]) -> TempDir {
    let dir = scratch();
    for name in ["model.safetensors", "config.json", "ties.json", "tokenizer.model", "train_000.bin", "val_000.bin"] {
        if !but.contains(&name) {
            fs::copy(Path::new(MODEL).join(name), dir.path().join(name)).unwrap();
        }
    }
    dir
}

/// Changes the bytes of a file.
fn edit(path: &Path, change: impl FnOnce(&mut Vec<u8>)) {
    let mut bytes = fs::read(path).unwrap();
    change(&mut bytes);
    fs::write(path, bytes).unwrap();
}

/// Replaces the first of some bytes by as many others.
fn replace(bytes: &mut [u8], from: &str, to: &str) {
    assert_eq!(from.len(), to.len());
    let at = bytes.windows(from.len()).position(|w| w == from.as_bytes()).unwrap_or_else(|| panic!("no {from}"));
    bytes[at..at + to.len()].copy_from_slice(to.as_bytes());
}

/// Changes the bytes of one tensor of a weights file.
fn edit_tensor(weights: &Path, tensor: &str, change: impl FnOnce(&mut [u8])) {
    edit(weights, |bytes| {
        let header = 8 + u64::from_le_bytes(*bytes.first_chunk().unwrap()) as usize;
        let entries: Value = serde_json::from_slice(&bytes[8..header]).unwrap();
        let place = |k: usize| {
            header + entries[tensor]["data_offsets"][k].as_u64().unwrap_or_else(|| panic!("no {tensor}")) as usize
        };
        change(&mut bytes[place(0)..place(1)]);
    });
}

/// Flips one bit of the first weight of a tensor.
fn nudge(weights: &Path, tensor: &str) {
    edit_tensor(weights, tensor, |bytes| bytes[0] ^= 1);
}

/// The fixture packed bit for bit, made once.
fn packed() -> &'static Path {
    static PACKED: OnceLock<PathBuf> = OnceLock::new();
    PACKED.get_or_init(|| {
        let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("cli-{}.tiepack", std::process::id()));
        let out = path.to_string_lossy();
        tiepack(&["pack", MODEL, "-o", &out, "--cap", AMPLE, "--lossless", "--no-eval"]).good();
        path
    })
}
