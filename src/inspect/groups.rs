//! The rows of a file put together by what they have in common.

use serde::Serialize;

use super::{Inventory, Row};
use crate::model::bits_per_weight;
use crate::text::list;

/// The property by which rows are grouped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum By {
    /// Every stream by itself
    Stream,
    /// The layers that use it; layers of one block are one group
    Layer,
    /// The part that it plays in its layer
    Role,
    /// How it is coded
    Kind,
}

impl By {
    /// What a person calls it.
    pub fn name(self) -> &'static str {
        match self {
            By::Stream => "stream",
            By::Layer => "layer",
            By::Role => "role",
            By::Kind => "kind",
        }
    }
}

/// All rows that have something in common.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Group {
    pub key: String,
    /// Layers that use one of them.
    pub layers: Vec<usize>,
    pub rows: usize,
    pub weights: usize,
    pub bytes: u64,
    pub bits_per_weight: Option<f64>,
    /// Of the whole file, 0 to 1.
    pub share: f64,
}

/// The name of the group that a row belongs to.
pub fn key(row: &Row, by: By) -> String {
    match by {
        // The same name whatever else is in the stream: control tensors are named by what they are.
        By::Stream => match &row.tensors[..] {
            [one] => one.clone(),
            _ => row.part.clone(),
        },
        By::Layer if row.tensors.is_empty() => "container".into(),
        By::Layer => match &row.layers[..] {
            [] => "outside layers".into(),
            [one] => format!("layer {one}"),
            many => format!("layers {}", list(many)),
        },
        By::Role => row.part.clone(),
        By::Kind => row.codec.clone().unwrap_or_else(|| "container".into()),
    }
}

impl Inventory {
    /// The same bytes put together, largest first.
    pub fn groups(&self, by: By) -> Vec<Group> {
        let mut groups: Vec<Group> = Vec::new();
        for row in &self.rows {
            let key = key(row, by);
            let same = |group: &Group| by != By::Stream && group.key == key;
            let at = groups.iter().position(same).unwrap_or_else(|| {
                groups.push(Group {
                    key,
                    layers: Vec::new(),
                    rows: 0,
                    weights: 0,
                    bytes: 0,
                    bits_per_weight: None,
                    share: 0.0,
                });
                groups.len() - 1
            });
            let group = &mut groups[at];
            group.layers.extend(&row.layers);
            group.rows += 1;
            group.weights += row.weights;
            group.bytes += row.bytes;
        }
        for group in &mut groups {
            group.layers.sort_unstable();
            group.layers.dedup();
            group.bits_per_weight = bits_per_weight(group.bytes, group.weights);
            group.share = group.bytes as f64 / self.bytes.max(1) as f64;
        }
        // Stable: of equal size in the order of the file.
        groups.sort_by_key(|group| std::cmp::Reverse(group.bytes));
        groups
    }
}
