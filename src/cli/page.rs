//! `--report` and `--svg`: pictures of what a command returns.

use std::ffi::OsString;
use std::path::Path;

use super::args::{Command, Pictures};
use crate::error::{Error, Result};
use crate::report::Page;
use crate::save;

/// The pictures that a command is asked for, if it draws any.
pub fn asked(command: &Command) -> Option<&Pictures> {
    let pictures = match command {
        // A worker is started with all options of the command that it works for.
        Command::Pack(args) if args.worker.is_none() => &args.pictures,
        Command::Inspect(args) => &args.pictures,
        Command::Diff(args) => &args.pictures,
        Command::Frontier(args) => &args.pictures,
        _ => return None,
    };
    (pictures.report.is_some() || pictures.svg.is_some()).then_some(pictures)
}

/// Refuses names that do not end as such files do: a slip would cost whatever has that name.
///
/// # Errors
/// Usage, naming the file.
pub fn check(pictures: &Pictures) -> Result<()> {
    for (path, end) in [(&pictures.report, "html"), (&pictures.svg, "svg")] {
        path.iter().try_for_each(|path| named(path, end))?;
    }
    Ok(())
}

/// Refuses a file to write whose name does not end in `.end`.
///
/// # Errors
/// Usage, naming the file.
pub fn named(path: &Path, end: &str) -> Result<()> {
    match path.extension().is_some_and(|found| found.eq_ignore_ascii_case(end)) {
        true => Ok(()),
        false => Err(Error::usage(format!("cannot write {}: its name does not end in .{end}", path.display()))
            .hint(format!("name another file, as out.{end}"))),
    }
}

/// Writes them. `document` is what `--json` prints.
///
/// # Errors
/// A file cannot be written, or there is nothing to draw.
pub fn write(pictures: &Pictures, document: &str, args: &[OsString]) -> Result<()> {
    let document = serde_json::from_str(document).map_err(|e| Error::compute(format!("a report is no JSON: {e}")))?;
    let command = command_line(args);
    let page = Page { document: &document, command: &command };
    if let Some(path) = &pictures.report {
        save::save(path, page.html().as_bytes())?;
    }
    if let Some(path) = &pictures.svg {
        let svg = page.svg().ok_or_else(|| {
            Error::input("there is nothing to draw: nothing differs, or too few points were measured")
                .hint("leave out --svg")
        })?;
        save::save(path, svg.as_bytes())?;
    }
    Ok(())
}

/// The command line as a shell takes it; the program by its name alone.
fn command_line(args: &[OsString]) -> String {
    let quoted = |arg: &OsString| {
        let arg = arg.to_string_lossy();
        let plain = |c: char| c.is_ascii_alphanumeric() || "-_./=:,+@%".contains(c);
        if !arg.is_empty() && arg.chars().all(plain) {
            arg.into_owned()
        } else {
            format!("'{}'", arg.replace('\'', r"'\''"))
        }
    };
    let rest = args.iter().skip(1).map(quoted);
    std::iter::once("tiepack".to_string()).chain(rest).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn command_lines_can_be_run_again() {
        let args = ["./target/tiepack", "pack", "my model", "--val", "data/val_*.bin", "it's"].map(OsString::from);
        assert_eq!(command_line(&args), r"tiepack pack 'my model' --val 'data/val_*.bin' 'it'\''s'");
    }
}
