//! The interface between a search and the evaluator that packs and measures schemes for it.

use serde::{Deserialize, Serialize};

use super::moves::Candidate;
use crate::error::Result;

/// The result of a probe: a change of the base, measured without quantizing what it changes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Probe {
    /// KL with the change made on the base, nats per token.
    pub kl: f64,
    /// One standard error of it.
    pub error: f64,
    /// Whether it was measured to the end; it is not when it is far from paying.
    pub complete: bool,
    /// Bytes that the change saves.
    pub saved: f64,
    /// The increase of the loss by the quadratic model, nats per token.
    pub predicted: f64,
}

/// A scheme packed into the cap.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Packed {
    /// Step size.
    pub step: f64,
    pub bytes: u64,
    pub fits: bool,
    /// The loss by the quadratic model, nats per token.
    pub predicted: f64,
    /// KL of every row, nats per token.
    pub rows: Vec<f64>,
    pub complete: bool,
}

impl Packed {
    /// Mean KL, nats per token.
    pub fn kl(&self) -> f64 {
        match self.fits {
            true => self.rows.iter().sum::<f64>() / self.rows.len().max(1) as f64,
            false => f64::INFINITY,
        }
    }

    /// Whether this is measured to be better than another by more than noise: by one standard error of the difference.
    pub(super) fn beats(&self, other: &Packed) -> bool {
        if !self.fits || !self.complete || self.rows.len() != other.rows.len() {
            return false;
        }
        let differences: Vec<f64> = self.rows.iter().zip(&other.rows).map(|(a, b)| a - b).collect();
        let n = differences.len() as f64;
        let mean = differences.iter().sum::<f64>() / n;
        let variance = differences.iter().map(|d| (d - mean).powi(2)).sum::<f64>() / (n - 1.0).max(1.0);
        mean < -(variance / n).sqrt()
    }
}

/// The KL up to which a change of a base may pay: kl + slack · min(kl, price · bytes saved).
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Threshold {
    /// KL of the base.
    pub kl: f64,
    /// Price of a byte: nats per token that one byte more buys.
    pub price: f64,
    /// Factor by which the probed cost of a change may exceed its gain and the change still be packed: healing may recover the rest.
    #[serde(rename = "hope")]
    pub slack: f64,
}

impl Threshold {
    /// The KL up to which a change that saves so many bytes may pay.
    pub fn limit(&self, saved: f64) -> f64 {
        self.kl + self.slack * self.kl.min(self.price * saved.max(0.0))
    }
}

/// Length of the healing of a packed scheme.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Fidelity {
    /// A few iterations, enough to rank schemes.
    Rough,
    /// As many iterations as the base had, so that the two can be compared.
    Full,
}

/// Packs and measures schemes: the expensive part of a search. All results follow from the arguments.
pub trait Evaluator {
    /// Packs schemes into the cap. One that is surely worse than `limit` nats need not be measured to the end.
    fn pack(&mut self, candidates: &[Candidate], fidelity: Fidelity, limit: f64) -> Result<Vec<Packed>>;
    /// Makes a packed scheme the base of what follows; returns the price of a byte there.
    fn set_base(&mut self, base: &Candidate, packed: &Packed) -> Result<f64>;
    /// Measures changes of the base without packing them.
    fn probe(&mut self, candidates: &[Candidate], threshold: &Threshold) -> Result<Vec<Probe>>;
}
