//! An output is never an input: found out before any work.

use std::path::{Path, PathBuf};

use crate::error::{Error, Result};

/// Refuses outputs that are one of the inputs, by whatever name or link, and outputs that are each other.
///
/// # Errors
/// Input, naming both.
pub fn outputs(outputs: &[&Path], inputs: &[PathBuf]) -> Result<()> {
    for (i, output) in outputs.iter().enumerate() {
        if let Some(input) = inputs.iter().find(|input| same(output, input)) {
            let which = if input == output { String::new() } else { format!(", {}", input.display()) };
            return Err(Error::input(format!("cannot write {}: it is one of the inputs{which}", output.display()))
                .hint("name another file"));
        }
        if let Some(other) = outputs[..i].iter().find(|other| same(output, other) || place(output) == place(other)) {
            let [a, b] = [other.display(), output.display()];
            return Err(
                Error::input(format!("{a} and {b} are to be written, and they are one file")).hint("name two files")
            );
        }
    }
    Ok(())
}

/// Whether both are there and are one file.
#[cfg(unix)]
fn same(a: &Path, b: &Path) -> bool {
    use std::os::unix::fs::MetadataExt;
    let id = |path: &Path| std::fs::metadata(path).ok().map(|file| (file.dev(), file.ino()));
    id(a).is_some() && id(a) == id(b)
}

/// Whether both are there and are one file; hard links are not seen.
#[cfg(not(unix))]
fn same(a: &Path, b: &Path) -> bool {
    let full = |path: &Path| std::fs::canonicalize(path).ok();
    full(a).is_some() && full(a) == full(b)
}

/// Where a file that need not be there yet is to be.
fn place(path: &Path) -> PathBuf {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let folder = std::fs::canonicalize(folder).unwrap_or_else(|_| folder.to_path_buf());
    folder.join(path.file_name().unwrap_or_default())
}
