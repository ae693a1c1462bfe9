//! House rules: what the documents say about the code, held against the code.

mod documents;
mod imports;
mod sources;

use std::fs;
use std::path::{Path, PathBuf};

/// The text of a file of the repository.
fn text(path: impl AsRef<Path>) -> String {
    let path = path.as_ref();
    fs::read_to_string(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// Every file below a folder whose name ends in one of `kinds`, in the order of their paths. Links are not followed.
fn files(folder: &str, kinds: &[&str]) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut open = vec![PathBuf::from(folder)];
    while let Some(folder) = open.pop() {
        for entry in fs::read_dir(&folder).unwrap_or_else(|e| panic!("{}: {e}", folder.display())) {
            let entry = entry.unwrap();
            let (path, kind) = (entry.path(), entry.file_type().unwrap());
            let wanted = kinds.iter().any(|end| path.to_string_lossy().ends_with(end));
            match () {
                () if kind.is_dir() => open.push(path),
                () if kind.is_file() && wanted => found.push(path),
                () => {}
            }
        }
    }
    found.sort();
    found
}

/// The cells of the rows of the first Markdown table in `text` whose header begins with `| {title} |`.
fn table(text: &str, title: &str) -> Vec<Vec<String>> {
    let header = format!("| {title} |");
    let rows = text.lines().skip_while(|line| !line.starts_with(&header)).skip(2);
    let cells = |row: &str| row.trim_matches('|').split('|').map(|cell| cell.trim().to_string()).collect();
    rows.take_while(|line| line.starts_with('|')).map(cells).collect()
}

/// The words of a text that stand between backticks.
fn quoted(text: &str) -> Vec<&str> {
    text.split('`').skip(1).step_by(2).collect()
}

#[test]
fn tables_are_read_cell_by_cell() {
    let text = "a\n| x | y |\n|---|---|\n| `one`, `two` | 2 |\n| – |  |\nend\n| z |";
    let found = table(text, "x");
    assert_eq!(found, [["`one`, `two`", "2"], ["–", ""]]);
    assert_eq!((quoted(&found[0][0]), quoted(&found[1][0])), (vec!["one", "two"], vec![]));
}
