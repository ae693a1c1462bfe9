//! The command line.

use std::path::PathBuf;

use clap::{Parser, ValueEnum};
use serde::Serialize;

/// Train a small transformer whose layers are tied, and write what `tiepack pack` takes
#[derive(Parser, Debug, Clone, Serialize)]
#[command(name = "train_tied", args_override_self = true)]
pub struct Args {
    /// Folder with train_*.bin, val_*.bin and, for bits per byte, the tokenizer
    #[serde(skip)]
    pub data: PathBuf,
    /// Model folder to write (made if missing)
    #[serde(skip)]
    pub out: PathBuf,

    /// Which layers share their weights
    #[arg(long, value_enum, default_value_t = Shape::Untied, help_heading = "Network")]
    pub shape: Shape,
    /// Layers as they run
    #[arg(long, default_value_t = 6, value_parser = positive(), help_heading = "Network")]
    pub layers: usize,
    /// Model width
    #[arg(long, default_value_t = 96, value_parser = positive(), help_heading = "Network")]
    pub dim: usize,
    #[arg(long, default_value_t = 4, value_parser = positive(), help_heading = "Network")]
    pub heads: usize,
    #[arg(long, default_value_t = 2, value_parser = positive(), help_heading = "Network")]
    pub kv_heads: usize,
    /// Hidden width of the MLP over the model's
    #[arg(long, default_value_t = 2, value_parser = positive(), help_heading = "Network")]
    pub mlp_mult: usize,
    /// Token ids
    #[arg(long, default_value_t = 1024, value_parser = positive(), help_heading = "Network")]
    pub vocab: usize,
    /// Tokens of a row
    #[arg(long, default_value_t = 128, value_parser = positive(), help_heading = "Network")]
    pub context: usize,
    /// Width of a factorized embedding
    #[arg(long, help_heading = "Network")]
    pub embedding_dim: Option<usize>,
    /// Stored blocks of --shape cycle
    #[arg(long, default_value_t = 2, help_heading = "Network")]
    pub blocks: usize,
    /// Rank of the low-rank terms (LoRA) of --shape cycle, one for every step, and of trunk's late steps; 0: none
    #[arg(long, default_value_t = 8, help_heading = "Network")]
    pub rank: usize,
    /// Layers of their own before the trunk
    #[arg(long, default_value_t = 1, help_heading = "Network")]
    pub early: usize,
    /// Last steps of the trunk that have low-rank terms
    #[arg(long, default_value_t = 2, help_heading = "Network")]
    pub late: usize,
    /// Bytes that the packed file is to have: for --bits and --pack-aware
    #[arg(long, value_name = "BYTES", help_heading = "Network")]
    pub cap: Option<u64>,
    /// Choose the width so that the packed file has so many bits a weight at --cap, in place of --dim
    #[arg(long, help_heading = "Network")]
    pub bits: Option<f64>,
    /// Start from this untied model: a stored block from the mean of its layers, low-rank terms from the SVD of the rest
    #[arg(long, value_name = "MODEL", help_heading = "Network")]
    #[serde(skip)]
    pub from: Option<PathBuf>,

    #[arg(long, default_value_t = 500, value_parser = positive(), help_heading = "Training")]
    pub steps: usize,
    /// Tokens of a step
    #[arg(long, default_value_t = 2048, value_parser = positive(), help_heading = "Training")]
    pub batch: usize,
    /// muon: orthogonal momentum for matrices, Adam for the rest; adamw: for all
    #[arg(long, value_enum, default_value_t = Optimizer::Muon, help_heading = "Training")]
    pub optimizer: Optimizer,
    /// Full rate of matrices [default: 0.04 by muon, 0.003 by adamw]
    #[arg(long, help_heading = "Training")]
    pub matrix_rate: Option<f32>,
    /// Full rate of the embedding [default: 0.03 beside muon, 0.003 by adamw]
    #[arg(long, help_heading = "Training")]
    pub embedding_rate: Option<f32>,
    /// Full rate of gains, scales and mixes
    #[arg(long, default_value_t = 0.02, help_heading = "Training")]
    pub vector_rate: f32,
    /// Decay of matrices: the share that a step takes off is this times the rate
    #[arg(long, default_value_t = 0.1, help_heading = "Training")]
    pub decay: f32,
    /// Steps until the full rate
    #[arg(long, default_value_t = 10, help_heading = "Training")]
    pub warmup: usize,
    /// How the rate falls
    #[arg(long, value_enum, default_value_t = Falling::Linear, help_heading = "Training")]
    pub schedule: Falling,
    /// Share of the run over which a linear schedule falls
    #[arg(long, default_value_t = 0.4, help_heading = "Training")]
    pub fall: f32,
    #[arg(long, default_value_t = 0, help_heading = "Training")]
    pub seed: u64,

    /// Reward lost for each unique layer
    #[arg(long, default_value_t = 0.1, help_heading = "Dynamic Layer Tying")]
    pub price: f64,
    /// Steps between two decisions
    #[arg(long, default_value_t = 8, value_parser = positive(), help_heading = "Dynamic Layer Tying")]
    pub decide_every: usize,
    /// Shares of the run at which decisions begin and end
    #[arg(long, num_args = 2, default_values_t = [0.08, 0.6], help_heading = "Dynamic Layer Tying")]
    pub decide: Vec<f64>,

    /// Let the last part of training see the rounding that the packed file will have at --cap
    #[arg(long, value_enum, help_heading = "Packing")]
    pub pack_aware: Option<Rounded>,
    /// Share of the run after which it does
    #[arg(long, default_value_t = 0.7, help_heading = "Packing")]
    pub pack_aware_from: f64,

    /// Evaluate at most so many rows of validation tokens [default: all]
    #[arg(long, value_parser = positive(), help_heading = "Run")]
    #[serde(skip)]
    pub val_rows: Option<usize>,
    /// Steps between two checkpoints; 0: none
    #[arg(long, default_value_t = 500, help_heading = "Run")]
    #[serde(skip)]
    pub checkpoint_every: usize,
    /// Go on from the checkpoint in OUT
    #[arg(long, help_heading = "Run")]
    #[serde(skip)]
    pub resume: bool,
    /// End after so many steps of this run, with a checkpoint
    #[arg(long, help_heading = "Run")]
    #[serde(skip)]
    pub stop_after: Option<usize>,
    /// cpu or cuda:N
    #[arg(long, default_value = "cpu", help_heading = "Run")]
    #[serde(skip)]
    pub device: String,
    /// Threads [default: one per core]; the result does not depend on them
    #[arg(long, value_parser = positive(), help_heading = "Run")]
    #[serde(skip)]
    pub threads: Option<usize>,
    /// Steps between two lines on stderr
    #[arg(long, default_value_t = 100, value_parser = positive(), help_heading = "Run")]
    #[serde(skip)]
    pub report_every: usize,
    /// Print the result as JSON
    #[arg(long, help_heading = "Run")]
    #[serde(skip)]
    pub json: bool,
    /// Say nothing on stderr but errors
    #[arg(long, short, help_heading = "Run")]
    #[serde(skip)]
    pub quiet: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Serialize)]
pub enum Shape {
    /// Every layer has weights of its own
    Untied,
    /// One block for all layers (arXiv:1909.11942)
    Albert,
    /// The same with an embedding of the depth (arXiv:1807.03819)
    Universal,
    /// Some blocks in a cycle, with low-rank terms for every step (arXiv:2410.20672)
    Cycle,
    /// Untied early layers, then one block, whose late steps have low-rank terms
    Trunk,
    /// A controller learns which layers copy which (arXiv:2401.12819)
    Dynamic,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Serialize)]
pub enum Optimizer {
    Muon,
    Adamw,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Serialize)]
pub enum Falling {
    Cosine,
    Linear,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Serialize)]
pub enum Rounded {
    /// Weights are blurred by noise as wide as a step of the grid
    Noise,
    /// Weights are rounded, gradients pass straight through
    Straight,
}

fn positive() -> impl clap::builder::TypedValueParser<Value = usize> {
    use clap::builder::TypedValueParser;
    clap::value_parser!(u64).range(1..1 << 32).map(|n| n as usize)
}
