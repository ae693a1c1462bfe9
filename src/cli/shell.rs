//! `tiepack completions` and `tiepack man`: what a shell and `man` want to know, made from the command line's own definition.

use std::path::PathBuf;

use clap::CommandFactory;
use serde::Serialize;

use super::args::{Cli, CompletionsArgs, ManArgs};
use super::guard;
use super::output::{Output, OutputKind};
use crate::error::{Error, Result};
use crate::save;

/// A text for another program, or the files that hold several.
#[derive(Debug, Serialize)]
pub struct Made {
    /// `None`: it went into files.
    pub text: Option<String>,
    pub files: Vec<PathBuf>,
}

impl Made {
    pub fn text(&self) -> String {
        match &self.text {
            Some(text) => text.clone(),
            None => self.files.iter().map(|path| format!("wrote {}\n", path.display())).collect(),
        }
    }
}

/// # Errors
/// Never: what clap writes of its own definition is text.
pub fn completions(args: &CompletionsArgs) -> Result<Made> {
    let mut out = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "tiepack", &mut out);
    Ok(Made { text: Some(String::from_utf8_lossy(&out).into_owned()), files: Vec::new() })
}

/// # Errors
/// There is no such command, or a page cannot be written.
pub fn man(args: &ManArgs) -> Result<Made> {
    let mut cli = Cli::command();
    cli.build();
    if let Some(folder) = &args.output {
        let mut files = vec![(folder.join("tiepack.1"), page(&cli)?)];
        for command in cli.get_subcommands().filter(|command| command.get_name() != "help") {
            files.push((folder.join(format!("tiepack-{}.1", command.get_name())), page(command)?));
        }
        let outputs: Vec<Output> = files.iter().map(|(path, _)| OutputKind::Manual.at(path)).collect();
        guard::outputs(&outputs, &[], args.writing.force)?;
        for (path, text) in &files {
            save::save(path, text.as_bytes())?;
        }
        return Ok(Made { text: None, files: files.into_iter().map(|(path, _)| path).collect() });
    }
    let text = match &args.command {
        None => page(&cli)?,
        Some(name) => {
            let found = cli.get_subcommands().find(|command| command.get_name() == name);
            page(found.ok_or_else(|| {
                Error::usage(format!("there is no command {name:?}")).hint("`tiepack --help` lists the commands")
            })?)?
        }
    };
    Ok(Made { text: Some(text), files: Vec::new() })
}

fn page(command: &clap::Command) -> Result<String> {
    let mut out = Vec::new();
    clap_mangen::Man::new(command.clone())
        .render(&mut out)
        .map_err(|e| Error::compute(format!("a man page cannot be made: {e}")))?;
    Ok(String::from_utf8_lossy(&out).into_owned())
}
