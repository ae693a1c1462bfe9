//! A figure is the same wherever it stands: in `pack`, `inspect`, `verify` and `diff`, as text, as JSON and on a page.

use std::fs;

use serde_json::Value;

use crate::{run, scratch};

/// What a person sees of a page.
fn seen(page: &str) -> String {
    let mut out = String::new();
    for part in page.split('<').skip(1) {
        out += part.split_once('>').map_or("", |(_, text)| text);
    }
    out
}

/// A count as a person writes it.
fn thousands(n: &Value) -> String {
    let digits = n.to_string();
    let groups: Vec<&str> = digits.as_bytes().rchunks(3).rev().map(|c| std::str::from_utf8(c).unwrap()).collect();
    groups.join(",")
}

#[test]
fn figures_agree_across_commands_and_pages() {
    let dir = scratch();
    let options = "--cap 70kB --effort fast --calib-rows 16 --val-rows 8 --heal 4";
    let line = format!("pack MODEL -o {{}}/a.tiepack {options} --cache {{}}/cache --report {{}}/pack.html");
    let pack = run(&format!("{line} --json"), dir.path()).good().json();
    let said = run(&line, dir.path()).good().stdout;
    let page = seen(&fs::read_to_string(dir.path().join("pack.html")).unwrap());
    let inspect = run("inspect {}/a.tiepack --report {}/inspect.html --json", dir.path()).good().json();
    let inspected = run("inspect {}/a.tiepack -n all", dir.path()).good().stdout;
    let inspect_page = seen(&fs::read_to_string(dir.path().join("inspect.html")).unwrap());
    let verify = run("verify {}/a.tiepack --against MODEL --val-rows 8 --json", dir.path()).good().json();
    let verified = run("verify {}/a.tiepack --against MODEL --val-rows 8", dir.path()).good().stdout;
    let diff = run("diff MODEL {}/a.tiepack --json", dir.path()).good().json();
    let differs = run("diff MODEL {}/a.tiepack", dir.path()).good().stdout;

    // The bytes of every matrix are those of its stream in the file, after healing.
    let rows = inspect["rows"].as_array().unwrap();
    let structure = pack["structure"]["rows"].as_array().unwrap();
    assert_eq!(structure.len(), 19, "one embedding and three layers of six matrices");
    for row in structure {
        let stream = rows.iter().find(|r| r["tensors"][0] == row["tensor"]).unwrap();
        assert_eq!(stream["bytes"], row["bytes"], "{}", row["tensor"]);
    }
    let embedding = thousands(&structure[0]["bytes"]);
    for text in [&said, &page, &inspected, &inspect_page] {
        assert!(text.contains(&embedding), "{embedding} in {text}");
    }

    // Bits per weight are all bytes over the weights of matrices.
    let file = &pack["verdict"]["artifact"];
    assert_eq!(file["weights"], 216_320);
    for (command, found) in [
        ("verify", &verify["verdict"]["artifact"]),
        ("inspect", &inspect),
        ("pack's ledger", &pack["ledger"]),
        ("diff", &diff["after"]),
    ] {
        assert_eq!(found["bits_per_weight"], file["bits_per_weight"], "{command}");
        assert_eq!((&found["weights"], &found["bytes"]), (&file["weights"], &file["bytes"]), "{command}");
    }
    let bits = format!("{:.3}", file["bits_per_weight"].as_f64().unwrap());
    for text in [&said, &page, &inspected, &inspect_page, &verified, &differs] {
        assert!(text.contains(&bits), "{bits} in {text}");
    }

    // A mean and its error have the same decimals, and the same ones on the page.
    let kl = |document: &Value| document["verdict"]["evaluation"]["cost"]["divergence"]["mean"].clone();
    assert_eq!(kl(&pack), kl(&verify));
    for (name, sign) in [("KL(original ‖ packed)", ""), ("loss, nats per token", "+")] {
        let line = said.lines().find(|line| line.starts_with(name)).unwrap_or_else(|| panic!("{name} in {said}"));
        let (before, error) = line.split_once(" ± ").unwrap();
        let value = before.rsplit(' ').next().unwrap();
        let decimals = |figure: &str| figure.split_once('.').unwrap().1.len();
        assert_eq!(decimals(value), decimals(error), "{line}");
        assert!(value.starts_with(sign) || value.starts_with('-'), "{line}");
        let told = format!("{value} ± {error}");
        assert!(verified.contains(&told), "{told} in {verified}");
        assert!(page.replace('−', "-").contains(&told), "{told} on the page");
        assert!(page.matches(value).count() > 1 || value.starts_with('-'), "{value} also among the tiles");
    }
}
