//! The user's own loss, told by a program of theirs. Here it is a shell script.
#![cfg(unix)]

use std::fs;
use std::path::Path;

use insta::assert_snapshot;

use crate::{Run, foreign, scratch, tiepack};

/// A model of no known network, an older artifact, and a program that answers `$1` before and `$2` after.
fn prepare(dir: &Path) {
    foreign::weights(dir);
    fs::write(dir.join("out.tiepack"), "an older one").unwrap();
    let script =
        "read question\ncase $question in *'\"evaluate\":\"original\"'*) eval \"$1\";; *) eval \"$2\";; esac\n";
    fs::write(dir.join("judge.sh"), script).unwrap();
}

fn losses(list: &str) -> String {
    format!(r#"echo '\''{{"losses": [{list}]}}'\''"#)
}

fn ask(line: &str, dir: &Path, [before, after]: [&str; 2]) -> Run {
    let dir = dir.to_string_lossy();
    let mut args: Vec<String> = line.split_whitespace().map(|word| word.replace("{}", &dir)).collect();
    args.push(format!("--evaluator=sh {dir}/judge.sh '{before}' '{after}'"));
    tiepack(&args)
}

const PACK: &str = "pack {} -o {}/out.tiepack --cap 18kB --statistics none --evaluator-timeout 2s --force";

#[test]
fn the_verdict_is_the_programs() {
    let (dir, [before, after]) = (scratch(), [losses("1.0, 3.0"), losses("1.25, 3.5")]);
    prepare(dir.path());
    let answers = [&before[..], &after];
    let run = ask(PACK, dir.path(), answers).good();
    let table: Vec<&str> = run.stdout.lines().skip_while(|line| !line.contains("difference")).take(2).collect();
    assert_snapshot!(table.join("\n"), @r"
                          original  packed        difference
    the evaluator's loss    2.0000  2.3750  +0.3750 ± 0.1250
    ");
    assert!(run.stdout.ends_with("18,000 bytes, the evaluator's loss +0.3750 ± 0.1250\n"), "{}", run.stdout);
    assert!(!run.stdout.contains("not evaluated"), "{}", run.stdout);
    let verified = ask("verify {}/out.tiepack --against {} --json", dir.path(), answers).good().json();
    assert_eq!(verified["verdict"]["judged"]["difference"]["standard_error"], 0.125);
    let alone = ask("verify {}/out.tiepack --json", dir.path(), answers).good().json();
    assert!(alone["verdict"]["judged"]["original"].is_null() && alone["verdict"]["judged"]["packed"] == 2.375);
}

#[test]
fn a_program_that_fails_at_once_ends_the_run_before_the_work() {
    let dir = scratch();
    prepare(dir.path());
    for (before, words) in [
        ("echo no data >&2; exit 1", "failed, exit status: 1; it said:\nno data"),
        ("true", "ended without an answer"),
        ("sleep 60", "gave no answer within 2 s"),
        ("echo hello", "answered \"hello\""),
        (&losses("NaN"), "a loss that is no number"),
    ] {
        let run = ask(PACK, dir.path(), [before, "true"]);
        assert!(run.code == 1 && run.stderr.contains(words), "{before}: {}, {}", run.code, run.stderr);
    }
    assert_eq!(fs::read(dir.path().join("out.tiepack")).unwrap(), b"an older one");
    assert!(!dir.path().join("out.tiepack.unjudged").exists());
}

#[test]
fn nothing_is_lost_where_it_fails_later() {
    let (dir, good) = (scratch(), losses("1.0, 3.0"));
    prepare(dir.path());
    for after in ["kill -9 $$", &losses("1.0"), &losses("1.0, Infinity")] {
        let run = ask(PACK, dir.path(), [&good, after]);
        assert!(run.code == 1 && run.stderr.contains("out.tiepack.unjudged"), "{after}: {}, {}", run.code, run.stderr);
        assert_eq!(fs::read(dir.path().join("out.tiepack")).unwrap(), b"an older one");
        let again = ask("verify {}/out.tiepack.unjudged --against {} --json", dir.path(), [&good, &good]).good().json();
        assert_eq!(again["verdict"]["judged"]["difference"]["value"], 0.0);
        fs::remove_file(dir.path().join("out.tiepack.unjudged")).unwrap();
    }
}
