//! The command line: reads arguments, runs one command, prints what it returns.
//!
//! Commands return data and print nothing; [`render`] and [`json`] make text of it. Data goes to stdout, progress and
//! errors to stderr; with `--json` errors are data too.

mod args;
mod bundle;
mod bytes;
mod config;
pub mod device;
mod diff;
mod eval;
mod figures;
mod files;
mod frontier;
mod given;
mod guard;
mod heal;
mod inspect;
mod interrupt;
mod jobs;
mod json;
mod judged;
mod measuring;
mod output;
mod pack;
mod page;
mod render;
mod shell;
mod structure;
mod tokens;
mod unpack;
mod verify;

use std::ffi::OsString;
use std::io::{ErrorKind, Write};
use std::process::ExitCode;

use clap::Parser;
use serde::Serialize;

use crate::error::{Error, Result};
use crate::escape;
use crate::progress::{Bars, Progress, Silent};
use args::{Cli, Command};

/// What a command returns.
#[derive(Debug, Serialize)]
#[serde(untagged)]
enum Report {
    Pack(Box<pack::Packed>),
    Worked(pack::Worked),
    Eval(eval::Evaluated),
    Verify(verify::Verified),
    Inspect(inspect::Inspected),
    Diff(Box<diff::Compared>),
    Frontier(frontier::Frontier),
    Unpack(unpack::Unpacked),
    Bundle(bundle::Bundled),
    Config(config::Recognised),
    Tokens(tokens::Made),
    Completions(shell::Made),
    Man(shell::Made),
}

impl Report {
    fn command(&self) -> &'static str {
        match self {
            Report::Pack(_) | Report::Worked(_) => "pack",
            Report::Eval(_) => "eval",
            Report::Verify(_) => "verify",
            Report::Inspect(_) => "inspect",
            Report::Diff(_) => "diff",
            Report::Frontier(_) => "frontier",
            Report::Unpack(_) => "unpack",
            Report::Bundle(_) => "bundle",
            Report::Config(_) => "config",
            Report::Tokens(_) => "tokens",
            Report::Completions(_) => "completions",
            Report::Man(_) => "man",
        }
    }

    fn text(&self) -> String {
        let text = match self {
            Report::Pack(packed) => render::packed(packed),
            Report::Worked(worked) => format!("tried {} structures\n", worked.trials),
            Report::Eval(evaluated) => render::evaluated(evaluated),
            Report::Verify(verified) => render::verified(verified),
            Report::Inspect(inspected) => render::inspected(inspected),
            Report::Diff(compared) => render::compared(compared),
            Report::Frontier(frontier) => render::frontier(frontier),
            Report::Unpack(unpacked) => render::unpacked(unpacked),
            Report::Bundle(bundled) => bundled.text(),
            Report::Config(recognised) => recognised.text(),
            Report::Tokens(made) => made.text(),
            Report::Completions(made) | Report::Man(made) => return made.text(),
        };
        match self {
            // Their tables have colours, put on what had been escaped.
            Report::Inspect(_) | Report::Diff(_) | Report::Frontier(_) => escape::coloured(&text),
            _ => escape::lines(&text).into_owned(),
        }
    }

    /// What a person should know beside the data, on stderr so that stdout can be a file.
    fn aside(&self) -> String {
        match self {
            Report::Config(recognised) => recognised.aside(),
            _ => String::new(),
        }
    }

    /// 0, or 1 where a difference was to be told that way.
    fn exit_code(&self) -> u8 {
        match self {
            Report::Diff(compared) => u8::from(compared.exit_code && compared.difference.different),
            _ => 0,
        }
    }
}

/// Runs the command that `args` (the program's name first) ask for; the exit code is [`Error::exit_code`], or 0.
pub fn main(args: impl Iterator<Item = OsString>) -> ExitCode {
    ExitCode::from(code(args.collect()))
}

/// As [`main`], for callers that go on afterwards.
pub fn code(args: Vec<OsString>) -> u8 {
    let cli = match Cli::try_parse_from(&args) {
        Ok(cli) => cli,
        Err(refusal) => return refuse(&refusal, args.iter().any(|arg| arg == "--json")),
    };
    let bars = Bars::new();
    let progress: &dyn Progress = if cli.quiet { &Silent } else { &bars };
    let result = reported(&cli, &args, progress);
    // A bar that an error left behind would stand in its way.
    progress.end();
    match result {
        Ok(report) => {
            if !cli.json {
                eprint!("{}", escape::lines(&report.aside()));
            }
            print(&if cli.json { json::report(&report) } else { report.text() });
            report.exit_code()
        }
        Err(error) => fail(&error, cli.json),
    }
}

/// Runs the command that `args` (the program's name first) ask for and prints nothing: the exit code, and the document that
/// `--json` would print. For a process that is not tiepack's own: Ctrl-C is left to it.
pub fn json(args: Vec<OsString>, progress: &dyn Progress) -> (u8, String) {
    interrupt::never_listen();
    let cli = Cli::try_parse_from(&args).map_err(|refusal| usage(&refusal));
    let result = cli.and_then(|cli| reported(&cli, &args, progress));
    progress.end();
    match result {
        Ok(report) => (report.exit_code(), json::report(&report)),
        Err(error) => (error.exit_code(), json::error(&error)),
    }
}

/// The document that `--json` prints for an error.
pub fn error_json(error: &Error) -> String {
    json::error(error)
}

/// Runs a command and draws the pictures that it was asked for.
fn reported(cli: &Cli, args: &[OsString], progress: &dyn Progress) -> Result<Report> {
    let pictures = page::asked(&cli.command);
    pictures.map_or(Ok(()), page::check)?;
    guard::check(&cli.command)?;
    let report = run(cli, progress)?;
    pictures.map_or(Ok(()), |pictures| page::write(pictures, &json::report(&report), args))?;
    Ok(report)
}

fn run(cli: &Cli, progress: &dyn Progress) -> Result<Report> {
    let Some(threads) = cli.threads else { return command(cli, progress) };
    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build();
    pool.map_err(|e| Error::compute(format!("cannot start {threads} threads: {e}")))?.install(|| command(cli, progress))
}

fn command(cli: &Cli, progress: &dyn Progress) -> Result<Report> {
    Ok(match &cli.command {
        Command::Pack(args) => match pack::run(args, progress)? {
            pack::Done::Packed(packed) => Report::Pack(packed),
            pack::Done::Worked(worked) => Report::Worked(worked),
        },
        Command::Eval(args) => Report::Eval(eval::run(args, progress)?),
        Command::Verify(args) => Report::Verify(verify::run(args, progress)?),
        Command::Inspect(args) => Report::Inspect(inspect::run(args, progress)?),
        Command::Diff(args) => Report::Diff(Box::new(diff::run(args, progress)?)),
        Command::Frontier(args) => Report::Frontier(frontier::run(args, progress)?),
        Command::Unpack(args) => Report::Unpack(unpack::run(args, progress)?),
        Command::Bundle(args) => Report::Bundle(bundle::run(args, progress)?),
        Command::Config(args) => Report::Config(config::run(args)?),
        Command::Tokens(args) => Report::Tokens(tokens::run(args, progress)?),
        Command::Completions(args) => Report::Completions(shell::completions(args)?),
        Command::Man(args) => Report::Man(shell::man(args)?),
    })
}

/// What clap has to say: help and version are answers, everything else is wrong usage.
fn refuse(refusal: &clap::Error, json: bool) -> u8 {
    if !refusal.use_stderr() {
        print(&refusal.render().to_string());
        return 0;
    }
    if !json {
        eprint!("{}", escape::lines(&refusal.render().to_string()));
        return 2;
    }
    fail(&usage(refusal), true)
}

/// clap's first paragraph is the fault, the rest repeats the usage.
fn usage(refusal: &clap::Error) -> Error {
    let text = refusal.render().to_string();
    let message = text.strip_prefix("error: ").unwrap_or(&text).split("\n\n").next().unwrap_or_default();
    Error::usage(message.trim()).hint("`tiepack --help` shows the commands and their options")
}

fn fail(error: &Error, json: bool) -> u8 {
    match json {
        true => print(&json::error(error)),
        false => eprint!("{}", escape::lines(&render::error(error))),
    }
    error.exit_code()
}

/// To stdout, colours only where a terminal shows them and nobody set NO_COLOR. A reader that has seen enough (`| head`) is no failure.
fn print(text: &str) {
    if let Err(e) = anstream::stdout().write_all(text.as_bytes())
        && e.kind() != ErrorKind::BrokenPipe
    {
        eprintln!("cannot write to stdout: {e}");
    }
}
