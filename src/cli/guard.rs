//! An output is never an input, and replaces nothing but what tiepack wrote: found out before any work.

use std::path::{Path, PathBuf};

use super::args::{Command, ModelFiles, Pictures, ValidationFiles};
use super::files::{self, Validation};
use super::judged;
use super::output::{Output, OutputKind};
use crate::error::{Error, Result};
use crate::ingest::folder;
use crate::save;

/// What a command line says that is read, and what it says that is written.
#[derive(Default)]
struct Named {
    outputs: Vec<Output>,
    inputs: Vec<PathBuf>,
}

/// Finds out whether all that `command` is to write can be written, is none of what it reads, and replaces nothing but what
/// tiepack wrote. Commands that name some of their outputs themselves ask [`outputs`].
///
/// # Errors
/// As [`outputs`]; an input is not there.
pub fn check(command: &Command) -> Result<()> {
    let mut named = Named::default();
    let force = match command {
        Command::Pack(args) => {
            named.writes(OutputKind::Artifact, [&args.output]);
            named.writes(OutputKind::Anonymous, &args.write_plan);
            named.writes(OutputKind::HealState, &args.heal_checkpoint);
            named.writes(OutputKind::SearchLog, &args.search_log);
            named.writes(OutputKind::Bundle, &args.bundle.as_ref().map(|_| args.output.with_extension("py")));
            named
                .writes(OutputKind::Artifact, &args.judging.evaluator.as_ref().map(|_| judged::unjudged(&args.output)));
            named.draws(&args.pictures);
            named.reads(args.include.iter().chain(&args.measuring.statistics).chain(&args.plan).chain(&args.bundle));
            named.model(&args.model, &args.files, Some(&args.validation), &args.measuring.calib)?;
            // Whatever is there by now belongs to the command that it works for.
            args.writing.force || args.worker.is_some()
        }
        Command::Eval(args) => {
            named.writes(OutputKind::Anonymous, &args.losses);
            named.model(&args.model, &args.files, Some(&args.validation), &[])?;
            args.writing.force
        }
        Command::Inspect(args) => {
            named.draws(&args.pictures);
            named.reads(&args.measuring.statistics);
            for path in [&args.model].into_iter().chain(&args.against) {
                named.model(path, &args.files, None, &args.measuring.calib)?;
            }
            args.writing.force
        }
        Command::Diff(args) => {
            named.draws(&args.pictures);
            let validation = ValidationFiles { val: args.val.clone(), tokenizer: args.tokenizer.clone() };
            let validation = Some(&validation).filter(|_| !args.val.is_empty());
            named.model(&args.before, &args.files, validation, &[])?;
            named.model(&args.after, &args.files, validation, &[])?;
            args.writing.force
        }
        Command::Frontier(args) => {
            named.writes(OutputKind::Table, &args.csv);
            named.draws(&args.pictures);
            named.reads(args.include.iter().chain(&args.measuring.statistics).chain(&args.peers));
            named.model(&args.model, &args.files, Some(&args.validation), &args.measuring.calib)?;
            args.writing.force
        }
        _ => return Ok(()),
    };
    outputs(&named.outputs, &named.inputs, force)
}

impl Named {
    fn writes<'a>(&mut self, kind: OutputKind, paths: impl IntoIterator<Item = &'a PathBuf>) {
        self.outputs.extend(paths.into_iter().map(|path| kind.clone().at(path)));
    }

    fn draws(&mut self, pictures: &Pictures) {
        self.writes(OutputKind::Page, &pictures.report);
        self.writes(OutputKind::Picture, &pictures.svg);
    }

    fn reads<'a>(&mut self, paths: impl IntoIterator<Item = &'a PathBuf>) {
        self.inputs.extend(paths.into_iter().cloned());
    }

    /// A model or an artifact, with what belongs to it.
    fn model(
        &mut self,
        path: &Path,
        files: &ModelFiles,
        validation: Option<&ValidationFiles>,
        calib: &[PathBuf],
    ) -> Result<()> {
        let overrides = files.overrides(validation, (calib, None));
        if let Some(path) = files::artifact(path)? {
            if validation.is_some() {
                let beside = Validation::beside(&path, &overrides)?;
                self.reads(beside.shards.iter().chain(&beside.reading.tokenizer));
            }
            self.inputs.push(path);
        } else {
            self.inputs.extend(folder::locate(path, &overrides)?.files());
        }
        Ok(())
    }
}

/// Refuses outputs that are one of the inputs, by whatever name or link, and outputs that are each other; that cannot be
/// written; and, without `force`, that would replace what tiepack is not seen to have written.
///
/// # Errors
/// Input, naming the file; as [`save::check`].
pub fn outputs(outputs: &[Output], inputs: &[PathBuf], force: bool) -> Result<()> {
    for (i, Output { path: output, .. }) in outputs.iter().enumerate() {
        if let Some(input) = inputs.iter().find(|input| same(output, input)) {
            let which = if input == output { String::new() } else { format!(", {}", input.display()) };
            return Err(Error::input(format!("cannot write {}: it is one of the inputs{which}", output.display()))
                .hint("name another file"));
        }
        let before = outputs[..i].iter().map(|other| &other.path);
        if let Some(other) = before.into_iter().find(|other| same(output, other) || place(output) == place(other)) {
            let [a, b] = [other.display(), output.display()];
            return Err(
                Error::input(format!("{a} and {b} are to be written, and they are one file")).hint("name two files")
            );
        }
    }
    outputs.iter().try_for_each(|output| save::check(&output.path))?;
    outputs.iter().filter(|_| !force).try_for_each(Output::check)
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
