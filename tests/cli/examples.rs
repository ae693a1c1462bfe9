//! The examples in the help texts run, in the order in which the commands are listed; completions and manual pages.

use std::path::Path;
use std::process::Command;

use crate::{run, scratch, tiepack};

/// The commands that `--help` lists.
fn commands() -> Vec<String> {
    let help = tiepack(&["--help"]).good().stdout;
    let list = help.lines().skip_while(|line| *line != "Commands:").skip(1).take_while(|line| !line.is_empty());
    let names = list.filter_map(|line| line.split_whitespace().next()).filter(|name| *name != "help");
    names.map(String::from).collect()
}

#[test]
fn every_command_has_examples_and_they_run() {
    let dir = scratch();
    let fixtures = Path::new("fixtures").canonicalize().unwrap();
    #[cfg(unix)]
    std::os::unix::fs::symlink(fixtures, dir.path().join("fixtures")).unwrap();
    for command in commands() {
        let help = tiepack(&[&command[..], "--help"]).good().stdout;
        let (_, examples) = help.split_once("Examples:\n").unwrap_or_else(|| panic!("{command} has no examples"));
        for line in examples.lines().filter_map(|line| line.trim().strip_prefix("tiepack ")) {
            assert!(line.starts_with(&command), "an example of {command}: {line}");
            // What follows `>` is the shell's.
            let words: Vec<&str> = line.split_whitespace().take_while(|word| *word != ">").collect();
            let done = Command::new(env!("CARGO_BIN_EXE_tiepack"))
                .args(&words)
                .current_dir(dir.path())
                .env("XDG_CACHE_HOME", env!("CARGO_TARGET_TMPDIR"))
                .output()
                .unwrap();
            assert!(done.status.success(), "tiepack {line}\n{}", String::from_utf8_lossy(&done.stderr));
            assert!(!done.stdout.is_empty() && !done.stdout.contains(&0x1b), "{line}: text without colours in a pipe");
        }
    }
}

#[test]
fn shells_and_man_know_every_command() {
    let dir = scratch();
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let script = tiepack(&["completions", shell]).good().stdout;
        assert!(commands().iter().all(|command| script.contains(command)), "{shell}");
    }
    let page = tiepack(&["man", "pack"]).good().stdout;
    assert!(page.contains(".TH") && page.contains("\\-\\-cap"), "{page}");
    run("man -o {}", dir.path()).good();
    for command in commands() {
        assert!(dir.path().join(format!("tiepack-{command}.1")).exists(), "{command}");
    }
    let refused = tiepack(&["man", "squeeze"]);
    assert!(refused.code == 2 && refused.stderr.contains("no command"), "{}", refused.stderr);
}
