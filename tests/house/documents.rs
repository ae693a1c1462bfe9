//! README.md, CHANGELOG.md and the CI script say what is true.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

use tiepack::error::{Error, Kind};

use crate::{files, table, text};

/// Every kind of error. A new one does not compile before it stands here.
fn kinds() -> Vec<Error> {
    let all = [Error::input(""), Error::usage(""), Error::cap(""), Error::verification(""), Error::compute("")];
    for error in &all {
        match error.kind {
            Kind::Input | Kind::Usage | Kind::Cap | Kind::Verification | Kind::Compute => {}
        }
    }
    all.into()
}

fn help(command: Option<&str>) -> String {
    let output = Command::new(env!("CARGO_BIN_EXE_tiepack")).args(command).arg("--help").output().unwrap();
    assert!(output.status.success(), "{command:?}");
    String::from_utf8(output.stdout).unwrap()
}

/// The commands that `tiepack --help` lists.
fn commands() -> Vec<String> {
    let help = help(None);
    let list = help.lines().skip_while(|line| *line != "Commands:").skip(1).take_while(|line| !line.is_empty());
    let names = list.filter_map(|line| line.split_whitespace().next()).filter(|name| *name != "help");
    names.map(String::from).collect()
}

#[test]
fn every_exit_code_is_documented() {
    let documented: BTreeSet<u8> =
        table(&text("README.md"), "code").iter().map(|row| row[0].parse().expect("an exit code")).collect();
    let used: BTreeSet<u8> = kinds().iter().map(Error::exit_code).chain([0]).collect();
    assert_eq!(documented, used);
}

#[test]
fn every_command_has_a_row_and_an_example_that_exists() {
    let rows = table(&text("README.md"), "command");
    let named: Vec<String> = rows.iter().map(|row| row[0].trim_matches('`').to_string()).collect();
    assert_eq!(named, commands());
    for (row, command) in rows.iter().zip(&named) {
        let (example, help) = (row[2].trim_matches('`'), help(Some(command)));
        assert!(example.starts_with(&format!("tiepack {command} ")), "{example}");
        for option in example.split_whitespace().filter(|word| word.starts_with('-')) {
            let known = [" ", ","].iter().any(|end| help.contains(&format!("{option}{end}")));
            assert!(known, "tiepack {command} has no {option}");
        }
    }
}

#[test]
fn every_option_that_the_documents_name_exists() {
    let all = commands().iter().map(|command| help(Some(command))).collect::<String>();
    for document in ["README.md", "CHANGELOG.md", "formats/tie-map.md"] {
        let text = text(document);
        for quoted in crate::quoted(&text).into_iter().filter(|quoted| quoted.starts_with("--")) {
            let option = quoted.split_whitespace().next().unwrap();
            let known = [" ", "\n"].iter().any(|end| all.contains(&format!("{option}{end}")));
            assert!(known, "{document} names {option}");
        }
    }
}

#[test]
fn the_changelog_begins_with_this_version() {
    let changelog = text("CHANGELOG.md");
    let mut versions = changelog.lines().filter_map(|line| line.strip_prefix("## "));
    let newest = versions.find(|version| *version != "Unreleased").expect("a version");
    assert_eq!(newest.split_whitespace().next(), Some(env!("CARGO_PKG_VERSION")));
}

#[test]
fn ci_runs_the_commands_that_the_readme_gives() {
    for command in ["cargo test --release", "./python/test.sh"] {
        assert!(text("README.md").lines().any(|line| line.trim() == command));
        // A packaged crate has no CI script.
        if let Ok(script) = std::fs::read_to_string(".ci/run") {
            assert!(script.lines().any(|line| line == command));
        }
    }
}

#[test]
fn links_lead_somewhere() {
    let mut documents: Vec<PathBuf> = ["README.md", "ARCHITECTURE.md", "CHANGELOG.md"].map(PathBuf::from).into();
    // A packaged crate has no other package in it.
    let packages = ["crates/", "js/", "python/"];
    let whole = packages.iter().all(|folder| Path::new(folder).is_dir());
    for folder in ["examples", "fixtures", "formats"].into_iter().chain(whole.then_some("python")) {
        documents.extend(files(folder, &[".md"]));
    }
    if whole {
        documents.push("js/README.md".into());
    }
    for document in documents {
        let (text, folder) = (text(&document), document.parent().unwrap_or(Path::new("")));
        for link in text.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            let file = link.split('#').next().unwrap_or_default();
            let outside = file.contains("://")
                || file.is_empty()
                || !whole && packages.iter().any(|folder| file.contains(folder));
            assert!(outside || folder.join(file).exists(), "{}: {link}", document.display());
        }
    }
}
