//! Rules for every file.

use std::fs;
use std::path::PathBuf;

use crate::{files, text};

/// The files that people write, of the kinds that hold text.
fn written() -> Vec<PathBuf> {
    let kinds = [".rs", ".md", ".toml", ".py", ".json", ".svg", ".snap"];
    let mut found = Vec::new();
    for folder in [".cargo", "assets", "benches", "crates", "examples", "fixtures", "formats", "python", "src", "tests"]
    {
        if PathBuf::from(folder).is_dir() {
            found.extend(files(folder, &kinds));
        }
    }
    // The root's own files: its other folders are not the project's.
    for entry in std::fs::read_dir(".").unwrap() {
        let path = entry.unwrap().path();
        if path.is_file() && kinds.iter().any(|kind| path.to_string_lossy().ends_with(kind)) {
            found.push(path);
        }
    }
    found
}

/// The sources of all crates but python's.
fn sources() -> Vec<PathBuf> {
    ["src", "crates"].into_iter().flat_map(|folder| files(folder, &[".rs"])).collect()
}

#[test]
fn no_source_file_is_longer_than_500_lines() {
    for path in sources() {
        let lines = text(&path).lines().count();
        assert!(lines <= 500, "{} has {lines} lines: split it", path.display());
    }
}

#[test]
fn every_source_file_says_what_it_is_for() {
    for path in sources() {
        assert!(text(&path).starts_with("//! "), "{} has no head", path.display());
    }
}

#[test]
fn nothing_names_the_place_where_it_was_written() {
    // In pieces, so that this file does not name them either.
    let forbidden = [concat!("..", "/shared"), concat!("/wo", "rk/"), concat!("/tm", "p/"), concat!("/ro", "ot/")];
    let files = written();
    assert!(files.len() > 50, "only {} files", files.len());
    for path in files {
        // A bundle is not all text.
        let bytes = fs::read(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        let text = String::from_utf8_lossy(&bytes);
        for word in forbidden {
            let line = text.lines().position(|line| line.contains(word));
            assert!(line.is_none(), "{}:{} names {word}", path.display(), line.unwrap_or_default() + 1);
        }
    }
}

#[test]
fn unsafe_stands_only_where_the_map_says() {
    let map = text("ARCHITECTURE.md");
    let line = map.lines().find(|line| line.contains("`unsafe` stands in")).expect("the invariant about unsafe");
    let mut named: Vec<PathBuf> =
        crate::quoted(line).into_iter().filter(|word| word.starts_with("src/")).map(PathBuf::from).collect();
    named.sort();
    let uses = |path: &PathBuf| text(path).lines().any(|line| line.contains("unsafe {") && !line.contains("//"));
    let found: Vec<PathBuf> = sources().into_iter().filter(uses).collect();
    assert_eq!(found, named);
}
