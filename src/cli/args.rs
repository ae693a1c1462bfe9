//! The command line as clap reads it. The doc comments are the help texts.

mod shared;
mod values;

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

use super::bytes::{self, Rows};
use super::device::{self, DeviceChoice, Precision};
use super::heal;
use crate::bundle::{Container, Decoder};
use crate::compile::Heal;
use crate::plan::shape::Shape;
use crate::train::objective::Objective;
pub use shared::{Judging, Measuring, ModelFiles, Pictures, Tables, TokenFiles, ValidationFiles, Writing};

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
    #[command(
        after_help = "Examples:\n  tiepack pack fixtures/pep-tiny -o tiny.tiepack --cap 100kB --effort fast\n  tiepack pack fixtures/pep-tiny -o exact.tiepack --cap 400kB --lossless --no-eval --report pack.html"
    )]
    Pack(Box<PackArgs>),
    /// Measure the loss of a model or an artifact
    #[command(
        after_help = "Examples:\n  tiepack eval fixtures/pep-tiny --val-rows 8 --stride 64\n  tiepack eval tiny.tiepack --val fixtures/pep-tiny/val_000.bin --val-rows 8"
    )]
    Eval(EvalArgs),
    /// Check an artifact's hashes, and what it costs against the model it was made of
    #[command(
        after_help = "Examples:\n  tiepack verify tiny.tiepack --against fixtures/pep-tiny --val-rows 8\n  tiepack verify tiny.tiepack --cap 100kB"
    )]
    Verify(VerifyArgs),
    /// Show where every byte of a model or an artifact goes
    #[command(
        after_help = "Examples:\n  tiepack inspect tiny.tiepack --by layer\n  tiepack inspect tiny.tiepack --indices -n 8\n  tiepack inspect tiny.tiepack --against fixtures/pep-tiny --effort fast --report inspect.html"
    )]
    Inspect(InspectArgs),
    /// Compare two models or artifacts: bytes, structure, weights, losses
    #[command(
        after_help = "Examples:\n  tiepack diff exact.tiepack tiny.tiepack --by role --weights\n  tiepack diff fixtures/pep-tiny tiny.tiepack --val fixtures/pep-tiny/val_000.bin --val-rows 8"
    )]
    Diff(DiffArgs),
    /// Pack a model under several caps: loss against bytes
    #[command(
        after_help = "Examples:\n  tiepack frontier fixtures/pep-tiny --caps 70kB,100kB,140kB --effort fast --val-rows 8 --svg frontier.svg\n  tiepack frontier fixtures/pep-tiny --points 3 --effort fast --val-rows 8 --csv frontier.csv --keep artifacts"
    )]
    Frontier(Box<FrontierArgs>),
    /// Write an artifact out as safetensors
    #[command(after_help = "Examples:\n  tiepack unpack tiny.tiepack -o unpacked")]
    Unpack(UnpackArgs),
    /// Make a script that brings an artifact and its decoder along
    #[command(
        after_help = "Examples:\n  tiepack bundle tiny.tiepack --script fixtures/bundled.py -o submission.py --cap 110kB"
    )]
    Bundle(BundleArgs),
    /// Print a model's configuration, recognised from its tensors where there is no config.json
    #[command(after_help = "Examples:\n  tiepack config fixtures/pep-tiny")]
    Config(ConfigArgs),
    /// Make a token shard from text
    #[command(
        after_help = "Examples:\n  tiepack tokens fixtures/README.md -o text.bin --tokenizer fixtures/pep-tiny/tokenizer.model"
    )]
    Tokens(TokensArgs),
    /// Print what completes command lines in a shell
    #[command(after_help = "Examples:\n  tiepack completions bash > tiepack.bash")]
    Completions(CompletionsArgs),
    /// Print the manual page of a command, or write all of them
    #[command(after_help = "Examples:\n  tiepack man pack > tiepack-pack.1")]
    Man(ManArgs),
}

#[derive(Debug, Args)]
pub struct PackArgs {
    /// Folder or weights file
    pub model: PathBuf,
    /// Artifact to write
    #[arg(long, short, value_name = "OUT.tiepack")]
    pub output: PathBuf,
    /// Most bytes of the artifact and every --include: 16MB, 16M and 16mb are 16,000,000, 16MiB is 16,777,216
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
    #[command(flatten)]
    pub validation: ValidationFiles,
    #[command(flatten)]
    pub reading: TokenFiles,
    #[command(flatten)]
    pub measuring: Measuring,
    /// Validation rows of the verdict, from the first: a number or `all`
    #[arg(long, value_name = "N", default_value = "512", value_parser = bytes::parse_rows)]
    pub val_rows: Rows,
    /// Keep every weight bit for bit; needs no calibration tokens
    #[arg(long, conflicts_with = "statistics")]
    pub lossless: bool,
    /// Make what this plan says instead of what a search finds
    #[arg(long, value_name = "FILE", conflicts_with = "lossless")]
    pub plan: Option<PathBuf>,
    /// Which layers share: `auto` (what a search finds), `declared`, `albert`, `cycle=K`, `cycle=K:first`, `cycle=K:stepwise`,
    /// `early=E,late=L,rank=R`, `without=L,L`
    #[arg(long, value_name = "SHAPE", default_value = "auto", conflicts_with_all = ["plan", "lossless"])]
    pub shape: Shape,
    /// Also try layers and branches as copies of each other or left out, and pack and judge so many structures at most; four that
    /// are healed for a few steps only count as one [default: 8, or 60 with --effort max, where the cap leaves less than 1.4
    /// bits for a weight; else 0, since it has not paid there]
    #[arg(long, value_name = "N", conflicts_with_all = ["plan", "lossless"])]
    pub trials: Option<usize>,
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
    /// Do not measure losses on validation tokens
    #[arg(long)]
    pub no_eval: bool,
    #[command(flatten)]
    pub judging: Judging,
    #[command(flatten)]
    pub pictures: Pictures,
    #[command(flatten)]
    pub writing: Writing,
    /// Where networks run: `cpu`, or `cuda:N` in a build with CUDA
    #[arg(long, value_name = "DEVICE", default_value = "cpu", value_parser = device::parse)]
    pub device: DeviceChoice,
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
    #[command(flatten)]
    pub reading: TokenFiles,
    /// Validation rows, from the first: a number or `all`
    #[arg(long, value_name = "N", default_value = "all", value_parser = bytes::parse_rows)]
    pub val_rows: Rows,
    /// Slide the window by N tokens; each token is scored once, after at least context - N others
    /// (fewer in the first window)
    #[arg(long, value_name = "N")]
    pub stride: Option<usize>,
    /// Begin anew with every document: the token id that each begins with; windows never reach across
    #[arg(long, value_name = "BOS_ID")]
    pub documents: Option<u32>,
    /// Score so many tokens, from the first
    #[arg(long, value_name = "TOKENS", value_parser = bytes::parse_count, conflicts_with = "val_rows")]
    pub limit: Option<usize>,
    /// Write the loss of every token in nats, a .npy array of f32
    #[arg(long, value_name = "FILE.npy")]
    pub losses: Option<PathBuf>,
    #[command(flatten)]
    pub writing: Writing,
    /// Where networks run: `cpu`, or `cuda:N` in a build with CUDA
    #[arg(long, value_name = "DEVICE", default_value = "cpu", value_parser = device::parse)]
    pub device: DeviceChoice,
    /// What networks compute in: `f32`, or `bf16` as most training runs do; on a CPU that is slower
    #[arg(long, value_enum, value_name = "TYPE", hide_possible_values = true, default_value_t = Precision::F32)]
    pub precision: Precision,
}

#[derive(Debug, Args)]
pub struct VerifyArgs {
    /// Artifact to verify, a folder that holds one, or a bundle
    pub artifact: PathBuf,
    /// The model it was made of
    #[arg(long, value_name = "MODEL")]
    pub against: Option<PathBuf>,
    #[command(flatten)]
    pub files: ModelFiles,
    #[command(flatten)]
    pub validation: ValidationFiles,
    #[command(flatten)]
    pub reading: TokenFiles,
    /// Validation rows, from the first: a number or `all`
    #[arg(long, value_name = "N", default_value = "all", value_parser = bytes::parse_rows)]
    pub val_rows: Rows,
    #[command(flatten)]
    pub judging: Judging,
    /// Check that the artifact and every --include fit so many bytes
    #[arg(long, value_name = "SIZE", value_parser = bytes::parse)]
    pub cap: Option<u64>,
    /// File that counts against the cap, once for each
    #[arg(long, value_name = "FILE", requires = "cap")]
    pub include: Vec<PathBuf>,
    /// Where networks run: `cpu`, or `cuda:N` in a build with CUDA
    #[arg(long, value_name = "DEVICE", default_value = "cpu", value_parser = device::parse)]
    pub device: DeviceChoice,
    /// What networks compute in: `f32`, or `bf16` as most training runs do; on a CPU that is slower
    #[arg(long, value_enum, value_name = "TYPE", hide_possible_values = true, default_value_t = Precision::F32)]
    pub precision: Precision,
}

#[derive(Debug, Args)]
pub struct InspectArgs {
    /// Folder, weights file, artifact or bundle
    pub model: PathBuf,
    #[command(flatten)]
    pub tables: Tables,
    /// Decode the indices: their entropy, what was spent on them, how many are zero
    #[arg(long)]
    pub indices: bool,
    /// The model that the artifact was made of: what each error costs, and how far its bits are from the least
    #[arg(long, value_name = "MODEL")]
    pub against: Option<PathBuf>,
    #[command(flatten)]
    pub files: ModelFiles,
    #[command(flatten)]
    pub measuring: Measuring,
    #[command(flatten)]
    pub reading: TokenFiles,
    #[command(flatten)]
    pub pictures: Pictures,
    #[command(flatten)]
    pub writing: Writing,
}

#[derive(Debug, Args)]
pub struct DiffArgs {
    /// What was: folder, weights file or artifact
    pub before: PathBuf,
    /// What is: the same
    pub after: PathBuf,
    #[command(flatten)]
    pub tables: Tables,
    /// Compare weights also where that takes decoding; models are compared anyway, and all with --val
    #[arg(long)]
    pub weights: bool,
    /// Exit with 1 where the two differ
    #[arg(long)]
    pub exit_code: bool,
    /// Compare losses on these validation tokens or text, or a pattern of names, once for each
    #[arg(long, value_name = "FILE")]
    pub val: Vec<PathBuf>,
    /// For text and bits per byte: SentencePiece model, tokenizer.json, `bytes`, or for the latter alone a JSON array of byte
    /// counts
    #[arg(long, value_name = "FILE", requires = "val")]
    pub tokenizer: Option<PathBuf>,
    #[command(flatten)]
    pub reading: TokenFiles,
    /// Validation rows, from the first: a number or `all`
    #[arg(long, value_name = "N", default_value = "512", value_parser = bytes::parse_rows)]
    pub val_rows: Rows,
    #[command(flatten)]
    pub files: ModelFiles,
    #[command(flatten)]
    pub pictures: Pictures,
    #[command(flatten)]
    pub writing: Writing,
}

#[derive(Debug, Args)]
pub struct FrontierArgs {
    /// Folder or weights file
    pub model: PathBuf,
    /// Caps, as 400kB,600kB,1MB; each counts the artifact and every --include
    #[arg(long, value_name = "SIZES", value_delimiter = ',', value_parser = bytes::parse)]
    pub caps: Vec<u64>,
    /// So many caps between 1.5 and 6 bits a weight instead
    #[arg(long, value_name = "N", default_value_t = 8, conflicts_with = "caps",
          value_parser = clap::value_parser!(u16).range(2..=100))]
    pub points: u16,
    /// File that counts against every cap, once for each
    #[arg(long, value_name = "FILE")]
    pub include: Vec<PathBuf>,
    #[command(flatten)]
    pub files: ModelFiles,
    #[command(flatten)]
    pub validation: ValidationFiles,
    #[command(flatten)]
    pub reading: TokenFiles,
    #[command(flatten)]
    pub measuring: Measuring,
    /// Heal each point, as `pack` does: `auto`, `off`, a number of steps, or a time as 20m
    #[arg(long, value_name = "LENGTH", default_value = "off", value_parser = heal::parse)]
    pub heal: Heal,
    /// Validation rows of each point, from the first: a number or `all`
    #[arg(long, value_name = "N", default_value = "256", value_parser = bytes::parse_rows)]
    pub val_rows: Rows,
    /// Keep the artifacts in this folder, made if missing
    #[arg(long, value_name = "DIR")]
    pub keep: Option<PathBuf>,
    /// Write the points as CSV
    #[arg(long, value_name = "OUT.csv")]
    pub csv: Option<PathBuf>,
    /// Other packers' points for the picture: a JSON array of {"packer", "bytes", "kl"}
    #[arg(long, value_name = "FILE.json")]
    pub peers: Option<PathBuf>,
    #[command(flatten)]
    pub pictures: Pictures,
    #[command(flatten)]
    pub writing: Writing,
    /// Where networks run: `cpu`, or `cuda:N` in a build with CUDA
    #[arg(long, value_name = "DEVICE", default_value = "cpu", value_parser = device::parse)]
    pub device: DeviceChoice,
}

#[derive(Debug, Args)]
pub struct UnpackArgs {
    /// Artifact to unpack, or a folder that holds one
    pub artifact: PathBuf,
    /// A .safetensors file, or a folder (made if missing) for it with config.json and ties.json
    #[arg(long, short, value_name = "FILE|DIR")]
    pub output: PathBuf,
    #[command(flatten)]
    pub writing: Writing,
}

#[derive(Debug, Args)]
pub struct BundleArgs {
    /// Artifact to bundle, or a folder that holds one
    pub artifact: PathBuf,
    /// Python script to run; it gets its tensors from tiepack.bundled()
    #[arg(long, value_name = "SCRIPT.py")]
    pub script: PathBuf,
    /// Script to write
    #[arg(long, short, value_name = "OUT.py")]
    pub output: PathBuf,
    /// Where the decoder comes from: `embed` brings it along, `import` imports tiepack, named in a requirements.txt
    #[arg(long, value_enum, value_name = "HOW", hide_possible_values = true, default_value_t = Decoder::Embed)]
    pub decoder: Decoder,
    /// `zip` takes fewest bytes, `text` can be read as text, seven bytes for six [default: text for a script that looks at its own file, else zip]
    #[arg(long, value_enum, value_name = "FORM", hide_possible_values = true)]
    pub form: Option<Container>,
    /// Write plain text, and the weights to weights.bin beside it
    #[arg(long, conflicts_with = "form")]
    pub apart: bool,
    /// Leave out the names: tensors come as a list in the alphabetical order of their names
    #[arg(long)]
    pub nameless: bool,
    /// Check that the bundle and every --include fit so many bytes
    #[arg(long, value_name = "SIZE", value_parser = bytes::parse)]
    pub cap: Option<u64>,
    /// File that will lie beside the bundle, and counts against the cap, once for each
    #[arg(long, value_name = "FILE")]
    pub include: Vec<PathBuf>,
    #[command(flatten)]
    pub writing: Writing,
}

#[derive(Debug, Args)]
pub struct ConfigArgs {
    /// Folder, weights file or artifact
    pub model: PathBuf,
    #[command(flatten)]
    pub files: ModelFiles,
    /// Write the configuration to a file instead of stdout
    #[arg(long, short, value_name = "FILE")]
    pub output: Option<PathBuf>,
    #[command(flatten)]
    pub writing: Writing,
}

#[derive(Debug, Args)]
pub struct TokensArgs {
    /// Text, lines of JSON or tokens of another kind, or a pattern of names
    #[arg(required = true, value_name = "TEXT")]
    pub text: Vec<PathBuf>,
    /// Shard to write
    #[arg(long, short, value_name = "FILE")]
    pub output: PathBuf,
    /// SentencePiece model, tokenizer.json, or `bytes`
    #[arg(long, value_name = "FILE")]
    pub tokenizer: PathBuf,
    #[command(flatten)]
    pub reading: TokenFiles,
    #[command(flatten)]
    pub writing: Writing,
}

#[derive(Debug, Args)]
pub struct CompletionsArgs {
    /// `bash`, `zsh`, `fish`, `elvish` or `powershell`
    #[arg(value_enum, hide_possible_values = true)]
    pub shell: clap_complete::Shell,
}

#[derive(Debug, Args)]
pub struct ManArgs {
    /// Command to print the page of [default: tiepack itself]
    pub command: Option<String>,
    /// Write the pages of all commands into this folder instead
    #[arg(long, short, value_name = "DIR", conflicts_with = "command")]
    pub output: Option<PathBuf>,
    #[command(flatten)]
    pub writing: Writing,
}

fn threads(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(n @ 1..=1024) => Ok(n),
        _ => Err("wanted 1 to 1024".into()),
    }
}
