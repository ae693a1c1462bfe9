//! The command line as clap reads it. The doc comments are the help texts.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

use super::bytes::{self, Rows};
use super::device::{self, Place, Precision};
use super::heal;
use crate::compile::{Effort, Heal};
use crate::ingest::Overrides;
use crate::model;
use crate::plan::shape::Shape;
use crate::train::objective::Objective;

/// Compile a trained, layer-tied transformer into the best model that fits a hard byte cap, and prove it
#[derive(Debug, Parser)]
#[command(name = "tiepack", version, after_help = AFTER)]
pub struct Cli {
    #[command(subcommand)]
    pub command: Command,
    /// Print one JSON document on stdout, errors included
    #[arg(long, global = true, help_heading = "Output")]
    pub json: bool,
    /// Show no progress on stderr
    #[arg(long, short, global = true, help_heading = "Output")]
    pub quiet: bool,
    /// Threads to compute with [default: one per core]; the result does not depend on it
    #[arg(long, global = true, value_name = "N", value_parser = threads, help_heading = "Output")]
    pub threads: Option<usize>,
}

const AFTER: &str = "\
MODEL is a folder (model.safetensors, config.json, ties.json, tokenizer.model, train_*.bin and val_*.bin
are picked up when they are there) or a weights file. Exit codes: 0 done, 1 failed, 2 wrong usage,
3 does not fit the cap, 4 verification failed.";

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Pack a model under a byte cap, then reopen the file and prove what it does
    Pack(Box<PackArgs>),
    /// Measure the loss of a model or an artifact
    Eval(EvalArgs),
    /// Check an artifact's hashes, and what it costs against the model it was made of
    Verify(VerifyArgs),
    /// Show where every byte of a model or an artifact goes
    Inspect(InspectArgs),
    /// Write an artifact out as safetensors
    Unpack(UnpackArgs),
    /// Make a script that brings an artifact and its decoder along
    Bundle(BundleArgs),
    /// Print a model's configuration, recognised from its tensors where there is no config.json
    Config(ConfigArgs),
}

/// How a model's files are found and read.
#[derive(Debug, Args)]
pub struct ModelFiles {
    /// Configuration [default: config.json beside the weights]
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Tie map [default: ties.json beside the weights]
    #[arg(long, value_name = "FILE")]
    pub ties: Option<PathBuf>,
    /// Make tensors equal that are declared tied and are not: `first` or `mean`
    #[arg(long, value_name = "HOW", hide_possible_values = true)]
    pub retie: Option<Retie>,
}

/// What to evaluate on.
#[derive(Debug, Args)]
pub struct ValidationFiles {
    /// Validation shard or a pattern of names, once for each [default: val_*.bin beside the model]
    #[arg(long, value_name = "FILE")]
    pub val: Vec<PathBuf>,
    /// For bits per byte: SentencePiece model, tokenizer.json, JSON array of byte counts, or `bytes`
    /// [default: tokenizer.model or tokenizer.json beside the model]
    #[arg(long, value_name = "FILE")]
    pub tokenizer: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub struct PackArgs {
    /// Folder or weights file
    pub model: PathBuf,
    /// Artifact to write
    #[arg(long, short, value_name = "OUT.tiepack")]
    pub output: PathBuf,
    /// Most bytes of the artifact and every --include: 16MB is 16,000,000, 16MiB is 16,777,216
    #[arg(long, value_name = "SIZE", value_parser = bytes::parse)]
    pub cap: u64,
    /// File that counts against the cap, once for each
    #[arg(long, value_name = "FILE")]
    pub include: Vec<PathBuf>,
    /// Python script to bundle with the artifact, beside --output as .py; the cap then covers the bundle
    #[arg(long, value_name = "SCRIPT.py")]
    pub bundle: Option<PathBuf>,
    #[command(flatten)]
    pub files: ModelFiles,
    /// Calibration shard or a pattern of names, once for each [default: train_*.bin beside the model]
    #[arg(long, value_name = "FILE")]
    pub calib: Vec<PathBuf>,
    #[command(flatten)]
    pub validation: ValidationFiles,
    /// Accept validation text that stands in the calibration tokens
    #[arg(long)]
    pub allow_overlap: bool,
    /// How long to measure, search and heal: `fast`, `normal` or `max`, which takes many times as long as `normal`
    #[arg(long, value_enum, hide_possible_values = true, default_value_t = Effort::Normal)]
    pub effort: Effort,
    /// Seed of everything random
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub seed: u64,
    /// Calibration rows to measure on: a number or `all` [default: as --effort says]
    #[arg(long, value_name = "N", value_parser = bytes::parse_rows)]
    pub calib_rows: Option<Rows>,
    /// Validation rows of the verdict, from the first: a number or `all`
    #[arg(long, value_name = "N", default_value = "512", value_parser = bytes::parse_rows)]
    pub val_rows: Rows,
    /// Keep every weight bit for bit; needs no calibration tokens
    #[arg(long)]
    pub lossless: bool,
    /// Curvature that was measured elsewhere, or `none`: every weight counts alike; no network is needed then
    #[arg(long, value_name = "FILE|none", conflicts_with = "lossless")]
    pub statistics: Option<PathBuf>,
    /// Make what this plan says instead of what a search finds
    #[arg(long, value_name = "FILE", conflicts_with = "lossless")]
    pub plan: Option<PathBuf>,
    /// Which layers share: `auto` (what a search finds), `declared`, `albert`, `cycle=K`, `cycle=K:first`, `cycle=K:stepwise`,
    /// `early=E,late=L,rank=R`, `without=L,L`
    #[arg(long, value_name = "SHAPE", default_value = "auto", conflicts_with_all = ["plan", "lossless"])]
    pub shape: Shape,
    /// Also try layers and branches as copies of each other or left out, so many structures at most
    #[arg(long, value_name = "N", default_value_t = 0, conflicts_with_all = ["plan", "lossless"])]
    pub trials: usize,
    /// Log every structure that is tried, a line of JSON each
    #[arg(long, value_name = "FILE", conflicts_with_all = ["plan", "lossless"])]
    pub search_log: Option<PathBuf>,
    /// Worker processes that try structures; the result does not depend on it
    #[arg(long, value_name = "N", conflicts_with_all = ["plan", "lossless"])]
    pub jobs: Option<usize>,
    /// Folder through which workers are told what to try [default: a temporary one]; with --jobs 0 all are started elsewhere
    #[arg(long, value_name = "DIR", requires = "jobs")]
    pub job_folder: Option<PathBuf>,
    /// Be a worker of the pack that has this --job-folder, and the same options
    #[arg(long, value_name = "DIR", conflicts_with_all = ["plan", "lossless", "jobs", "search_log"])]
    pub worker: Option<PathBuf>,
    /// Write down what each tensor was made of, and how finely
    #[arg(long, value_name = "FILE")]
    pub write_plan: Option<PathBuf>,
    /// Train the packed model back towards the original: `auto` (as --effort says), `off`, a number of steps,
    /// or a time as 20m
    #[arg(long, value_name = "LENGTH", default_value = "auto", value_parser = heal::parse, conflicts_with = "lossless")]
    pub heal: Heal,
    /// What healing makes small: the divergence from the original (`kl`), the loss on the tokens themselves (`data`),
    /// or the mean of the two (`both`)
    #[arg(long, value_name = "WHAT", value_enum, hide_possible_values = true, default_value_t = Objective::Kl)]
    pub heal_loss: Objective,
    /// Keep the state of healing in this file
    #[arg(long, value_name = "FILE")]
    pub heal_checkpoint: Option<PathBuf>,
    /// Go on from the state in --heal-checkpoint and the log in --search-log, to the file that an unbroken run makes
    #[arg(long)]
    pub resume: bool,
    /// Folder for measured statistics [default: tiepack in the user's cache folder]
    #[arg(long, value_name = "DIR", conflicts_with = "no_cache")]
    pub cache: Option<PathBuf>,
    /// Neither use nor keep measured statistics
    #[arg(long)]
    pub no_cache: bool,
    /// Do not measure losses on validation tokens
    #[arg(long)]
    pub no_eval: bool,
    /// Where networks run: `cpu`, or `cuda:N` in a build with CUDA
    #[arg(long, value_name = "DEVICE", default_value = "cpu", value_parser = device::parse)]
    pub device: Place,
    /// What networks compute in: `f32`, or `bf16` as most training runs do; on a CPU that is slower
    #[arg(long, value_enum, value_name = "TYPE", hide_possible_values = true, default_value_t = Precision::F32)]
    pub precision: Precision,
}

#[derive(Debug, Args)]
pub struct EvalArgs {
    /// Folder, weights file or artifact
    pub model: PathBuf,
    #[command(flatten)]
    pub files: ModelFiles,
    #[command(flatten)]
    pub validation: ValidationFiles,
    /// Validation rows, from the first: a number or `all`
    #[arg(long, value_name = "N", default_value = "all", value_parser = bytes::parse_rows)]
    pub val_rows: Rows,
    /// Slide the window by N tokens; each token is scored once, after at least context - N others
    /// (fewer in the first window)
    #[arg(long, value_name = "N")]
    pub stride: Option<usize>,
    /// Begin anew with every document: the token id that each begins with; windows never reach across
    #[arg(long, value_name = "BOS_ID")]
    pub documents: Option<u16>,
    /// Score so many tokens, from the first
    #[arg(long, value_name = "TOKENS", value_parser = bytes::parse_count, conflicts_with = "val_rows")]
    pub limit: Option<usize>,
    /// Write the loss of every token in nats, a .npy array of f32
    #[arg(long, value_name = "FILE.npy")]
    pub losses: Option<PathBuf>,
    /// Where networks run: `cpu`, or `cuda:N` in a build with CUDA
    #[arg(long, value_name = "DEVICE", default_value = "cpu", value_parser = device::parse)]
    pub device: Place,
    /// What networks compute in: `f32`, or `bf16` as most training runs do; on a CPU that is slower
    #[arg(long, value_enum, value_name = "TYPE", hide_possible_values = true, default_value_t = Precision::F32)]
    pub precision: Precision,
}

#[derive(Debug, Args)]
pub struct VerifyArgs {
    /// Artifact to verify
    pub artifact: PathBuf,
    /// The model it was made of
    #[arg(long, value_name = "MODEL")]
    pub against: Option<PathBuf>,
    #[command(flatten)]
    pub files: ModelFiles,
    #[command(flatten)]
    pub validation: ValidationFiles,
    /// Validation rows, from the first: a number or `all`
    #[arg(long, value_name = "N", default_value = "all", value_parser = bytes::parse_rows)]
    pub val_rows: Rows,
    /// Check that the artifact and every --include fit so many bytes
    #[arg(long, value_name = "SIZE", value_parser = bytes::parse)]
    pub cap: Option<u64>,
    /// File that counts against the cap, once for each
    #[arg(long, value_name = "FILE", requires = "cap")]
    pub include: Vec<PathBuf>,
    /// Where networks run: `cpu`, or `cuda:N` in a build with CUDA
    #[arg(long, value_name = "DEVICE", default_value = "cpu", value_parser = device::parse)]
    pub device: Place,
    /// What networks compute in: `f32`, or `bf16` as most training runs do; on a CPU that is slower
    #[arg(long, value_enum, value_name = "TYPE", hide_possible_values = true, default_value_t = Precision::F32)]
    pub precision: Precision,
}

#[derive(Debug, Args)]
pub struct InspectArgs {
    /// Folder, weights file or artifact
    pub model: PathBuf,
    #[command(flatten)]
    pub files: ModelFiles,
}

#[derive(Debug, Args)]
pub struct UnpackArgs {
    /// Artifact to unpack
    pub artifact: PathBuf,
    /// A .safetensors file, or a folder (made if missing) for it with config.json and ties.json
    #[arg(long, short, value_name = "FILE|DIR")]
    pub output: PathBuf,
    /// Replace files that are already there
    #[arg(long)]
    pub force: bool,
}

#[derive(Debug, Args)]
pub struct BundleArgs {
    /// Artifact to bundle
    pub artifact: PathBuf,
    /// Python script to run; it gets its tensors from tiepack.bundled()
    #[arg(long, value_name = "SCRIPT.py")]
    pub script: PathBuf,
    /// Script to write
    #[arg(long, short, value_name = "OUT.py")]
    pub output: PathBuf,
    /// Write plain text, and the weights to weights.bin beside it
    #[arg(long)]
    pub apart: bool,
    /// Leave out the names: tensors come as a list in the alphabetical order of their names
    #[arg(long)]
    pub nameless: bool,
    /// Check that the bundle and every --include fit so many bytes
    #[arg(long, value_name = "SIZE", value_parser = bytes::parse)]
    pub cap: Option<u64>,
    /// File that counts against the cap, once for each
    #[arg(long, value_name = "FILE", requires = "cap")]
    pub include: Vec<PathBuf>,
}

#[derive(Debug, Args)]
pub struct ConfigArgs {
    /// Folder or weights file
    pub model: PathBuf,
    #[command(flatten)]
    pub files: ModelFiles,
    /// Write the configuration to a file instead of stdout
    #[arg(long, short, value_name = "FILE")]
    pub output: Option<PathBuf>,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
pub enum Retie {
    /// All become the first
    First,
    /// All become their mean
    Mean,
}

impl From<Retie> for model::Retie {
    fn from(retie: Retie) -> Self {
        match retie {
            Retie::First => model::Retie::First,
            Retie::Mean => model::Retie::Mean,
        }
    }
}

impl ModelFiles {
    /// What to look for where, together with the shards that the other options name.
    pub fn overrides(&self, validation: Option<&ValidationFiles>, calib: &[PathBuf]) -> Overrides {
        Overrides {
            config: self.config.clone(),
            ties: self.ties.clone(),
            tokenizer: validation.and_then(|files| files.tokenizer.clone()),
            calib: calib.to_vec(),
            val: validation.map_or_else(Vec::new, |files| files.val.clone()),
        }
    }

    pub fn retie(&self) -> Option<model::Retie> {
        self.retie.map(Into::into)
    }
}

fn threads(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(n @ 1..=1024) => Ok(n),
        _ => Err("wanted 1 to 1024".into()),
    }
}
