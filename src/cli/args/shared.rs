//! Options that several commands have in common.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, ValueEnum};

use crate::cli::bytes::{self, Rows};
use crate::cli::heal;
use crate::cli::interrupt;
use crate::compile::Effort;
use crate::ingest::tokens::TokenFormat;
use crate::ingest::{Overrides, Reading};
use crate::inspect::By;
use crate::model;
use crate::verify::judge::Judge;

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
    /// Validation tokens or text, or a pattern of names, once for each [default: val_*.bin beside the model]
    #[arg(long, value_name = "FILE")]
    pub val: Vec<PathBuf>,
    /// For text and bits per byte: SentencePiece model, tokenizer.json, `bytes`, or for the latter alone a JSON array of byte
    /// counts [default: tokenizer.model or tokenizer.json beside the model]
    #[arg(long, value_name = "FILE")]
    pub tokenizer: Option<PathBuf>,
}

/// How files of tokens are read.
#[derive(Debug, Args)]
pub struct TokenFiles {
    /// What files of tokens are: `shard`, `u16` or `u32` (without a header), `npy`, `text` or `jsonl`
    /// [default: as their content says]
    #[arg(long, value_name = "KIND", value_enum, hide_possible_values = true)]
    pub tokens: Option<TokenKind>,
    /// Where lines of JSON have their text [default: text]
    #[arg(long, value_name = "FIELD")]
    pub text_field: Option<String>,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
pub enum TokenKind {
    Shard,
    U16,
    U32,
    Npy,
    Text,
    Jsonl,
}

impl TokenFiles {
    /// How to read them, the tokenizer not yet known.
    pub fn reading(&self) -> Reading {
        let kind = |kind| match kind {
            TokenKind::Shard => TokenFormat::Shard,
            TokenKind::U16 => TokenFormat::U16,
            TokenKind::U32 => TokenFormat::U32,
            TokenKind::Npy => TokenFormat::Npy,
            TokenKind::Text => TokenFormat::Text,
            TokenKind::Jsonl => TokenFormat::Jsonl,
        };
        Reading { kind: self.tokens.map(kind), field: self.text_field.clone(), tokenizer: None }
    }
}

/// How the curvature of the loss is had.
#[derive(Debug, Args)]
pub struct Measuring {
    /// Calibration tokens or text, or a pattern of names, once for each; `self:TOKENS` lets the model write so many itself
    /// [default: train_*.bin beside the model]
    #[arg(long, value_name = "FILE")]
    pub calib: Vec<PathBuf>,
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
    /// Curvature that was measured elsewhere, or `none`: every weight counts alike; no network is needed then
    #[arg(long, value_name = "FILE|none")]
    pub statistics: Option<PathBuf>,
    /// Folder for measured statistics [default: tiepack in the user's cache folder]
    #[arg(long, value_name = "DIR", conflicts_with = "no_cache")]
    pub cache: Option<PathBuf>,
    /// Neither use nor keep measured statistics
    #[arg(long)]
    pub no_cache: bool,
}

/// A program that evaluates models which tiepack has no network for, or as it cannot.
#[derive(Debug, Args)]
pub struct Judging {
    /// Program that is given weights and says their losses, for the verdict in place of tiepack's own evaluation
    #[arg(long, value_name = "COMMAND")]
    pub evaluator: Option<String>,
    /// How long it may take, as 90s, 20m or 1.5h
    #[arg(long, value_name = "TIME", default_value = "1h", value_parser = heal::parse_time, requires = "evaluator")]
    pub evaluator_timeout: Duration,
}

impl Judging {
    pub fn judge(&self) -> Option<Judge> {
        let limit = self.evaluator_timeout;
        self.evaluator.clone().map(|command| Judge { command, limit, stop: interrupt::interrupted })
    }
}

/// What becomes of files that are there.
#[derive(Debug, Args)]
pub struct Writing {
    /// Replace files also where nothing shows that tiepack wrote them
    #[arg(long, help_heading = "Output")]
    pub force: bool,
}

/// What to draw.
#[derive(Debug, Args)]
pub struct Pictures {
    /// Write a page with pictures: one file that needs nothing else
    #[arg(long, value_name = "OUT.html", help_heading = "Output")]
    pub report: Option<PathBuf>,
    /// Write the main picture alone
    #[arg(long, value_name = "OUT.svg", help_heading = "Output")]
    pub svg: Option<PathBuf>,
}

/// How tables are made.
#[derive(Debug, Args)]
pub struct Tables {
    /// What the rows of the table have in common: `stream`, `layer`, `role` or `kind`
    #[arg(long, value_enum, hide_possible_values = true, default_value_t = By::Stream)]
    pub by: By,
    /// Rows to show, largest first: a number or `all`
    #[arg(long, short = 'n', value_name = "ROWS", default_value = "20", value_parser = bytes::parse_rows)]
    pub rows: Rows,
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
    pub fn overrides(
        &self,
        validation: Option<&ValidationFiles>,
        (calib, tokens): (&[PathBuf], Option<&TokenFiles>),
    ) -> Overrides {
        Overrides {
            config: self.config.clone(),
            ties: self.ties.clone(),
            tokenizer: validation.and_then(|files| files.tokenizer.clone()),
            calib: calib.to_vec(),
            val: validation.map_or_else(Vec::new, |files| files.val.clone()),
            reading: tokens.map_or_else(Reading::default, TokenFiles::reading),
        }
    }

    pub fn retie(&self) -> Option<model::Retie> {
        self.retie.map(Into::into)
    }
}
