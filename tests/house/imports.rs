//! Who imports whom, held against the table in ARCHITECTURE.md.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use crate::{files, quoted, table, text};

/// The tables of ARCHITECTURE.md, and the sources that they are about.
const MAPS: [(&str, &str); 2] = [("module", "src"), ("part", "crates/tiepack-format/src")];

/// Modules and what they import, in the order of the table.
fn map(title: &str) -> Vec<(String, BTreeSet<String>)> {
    let rows = table(&text("ARCHITECTURE.md"), title);
    let words = |cell: &str| quoted(cell).into_iter().map(String::from).collect::<Vec<_>>();
    let map: Vec<_> = rows.iter().map(|row| (words(&row[0]).remove(0), words(&row[1]).into_iter().collect())).collect();
    assert!(map.len() > 5, "ARCHITECTURE.md has lost its table of each {title}");
    map
}

/// The top-level module that a file of `folder` belongs to, and how many `super::` lead from it out of the crate's root.
fn place(path: &Path, folder: &str) -> (String, usize) {
    let inner = path.strip_prefix(folder).unwrap().with_extension("");
    let parts: Vec<String> = inner.iter().map(|part| part.to_string_lossy().into_owned()).collect();
    let depth = parts.len() - usize::from(parts.last().is_some_and(|name| name == "mod"));
    (parts[0].clone(), depth)
}

/// Source text without its comments.
fn code(source: &str) -> String {
    source.lines().map(|line| line.split("//").next().unwrap_or_default()).collect::<Vec<_>>().join("\n")
}

fn identifier(text: &str) -> &str {
    &text[..text.find(|c: char| c != '_' && !c.is_alphanumeric()).unwrap_or(text.len())]
}

/// What stands first in each part of a braced list: `a::{b, c}, d` gives `a` and `d`. `list` begins after the brace.
fn parts(list: &str) -> Vec<&str> {
    let (mut depth, mut start, mut parts) = (0usize, 0, Vec::new());
    for (at, c) in list.char_indices() {
        match c {
            '{' => depth += 1,
            '}' if depth > 0 => depth -= 1,
            ',' | '}' if depth == 0 => {
                parts.push(identifier(list[start..at].trim_start()));
                start = at + 1;
                if c == '}' {
                    break;
                }
            }
            _ => {}
        }
    }
    parts.retain(|part| !part.is_empty());
    parts
}

/// Every module that paths in `source` name from the root of the crate: `crate::x`, `crate::{x, y}`, in the binary
/// `tiepack::x`, and `super::x` where so many `super` stand together that it is the same.
fn named(source: &str, root: &str, depth: usize, modules: &BTreeSet<String>) -> BTreeSet<String> {
    let source = code(source);
    let mut found = BTreeSet::new();
    let prefix = format!("{root}::");
    for (at, _) in source.match_indices(&prefix) {
        let inside = source[..at].chars().next_back().is_some_and(|c| c == '_' || c.is_alphanumeric());
        let rest = &source[at + prefix.len()..];
        match rest.strip_prefix('{') {
            _ if inside => {}
            Some(list) => found.extend(parts(list).into_iter().map(String::from)),
            None => found.extend([identifier(rest).to_string()]),
        }
    }
    // One chain of `super::` at a time, from its beginning.
    for (at, _) in source.match_indices("super::").filter(|(at, _)| !source[..*at].ends_with("super::")) {
        let steps = source[at..].split("super::").take_while(|part| part.is_empty()).count();
        let target = identifier(&source[at + steps * "super::".len()..]);
        if steps > depth || steps == depth && modules.contains(target) && depth > 0 {
            found.insert(target.to_string());
        }
    }
    found
}

#[test]
fn paths_are_found_in_all_their_forms() {
    let modules = ["a", "b", "c", "d", "e"].map(String::from).into();
    let found = |source: &str, depth| named(source, "crate", depth, &modules).into_iter().collect::<Vec<_>>();
    assert_eq!(found("use crate::a::X; // crate::c\nlet x = crate::b::f(); mycrate::d::f();", 1), ["a", "b"]);
    assert_eq!(found("use crate::{\n    a::{X, Y::{Z}},\n    b,\n};\nuse c::{d, e};", 1), ["a", "b"]);
    assert_eq!(found("use super::a::X;", 1), ["a"]);
    assert_eq!(found("use super::a::X; use super::super::b;", 2), ["b"]);
    assert_eq!(found("use super::*; use super::sibling;", 1), [""; 0]);
}

#[test]
fn every_import_is_on_the_map() {
    for (title, folder) in MAPS {
        let map = map(title);
        let modules: BTreeSet<String> = map.iter().map(|(module, _)| module.clone()).collect();
        let mut found: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
        let mut faults = Vec::new();
        for path in files(folder, &[".rs"]) {
            let (module, depth) = place(&path, folder);
            let root = if module == "main" { "tiepack" } else { "crate" };
            let Some((_, allowed)) = map.iter().find(|(name, _)| *name == module) else {
                faults.push(format!("{}: the module {module} has no row", path.display()));
                continue;
            };
            let mut named = named(&text(&path), root, depth, &modules);
            named.remove(&module);
            for other in named.difference(allowed) {
                faults.push(format!("{}: {module} must not import {other}", path.display()));
            }
            found.entry(module).or_default().extend(named);
        }
        for (module, allowed) in &map {
            match found.get(module) {
                None => faults.push(format!("the table has a row for {module}, which does not exist")),
                Some(found) => {
                    faults.extend(allowed.difference(found).map(|other| format!("{module} no longer imports {other}")));
                }
            }
        }
        assert!(faults.is_empty(), "against the table of each {title} in ARCHITECTURE.md:\n{}", faults.join("\n"));
    }
}

#[test]
fn the_map_has_no_way_back() {
    for (title, _) in MAPS {
        let map = map(title);
        for (at, (module, imports)) in map.iter().enumerate() {
            for import in imports {
                let above = map[..at].iter().any(|(name, _)| name == import);
                assert!(above, "{module} imports {import}, which has no row above it");
            }
        }
    }
    let map = map("module");
    let architecture = text("ARCHITECTURE.md");
    let stages = architecture.lines().find(|line| line.contains(" -> ")).expect("the line of stages");
    let rows: Vec<_> = stages
        .split("->")
        .map(|stage| map.iter().position(|(name, _)| name == stage.trim()).unwrap_or_else(|| panic!("no row: {stage}")))
        .collect();
    assert!(rows.is_sorted(), "rows of the stages {stages}: {rows:?}");
}

#[test]
fn invariants_name_what_is_absent() {
    let imports = |module: &str| map("module").into_iter().find(|(name, _)| name == module).unwrap().1;
    let absent = [
        ("ingest", &["nets", "model"][..]),
        ("nets", &["compile", "artifact", "code", "model"]),
        ("eval", &["compile", "artifact", "code"]),
        ("plan", &["model", "artifact", "code", "ingest", "measure"]),
        ("code", &["artifact", "model", "measure", "plan", "eval"]),
        ("measure", &["code", "plan", "artifact"]),
        ("artifact", &["compile", "plan", "measure"]),
        ("verify", &["compile", "plan", "measure"]),
        ("compile", &["verify", "cli"]),
    ];
    for (module, absent) in absent {
        let imports = imports(module);
        for other in absent {
            assert!(!imports.contains(*other), "{module} imports {other}");
        }
    }
}
