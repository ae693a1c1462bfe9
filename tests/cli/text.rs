//! Text in place of shards, and text that the model writes.

use std::fs;

use crate::{run, scratch};

#[test]
fn text_is_scored_as_the_shard_that_is_made_of_it() {
    let dir = scratch();
    let text = fs::read_to_string("README.md").unwrap();
    fs::write(dir.path().join("text.md"), &text).unwrap();
    let made = run("tokens {}/text.md -o {}/text.bin --tokenizer fixtures/pep-tiny/tokenizer.model --json", dir.path())
        .good()
        .json();
    assert_eq!((&made["text_bytes"], &made["bits"]), (&text.len().into(), &16.into()));
    let [whole, shard] = ["text.md", "text.bin"].map(|name| {
        let line = format!("eval fixtures/pep-tiny --val {{}}/{name} --val-rows 4 --json");
        run(&line, dir.path()).good().json()["evaluation"].clone()
    });
    assert_eq!(whole, shard);
    // What is there stays: a slip must not cost a text.
    let over = run("tokens {}/text.bin -o {}/text.md --tokenizer fixtures/pep-tiny/tokenizer.model", dir.path());
    assert!(over.code == 1 && over.stderr.contains("it is already there"), "{}", over.stderr);
    assert_eq!(fs::read_to_string(dir.path().join("text.md")).unwrap(), text);
    run("tokens {}/text.md -o {}/text.bin --tokenizer bytes --force", dir.path()).good();
    let bytes = fs::read(dir.path().join("text.bin")).unwrap();
    assert_eq!(bytes.len(), 1024 + 2 * text.len());
    let same = run("tokens {}/text.bin -o {}/text.bin --tokenizer bytes", dir.path());
    assert!(same.code == 1 && same.stderr.contains("one of the inputs"), "{}", same.stderr);
}

#[test]
fn a_model_writes_its_own_calibration_text() {
    let dir = scratch();
    let pack = |name: &str, rest: &str| {
        let line = format!(
            "pack fixtures/pep-tiny -o {{}}/{name} --cap 100kB --effort fast --no-eval --no-cache {rest} --quiet"
        );
        run(&line, dir.path())
    };
    pack("a.tiepack", "--calib self:2048 --threads 1").good();
    pack("b.tiepack", "--calib self:2048 --threads 2").good();
    pack("c.tiepack", "--calib self:2048 --seed 1").good();
    let [a, b, c] = ["a", "b", "c"].map(|name| fs::read(dir.path().join(name).with_extension("tiepack")).unwrap());
    assert!(a == b && a != c);
    for (rest, code, told) in [
        ("--calib self:many", 2, "wanted a number of tokens"),
        ("--calib self:128", 1, "fill no row"),
        ("--calib self:2048 --calib fixtures/pep-tiny/train_000.bin", 2, "files are named as well"),
    ] {
        let refused = pack("d.tiepack", rest);
        assert!(refused.code == code && refused.stderr.contains(told), "{rest}: {}", refused.stderr);
    }
}
