//! The structure that was chosen: recipe, bytes and loss of every layer and role, and the cost of the best alternative.

use serde::Serialize;

use super::alternatives::Decided;
use super::parts::Finished;
use crate::artifact::layout::StreamEntry;
use crate::model::Model;
use crate::plan::climb::{Climbed, Probed};
use crate::plan::scheme::Choice;
use crate::recipe::Terms;

/// Changes that a report names.
const NAMED: usize = 12;

/// The structure that was found.
#[derive(Debug, Clone, Serialize)]
pub struct Structure {
    pub rows: Vec<Row>,
    /// `None`: whole layers were not searched.
    pub search: Option<Searched>,
}

/// One stored matrix.
#[derive(Debug, Clone, Serialize)]
pub struct Row {
    pub tensor: String,
    pub role: String,
    /// Layers that use it; empty for one outside all layers.
    pub layers: Vec<usize>,
    /// Its recipe in words.
    pub made: String,
    /// Of its stream in the file; where matrices share one, it counts with the first of them.
    pub bytes: u64,
    /// Predicted loss, nats per token.
    pub nats: f64,
    /// The best of what it was not made of, if anything was asked.
    pub next: Option<Next>,
}

#[derive(Debug, Clone, Serialize)]
pub struct Next {
    pub made: String,
    /// Nats more, with its bytes at their price.
    pub more: f64,
    /// It was coded; otherwise that is theory.
    pub coded: bool,
}

/// Record of the search over whole layers. Figures are nats per token on the calibration tokens that it judges by.
#[derive(Debug, Clone, Serialize)]
pub struct Searched {
    /// Structures packed and judged in full, and those healed for a few steps only.
    pub trials: usize,
    pub rough: usize,
    /// Nothing more could pay; otherwise it ended at its bounds.
    pub finished: bool,
    /// KL of what it started from, and of what it found.
    pub start: f64,
    pub found: f64,
    /// Changes that were kept, in order.
    pub kept: Vec<String>,
    /// Nats that a byte buys at the end.
    pub price: f64,
    /// Changes that came nearest to paying, the nearest first.
    pub nearest: Vec<Probed>,
}

impl Searched {
    pub(super) fn new(climbed: &Climbed) -> Searched {
        Searched {
            trials: climbed.trials,
            rough: climbed.rough,
            finished: climbed.finished,
            start: climbed.start.kl(),
            found: climbed.packed.kl(),
            kept: climbed.kept.iter().map(ToString::to_string).collect(),
            price: climbed.price,
            nearest: climbed.seen.iter().filter(|seen| seen.probe.saved > 0.0).take(NAMED).cloned().collect(),
        }
    }
}

impl Structure {
    pub(super) fn new(model: &Model, finished: &Finished, decided: &[Decided], search: Option<Searched>) -> Structure {
        let mut rows = Vec::new();
        for (part, entry) in finished.plan.parts.iter().zip(&finished.pieces.entries) {
            for &t in &entry.tensors {
                let stored = t as usize;
                if !model.is_matrix(stored) {
                    continue;
                }
                let spec = model.spec(stored);
                let next = decided.iter().find(|d| d.stored == stored).and_then(|d| d.next.as_ref());
                let mut layers: Vec<usize> =
                    model.uses(stored).into_iter().filter_map(|u| model.specs[u].layer).collect();
                layers.dedup();
                let recipe = &part.made.recipe;
                let made = match part.mean_of.len() {
                    many @ 2.. if recipe.terms().is_some_and(Terms::is_alone) => format!("{recipe}, for {many}"),
                    _ => recipe.to_string(),
                };
                let named = |choice: Choice| choice.refer(|from| &model.spec(from).name[..]).to_string();
                rows.push(Row {
                    tensor: spec.name.clone(),
                    role: spec.role.clone(),
                    layers,
                    made,
                    bytes: 0,
                    nats: finished.losses[stored],
                    next: next.map(|n| Next { made: named(n.choice), more: n.more, coded: n.coded }),
                });
            }
        }
        let at = |row: &Row| model.specs.iter().position(|spec| spec.name == row.tensor);
        rows.sort_by_key(at);
        let mut structure = Structure { rows, search };
        structure.takes(model, &finished.pieces.entries);
        structure
    }

    /// Takes the bytes of these streams over: healing changes them.
    pub(super) fn takes(&mut self, model: &Model, entries: &[StreamEntry]) {
        for entry in entries {
            // What several matrices share counts once.
            let mut bytes = entry.len;
            for name in entry.tensors.iter().map(|t| &model.spec(*t as usize).name) {
                if let Some(row) = self.rows.iter_mut().find(|row| row.tensor == *name) {
                    row.bytes = std::mem::take(&mut bytes);
                }
            }
        }
    }
}
