//! What a search asks of the expensive thing, and what it is told.

use serde::{Deserialize, Serialize};

use super::moves::Candidate;
use crate::error::Result;

/// A change as it looks.
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
    /// What the quadratic says the change adds, nats per token.
    pub predicted: f64,
}

/// A scheme packed into the cap.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Packed {
    /// Step size.
    pub step: f64,
    pub bytes: u64,
    pub fits: bool,
    /// What the quadratic says, nats per token.
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

/// What a base is worth: where the bytes that a change saves are spent.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Threshold {
    /// KL of the base.
    pub kl: f64,
    /// Nats that a byte more or less buys.
    pub price: f64,
    /// How many times more than it looks a change may cost and still be worth packing: what healing may take back.
    #[serde(rename = "hope")]
    pub slack: f64,
}

impl Threshold {
    /// The KL up to which a change that saves so many bytes may pay.
    pub fn limit(&self, saved: f64) -> f64 {
        self.kl + self.slack * self.kl.min(self.price * saved.max(0.0))
    }
}

/// How long what is packed is healed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Fidelity {
    /// A few steps, to be ranked.
    Rough,
    /// As long as the base, to be compared with it.
    Full,
}

/// The expensive thing. Everything it returns follows from its arguments.
pub trait Evaluator {
    /// Packs schemes into the cap. One that is surely worse than `limit` nats need not be measured to the end.
    fn pack(&mut self, candidates: &[Candidate], fidelity: Fidelity, limit: f64) -> Result<Vec<Packed>>;
    /// Makes a packed scheme the base of what follows; returns the price of a byte there.
    fn set_base(&mut self, base: &Candidate, packed: &Packed) -> Result<f64>;
    /// Looks at changes of the base.
    fn probe(&mut self, candidates: &[Candidate], threshold: &Threshold) -> Result<Vec<Probe>>;
}
