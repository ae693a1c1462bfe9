//! The verdict: everything that is claimed about an artifact, each figure measured on the file as it lies on the disk.

use serde::{Serialize, Serializer};

use super::judge::Judged;
use super::statistics::{Estimate, quantile};
use crate::error::{Error, Result};
use crate::eval::bits::bits_per_byte;
use crate::eval::compare::{Comparison, Losses};
use crate::ingest::Remark;
use crate::text::{listed, thousands};

/// The verdict on an artifact.
#[derive(Debug, Clone, Serialize)]
pub struct Verdict {
    pub artifact: File,
    /// `None`: no cap was named.
    pub budget: Option<Budget>,
    /// `None`: the artifact was not held against a model.
    pub against: Option<Against>,
    /// `None`: there were no validation tokens, or nobody wanted an evaluation.
    pub evaluation: Option<Evaluation>,
    /// What the user's own program says of the weights; `None`: none was named.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub judged: Option<Judged>,
    /// What the reader should know about these figures.
    pub notes: Vec<Note>,
    /// Wall-clock seconds of the verification.
    pub seconds: f64,
}

/// The file, decoded, its hashes found right.
#[derive(Debug, Clone, Serialize)]
pub struct File {
    pub path: String,
    pub bytes: u64,
    /// Of the whole file, in hexadecimal.
    pub blake3: String,
    /// The root over all decoded tensors, in hexadecimal.
    pub root: String,
    pub arch: String,
    pub layers: usize,
    /// Distinct tensors.
    pub tensors: usize,
    /// Weights of distinct matrices and embeddings; tied ones counted once, vectors not at all.
    pub weights: usize,
    /// All bytes of the file over `weights`; `None`: there are none.
    pub bits_per_weight: Option<f64>,
}

/// The file under its cap, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Budget {
    pub cap: u64,
    /// Files that count against the cap beside the artifact.
    pub includes: u64,
    /// Artifact and includes.
    pub total: u64,
    pub free: u64,
}

impl File {
    /// The same as part of a file of `bytes` bytes.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn within(self, path: &std::path::Path, bytes: u64) -> Result<File> {
        let content = std::fs::read(path).map_err(|e| Error::io("read", path, e))?;
        let bits_per_weight = crate::model::bits_per_weight(bytes, self.weights);
        let blake3 = blake3::hash(&content).to_hex().to_string();
        Ok(File { path: path.display().to_string(), bytes, blake3, bits_per_weight, ..self })
    }
}

impl Budget {
    /// # Errors
    /// Cap: artifact and includes are more than `cap`.
    pub fn new(artifact: u64, includes: u64, cap: u64) -> Result<Budget> {
        let total = artifact.saturating_add(includes);
        let free = cap.checked_sub(total).ok_or_else(|| {
            let [artifact, includes, over, all, cap] = [artifact, includes, total - cap, total, cap].map(thousands);
            Error::cap(format!(
                "{artifact} bytes of artifact and {includes} of includes are {over} over the cap of {cap}"
            ))
            .hint(format!("the smallest cap that they fit is {all}"))
        })?;
        Ok(Budget { cap, includes, total, free })
    }
}

/// Number of tensors that are unchanged.
#[derive(Debug, Clone, Serialize)]
pub struct Against {
    pub path: String,
    /// Tensors of the architecture.
    pub tensors: usize,
    /// Those whose values are the model's, bit for bit.
    pub identical: usize,
}

/// Losses on validation tokens.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Evaluation {
    /// Rows used, from the first.
    pub rows: usize,
    /// Rows there are.
    pub rows_available: usize,
    /// Tokens of a row.
    pub row_length: usize,
    /// Tokens predicted.
    pub tokens: usize,
    /// Bytes of text that they stand for; `None` without a tokenizer.
    pub text_bytes: Option<u64>,
    pub packed: Loss,
    /// What packing cost; `None` when there was no model to compare with.
    pub cost: Option<Cost>,
}

/// A mean loss.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Loss {
    pub nats_per_token: f64,
    pub bits_per_byte: Option<f64>,
}

/// The packed network held against its original, on the same rows.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Cost {
    pub original: Loss,
    /// Packed minus original, row by row: that they share their text takes most of the noise out.
    pub nats_per_token: Estimate,
    pub bits_per_byte: Option<Estimate>,
    pub divergence: Divergence,
    /// Share of positions at which both hold the same token for the most probable, 0 to 1.
    pub same_top: f64,
}

/// KL(original ‖ packed) in nats, over positions.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Divergence {
    /// The standard error is over rows.
    pub mean: Estimate,
    pub median: f64,
    pub percentile_99: f64,
    pub largest: f64,
}

/// The rows of an evaluation.
#[derive(Debug, Clone, Copy)]
pub struct Sample {
    pub rows_available: usize,
    pub text_bytes: Option<u64>,
}

impl Loss {
    /// The mean loss of `nats` over `tokens`, which stand for `bytes`.
    pub fn new(nats: f64, tokens: usize, bytes: Option<u64>) -> Loss {
        let bits = bytes.and_then(|bytes| bits_per_byte(nats, bytes));
        Loss { nats_per_token: nats / tokens as f64, bits_per_byte: bits }
    }
}

impl Evaluation {
    /// Of an artifact alone.
    pub fn alone(losses: &Losses, sample: Sample) -> Evaluation {
        let (rows, row_length) = (losses.rows.len(), losses.length);
        let Sample { rows_available, text_bytes } = sample;
        let packed = Loss::new(losses.total(), rows * row_length, text_bytes);
        let tokens = rows * row_length;
        Evaluation { rows, rows_available, row_length, tokens, text_bytes, packed, cost: None }
    }

    /// Of an artifact and its original.
    ///
    /// # Panics
    /// The comparison is over no rows.
    pub fn of(comparison: &Comparison, sample: Sample) -> Evaluation {
        let Comparison { original, changed, divergence, same_top } = comparison;
        let alone = Evaluation::alone(changed, sample);
        let per_token = 1.0 / alone.row_length as f64;
        let differences: Vec<f64> =
            changed.rows.iter().zip(&original.rows).map(|(packed, original)| (packed - original) * per_token).collect();
        let by_row: Vec<f64> = divergence
            .chunks_exact(alone.row_length)
            .map(|row| row.iter().map(|d| f64::from(*d)).sum::<f64>() * per_token)
            .collect();
        let mut sorted = divergence.clone();
        sorted.sort_unstable_by(f32::total_cmp);
        let difference = Estimate::of(&differences);
        let to_bits = sample.text_bytes.and_then(|bytes| bits_per_byte(alone.tokens as f64, bytes));
        let cost = Cost {
            original: Loss::new(original.total(), alone.tokens, sample.text_bytes),
            nats_per_token: difference,
            bits_per_byte: to_bits.map(|factor| difference.scaled(factor)),
            divergence: Divergence {
                mean: Estimate::of(&by_row),
                median: quantile(&sorted, 0.5),
                percentile_99: quantile(&sorted, 0.99),
                largest: quantile(&sorted, 1.0),
            },
            same_top: *same_top as f64 / alone.tokens as f64,
        };
        Evaluation { cost: Some(cost), ..alone }
    }
}

/// What a reader of a verdict should know, each with the way out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Note {
    /// There were no validation tokens.
    NoValidation,
    /// `--no-eval`.
    NotEvaluated,
    /// Losses in bits per byte need the lengths of the tokens.
    NoTokenizer,
    /// Bytes of all validation tokens as the challenge counts them, and those of their text.
    Lengths { counted: u64, text: u64 },
    /// Reading the model changed this or left it out.
    Input(Remark),
    /// `--allow-overlap` let validation text through; the longest passage has so many tokens.
    Overlap(usize),
    /// So many calibration rows share text with the validation tokens and were left out; the longest passage, in tokens.
    LeftOut { rows: usize, of: usize, longest: usize },
    /// So many matrices are equal to others without being declared tied.
    UndeclaredTies(usize),
    /// `--retie` changed so many tensors; the largest change of a weight, as text.
    Retied(usize, String),
    /// No network computes with these tensors, and why: there are no losses.
    NoNetwork(String),
    /// Matrices that no prediction on the calibration tokens depends on, stored as zeros.
    Dead(Vec<String>),
    /// Matrices whose curvature the given statistics leave out.
    Unmeasured(Vec<String>),
    /// Two models of different architectures were compared.
    OtherArchitecture(String, String),
    /// Two models with different numbers of token ids were compared.
    OtherVocabulary(usize, usize),
    /// Nothing is known about the loss of the model that an artifact is held against.
    NoCurvature,
    /// The folder for cached statistics cannot be used, and why.
    NoCache(String),
    /// Ctrl-C ended search or healing.
    Interrupted,
    /// The packed model loses more than one that gives every token the same probability, and so may the original.
    WorseThanGuessing { original: bool },
}

impl Note {
    /// Where the length of validation tokens, as counted and as their text has it, differs.
    pub fn lengths(lengths: Option<(u64, u64)>) -> Option<Note> {
        lengths.filter(|(counted, text)| counted != text).map(|(counted, text)| Note::Lengths { counted, text })
    }

    pub fn message(&self) -> String {
        match self {
            Note::NoValidation => "not evaluated: there are no validation tokens".into(),
            Note::NotEvaluated => "not evaluated, as --no-eval asks".into(),
            Note::NoTokenizer => "no bits per byte: there is no tokenizer".into(),
            Note::Lengths { counted, text } => format!(
                "bits per byte count {} bytes for all validation tokens, as the challenge does; their text has {}, {:+.1} %",
                thousands(*counted),
                thousands(*text),
                100.0 * (*text as f64 / *counted as f64 - 1.0)
            ),
            Note::Input(remark) => remark.message(),
            Note::Overlap(longest) => format!(
                "the losses are too good: calibration and validation share text, up to {} tokens in a row",
                thousands(*longest as u64)
            ),
            Note::LeftOut { rows, of, longest } => format!(
                "left out {} of {} calibration rows: they share text with validation, up to {} tokens in a row",
                thousands(*rows as u64),
                thousands(*of as u64),
                thousands(*longest as u64)
            ),
            Note::UndeclaredTies(n) => format!("matrices equal to others but not declared tied, stored once: {n}"),
            Note::Retied(n, largest) => {
                format!("tensors made equal by --retie: {n}; the largest change of a weight is {largest}")
            }
            Note::NoNetwork(why) => format!("not evaluated: {why}"),
            Note::Dead(names) => {
                format!("nothing depends on these matrices, they are stored as zeros: {}", listed(names))
            }
            Note::Unmeasured(names) => format!("packed by squared error, for want of statistics: {}", listed(names)),
            Note::OtherArchitecture(a, b) => {
                format!("two architectures, {a} and {b}: tensors of the same name and shape are compared, and bytes")
            }
            Note::OtherVocabulary(a, b) => {
                format!("losses were not compared: {a} token ids in one model, {b} in the other")
            }
            Note::NoCurvature => "no predicted losses: there are no calibration tokens and no statistics".into(),
            Note::NoCache(why) => format!("measured statistics are not kept: {why}"),
            Note::Interrupted => "interrupted: search and healing ended early, with the best so far".into(),
            Note::WorseThanGuessing { original } => {
                let too = if *original { ", as the original is" } else { "" };
                format!("the packed model is useless{too}: it loses more than giving every token the same probability")
            }
        }
    }

    pub fn hint(&self) -> &'static str {
        match self {
            Note::NoValidation => "name tokens or text with --val",
            Note::NotEvaluated => "`tiepack verify ARTIFACT --against MODEL` makes up for it",
            Note::NoTokenizer => "name the SentencePiece model with --tokenizer",
            Note::Lengths { .. } => {
                "compare it with other models by nats per token, or by bytes that are counted alike"
            }
            Note::Input(remark) => remark.hint(),
            Note::Overlap(_) => "validate on tokens that the packer has not seen",
            Note::LeftOut { .. } => "the verdict holds; nothing was tuned on what it is measured on",
            Note::UndeclaredTies(_) => "declare them in ties.json to have them checked",
            Note::Retied(..) => "losses are against the model as changed, not as it was trained",
            Note::NoNetwork(_) => "losses need a network that is registered: README, Input",
            Note::Dead(_) => "the loss above was measured without them",
            Note::Unmeasured(_) => "measure them as well, or keep the model's own tool at hand to judge the result",
            Note::OtherArchitecture(..) => "give --val to compare their losses as well",
            Note::OtherVocabulary(..) => "`tiepack eval` gives the loss of each on its own tokens, in bits per byte",
            Note::NoCurvature => "name tokens or text with --calib, or give --statistics",
            Note::NoCache(_) => "name a folder with --cache, or pass --no-cache",
            Note::Interrupted => {
                "pack again for all that the cap allows; --resume goes on from a log or a state that was kept"
            }
            Note::WorseThanGuessing { original: false } => "raise the cap",
            Note::WorseThanGuessing { original: true } => {
                "see whether these are the model's own tokens and configuration"
            }
        }
    }
}

impl Serialize for Note {
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        #[derive(Serialize)]
        struct Text {
            message: String,
            hint: &'static str,
        }
        Text { message: self.message(), hint: self.hint() }.serialize(serializer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Kind;

    fn losses(rows: &[f64]) -> Losses {
        Losses { rows: rows.to_vec(), length: 2 }
    }

    #[test]
    fn a_cost_is_paired_by_row() {
        let comparison = Comparison {
            original: losses(&[2.0, 8.0]),
            changed: losses(&[2.2, 8.6]),
            divergence: vec![0.0, 0.5, 0.25, 0.25],
            same_top: 3,
        };
        let sample = Sample { rows_available: 5, text_bytes: Some(8) };
        let evaluation = Evaluation::of(&comparison, sample);
        let cost = evaluation.cost.unwrap();
        assert_eq!((evaluation.rows, evaluation.rows_available, evaluation.tokens), (2, 5, 4));
        assert!((evaluation.packed.nats_per_token - 2.7).abs() < 1e-12);
        assert_eq!(cost.original.nats_per_token, 2.5);
        // Differences per token .1 and .3: mean .2, standard error .1, though the losses themselves are far apart.
        assert!((cost.nats_per_token.value - 0.2).abs() < 1e-12);
        assert!((cost.nats_per_token.standard_error.unwrap() - 0.1).abs() < 1e-12);
        // Half a token to a byte.
        assert!((cost.bits_per_byte.unwrap().value - 0.1 / std::f64::consts::LN_2).abs() < 1e-12);
        assert_eq!((cost.divergence.mean.value, cost.divergence.mean.standard_error), (0.25, Some(0.0)));
        assert_eq!((cost.divergence.median, cost.divergence.largest, cost.same_top), (0.25, 0.5, 0.75));
    }

    #[test]
    fn a_budget_counts_the_includes() {
        let budget = Budget::new(90, 8, 100).unwrap();
        assert_eq!((budget.total, budget.free), (98, 2));
        assert_eq!(Budget::new(90, 10, 100).unwrap().free, 0);
        let error = Budget::new(90, 11, 100).unwrap_err();
        assert_eq!((error.kind, error.hint.as_deref()), (Kind::Cap, Some("the smallest cap that they fit is 101")));
    }
}
