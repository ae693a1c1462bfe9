//! Names that would steer a terminal are shown instead.

use std::fs;

use crate::{run, scratch};

/// Sets the title of a window, clears the screen, turns the direction of text.
const FOREIGN: &str = "\u{1b}]0;owned\u{7}\u{1b}[2J\u{9b}31m\u{202e}";

/// A weights file of one matrix whose name, when shown, is more than a name.
fn weights(name: &str) -> Vec<u8> {
    let entry = serde_json::json!({"dtype": "F32", "shape": [8, 8], "data_offsets": [0, 256]});
    let mut header = serde_json::to_string(&serde_json::json!({ name: entry })).unwrap();
    header.extend(std::iter::repeat_n(' ', (8 - header.len() % 8) % 8));
    let data: Vec<u8> = (0..64).flat_map(|i| (i as f32 * 0.37).sin().to_le_bytes()).collect();
    [&(header.len() as u64).to_le_bytes()[..], header.as_bytes(), &data].concat()
}

fn steers(text: &str) -> bool {
    text.chars().any(|c| (c.is_control() && c != '\n') || c == '\u{202e}')
}

#[test]
fn no_name_or_path_steers_a_terminal_or_gets_into_a_picture() {
    let dir = scratch();
    let odd = dir.path().join(format!("model{FOREIGN}.safetensors"));
    fs::write(&odd, weights(&format!("w{FOREIGN}.weight"))).unwrap();
    fs::write(dir.path().join("other.safetensors"), weights("other.weight")).unwrap();
    // Paths have no spaces here, so that a line is split where it should be.
    let odd = odd.display().to_string();
    for (line, code) in [
        (format!("pack {odd} -o {{}}/a.tiepack --cap 9kB --lossless --report {{}}/pack.html"), 0),
        (format!("pack {odd} -o {{}}/b.tiepack --cap 9kB"), 1),
        (format!("pack {odd} -o {{}}/b.tiepack --cap 100 --lossless"), 3),
        ("inspect {}/a.tiepack --svg {}/a.svg --report {}/a.html".into(), 0),
        ("inspect {}/a.tiepack --by role".into(), 0),
        (format!("inspect {odd}"), 0),
        (format!("diff {odd} {{}}/other.safetensors --report {{}}/d.html"), 0),
        (format!("verify {{}}/a.tiepack --against {odd}"), 0),
        (format!("verify {odd}"), 4),
        (format!("eval {odd}"), 1),
        ("unpack {}/a.tiepack -o {}/out".into(), 0),
        (format!("config {odd}"), 1),
        (format!("inspect {{}}/nowhere{FOREIGN}"), 1),
        (format!("inspect MODEL --by {FOREIGN}"), 2),
    ] {
        let said = run(&line, dir.path());
        assert_eq!(said.code, code, "{line:?}: {}", said.stderr);
        assert!(!steers(&said.stdout) && !steers(&said.stderr), "{line:?}: {:?}{:?}", said.stdout, said.stderr);
        let json = run(&format!("{line} --json --force"), dir.path());
        let json = if json.code == 2 { run(&format!("{line} --json"), dir.path()) } else { json };
        assert!(!steers(&json.stdout) && !json.stdout.is_empty(), "{line:?}: {:?}", json.stdout);
    }
    for name in ["pack.html", "a.svg", "a.html", "d.html"] {
        let page = fs::read_to_string(dir.path().join(name)).unwrap();
        assert!(!steers(&page), "{name}");
    }
    assert!(fs::read_to_string(dir.path().join("a.html")).unwrap().contains("\\u001b]0;owned"));
    // In a document the name is what it is.
    let document = run("inspect {}/a.tiepack --json", dir.path()).good().json();
    let rows = document["rows"].as_array().unwrap();
    assert!(rows.iter().any(|row| row["tensors"][0] == format!("w{FOREIGN}.weight")), "{document}");
    let back = fs::read(dir.path().join("out/model.safetensors")).unwrap();
    assert!(back.windows(8).any(|at| at == b"\\u001b]0"), "the name comes back as it was");
}
