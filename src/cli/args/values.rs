//! The words for choices of the library, each with its help.

use clap::ValueEnum;
use clap::builder::PossibleValue;

use crate::bundle::Decoder;
use crate::compile::Effort;
use crate::inspect::By;
use crate::train::objective::Objective;

fn word(word: &'static str, help: &'static str) -> Option<PossibleValue> {
    Some(PossibleValue::new(word).help(help))
}

impl ValueEnum for Effort {
    fn value_variants<'a>() -> &'a [Self] {
        &[Effort::Fast, Effort::Normal, Effort::Max]
    }

    fn to_possible_value(&self) -> Option<PossibleValue> {
        match self {
            Effort::Fast => word("fast", "Few calibration tokens and a small trellis: for a first look"),
            Effort::Normal => word("normal", "Minutes for a model of a few million weights"),
            Effort::Max => word("max", "Four times the calibration tokens and the largest trellis"),
        }
    }
}

impl ValueEnum for Objective {
    fn value_variants<'a>() -> &'a [Self] {
        &[Objective::Kl, Objective::Data, Objective::Both]
    }

    fn to_possible_value(&self) -> Option<PossibleValue> {
        match self {
            Objective::Kl => {
                word("kl", "KL(teacher ‖ student), in nats per token: distillation (Hinton et al., arXiv:1503.02531)")
            }
            Objective::Data => word("data", "The cross-entropy of the tokens themselves"),
            Objective::Both => word("both", "The mean of both"),
        }
    }
}

impl ValueEnum for By {
    fn value_variants<'a>() -> &'a [Self] {
        &[By::Stream, By::Layer, By::Role, By::Kind]
    }

    fn to_possible_value(&self) -> Option<PossibleValue> {
        match self {
            By::Stream => word("stream", "Every stream by itself"),
            By::Layer => word("layer", "The layers that use it; layers of one block are one group"),
            By::Role => word("role", "The part that it plays in its layer"),
            By::Kind => word("kind", "How it is coded"),
        }
    }
}

impl ValueEnum for Decoder {
    fn value_variants<'a>() -> &'a [Self] {
        &[Decoder::Embed, Decoder::Import]
    }

    fn to_possible_value(&self) -> Option<PossibleValue> {
        match self {
            Decoder::Embed => word("embed", "The small decoder is part of the bundle"),
            Decoder::Import => word("import", "`import tiepack`, named in a requirements.txt"),
        }
    }
}
