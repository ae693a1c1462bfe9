//! The ledger of a file: every byte of it in exactly one row.

mod artifact;
pub mod groups;
mod made;
mod model;

use serde::Serialize;

pub use artifact::{Depth, artifact, of_bundle, of_bytes};
pub use groups::{By, Group};
pub use model::model;

use crate::artifact::construction::{Construction, IndexStatistics};
use crate::error::{Error, Result};
use crate::model::{Structure, bits_per_weight};
use crate::nets::TensorSpec;
use crate::recipe::Recipe;

/// The part of a row of tensors that are no weights: integers, booleans, tables.
const NO_WEIGHTS: &str = "no weights";

/// The bytes of an artifact, or of a model's weights files.
#[derive(Debug, Clone, Serialize)]
pub struct Inventory {
    pub path: String,
    /// What was looked at.
    pub kind: InventoryKind,
    pub arch: String,
    pub layers: usize,
    /// For every layer the first layer that shares all its tied roles, itself if there is none before it.
    pub copies: Vec<usize>,
    /// Layers in the order in which they run; a loop runs some of them several times.
    pub order: Vec<usize>,
    /// Tensors of the architecture.
    pub names: usize,
    /// Distinct tensors.
    pub tensors: usize,
    /// Weights of all tensors, tied ones once for every use.
    pub parameters: usize,
    /// Weights of all distinct tensors.
    pub stored: usize,
    /// Those of them in matrices and embeddings: what a verdict counts.
    pub weights: usize,
    pub bytes: u64,
    /// All bytes over `weights`, as in a verdict; `None`: there are none.
    pub bits_per_weight: Option<f64>,
    /// In the order of the file (of an artifact) or of the architecture (of a model).
    pub rows: Vec<Row>,
    /// The same bytes by role, in order of first appearance.
    pub roles: Vec<Role>,
    /// Every matrix of the architecture, in its order, and where its weights are.
    pub matrices: Vec<Use>,
    /// Ties that nobody declared: (tensor, the one it equals).
    pub undeclared: Vec<(String, String)>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum InventoryKind {
    Artifact,
    Model,
    /// A script that brings an artifact or its streams.
    Bundle,
}

/// A matrix of the architecture.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Use {
    pub tensor: String,
    pub role: String,
    pub layer: Option<usize>,
    /// The tensor that it is stored as: itself, or the first one that it is tied to.
    pub stored_as: String,
    /// Index into [`Inventory::rows`].
    pub row: usize,
}

/// The error of a row's weights, compared with the model that it was made of.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Distortion {
    /// |packed - original| over |original|.
    pub relative_error: f64,
    /// Nats per token that its error costs, by the measured curvature; `None`: nobody knows that.
    pub predicted_loss: Option<f64>,
    /// Of the predicted loss of all rows, 0 to 1.
    pub loss_share: Option<f64>,
    /// Bits per weight below which no code of independent Gaussian weights of this size has as little error.
    pub gaussian_bound: Option<f64>,
}

/// A run of bytes with one purpose.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Row {
    /// The role of a matrix, `vectors`, or a part of the container.
    pub part: String,
    /// Layers that use it; empty when it belongs to none.
    pub layers: Vec<usize>,
    /// Names in the architecture of the tensors that it holds, those of later uses left out; empty for the container.
    pub tensors: Vec<String>,
    /// Of a single tensor.
    pub shape: Option<Vec<usize>>,
    /// Distinct weights; 0 for the container.
    pub weights: usize,
    /// First byte in an artifact. A model's tensors may be written several times, so they have none.
    pub offset: Option<u64>,
    pub bytes: u64,
    /// `None` for the container.
    pub bits_per_weight: Option<f64>,
    /// How it is coded, or the element type; `None` for the container.
    pub codec: Option<String>,
    /// What its stream says that it is made of, tensors by their first names; `None` for the container and in a model.
    #[serde(serialize_with = "made::serialize")]
    pub made: Option<Construction<String>>,
    /// `None`: they were not decoded, or there are none.
    pub indices: Option<IndexStatistics>,
    /// `None`: it was not held against a model.
    pub fidelity: Option<Distortion>,
}

/// All rows of one part.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Role {
    pub part: String,
    /// Rows of this part.
    pub rows: usize,
    pub weights: usize,
    pub bytes: u64,
    pub bits_per_weight: Option<f64>,
    /// Of the whole file, 0 to 1.
    pub share: f64,
}

impl Row {
    /// A part of the container itself.
    fn container(part: &str, offset: Option<u64>, bytes: u64) -> Row {
        Row {
            part: part.into(),
            layers: Vec::new(),
            tensors: Vec::new(),
            shape: None,
            weights: 0,
            offset,
            bytes,
            bits_per_weight: None,
            codec: None,
            made: None,
            indices: None,
            fidelity: None,
        }
    }
}

impl Inventory {
    /// What a matrix is made of, in a few words: `alone`, `blocks.0.mlp.fc.weight`, `0.62 x blocks.0.mlp.fc.weight + rank 4 + grid`.
    pub fn made_of(&self, matrix: &Use) -> String {
        if matrix.stored_as != matrix.tensor {
            return format!("copy of {}", matrix.stored_as);
        }
        match self.rows[matrix.row].made.as_ref().map(|made| &made.recipe) {
            // That it is exact is a matter of its grid.
            None | Some(Recipe::Exact) => "alone".into(),
            Some(recipe) => recipe.to_string(),
        }
    }
}

/// Every matrix of `specs`, given the stored tensor of each and the row that each stored tensor is in.
fn matrices(specs: &[TensorSpec], source: &[usize], row_of: &[usize]) -> Vec<Use> {
    let mut first: Vec<Option<&str>> = vec![None; row_of.len()];
    let each = specs.iter().zip(source).map(|(spec, stored)| {
        let stored_as = (*first[*stored].get_or_insert(&spec.name)).to_string();
        let (tensor, role) = (spec.name.clone(), spec.role.clone());
        (spec.is_matrix(), Use { tensor, role, layer: spec.layer, stored_as, row: row_of[*stored] })
    });
    each.filter(|(is_matrix, _)| *is_matrix).map(|(_, each)| each).collect()
}

/// The layers in the order in which they run, as the network says; each once where there is none.
fn order(structure: &Structure) -> Vec<usize> {
    match &structure.net {
        Ok(net) => net.order(),
        Err(_) => (0..structure.layers).collect(),
    }
}

/// Sums the rows of equal parts.
fn by_role(rows: &[Row], total: u64) -> Vec<Role> {
    let mut roles: Vec<Role> = Vec::new();
    for row in rows {
        let role = match roles.iter_mut().find(|role| role.part == row.part) {
            Some(role) => role,
            None => {
                roles.push(Role {
                    part: row.part.clone(),
                    rows: 0,
                    weights: 0,
                    bytes: 0,
                    bits_per_weight: None,
                    share: 0.0,
                });
                let last = roles.len() - 1;
                &mut roles[last]
            }
        };
        role.rows += 1;
        role.weights += row.weights;
        role.bytes += row.bytes;
    }
    for role in &mut roles {
        role.bits_per_weight = bits_per_weight(role.bytes, role.weights);
        role.share = role.bytes as f64 / total.max(1) as f64;
    }
    roles
}

/// Holds the rows against the size of the file.
///
/// # Errors
/// Compute: some bytes are in no row or in several, so the table would lie.
fn account(rows: &[Row], total: u64) -> Result<()> {
    let sum: u64 = rows.iter().map(|row| row.bytes).sum();
    let mut at = 0;
    let gap = rows.iter().filter_map(|row| row.offset.map(|offset| (row, offset))).find(|(row, offset)| {
        let gap = *offset != at;
        at = offset + row.bytes;
        gap
    });
    if let Some((row, offset)) = gap {
        return Err(Error::compute(format!("{} begins at byte {offset}, not where the row before it ends", row.part)));
    }
    if sum != total {
        return Err(Error::compute(format!("the rows add up to {sum} bytes, the file has {total}")));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gaps_overlaps_and_missing_bytes_are_found() {
        let rows = |second| vec![Row::container("a", Some(0), 4), Row::container("b", Some(second), 6)];
        assert!(account(&rows(4), 10).is_ok());
        for (second, total) in [(3, 10), (5, 10), (4, 11), (4, 9)] {
            assert!(account(&rows(second), total).is_err(), "{second} {total}");
        }
    }

    #[test]
    fn roles_sum_their_rows() {
        let mut rows = vec![Row::container("a", None, 4), Row::container("b", None, 6), Row::container("a", None, 10)];
        rows[0].weights = 7;
        let roles = by_role(&rows, 20);
        assert_eq!(
            roles.iter().map(|r| (&r.part[..], r.rows, r.bytes)).collect::<Vec<_>>(),
            [("a", 2, 14), ("b", 1, 6)]
        );
        assert_eq!((roles[0].bits_per_weight, roles[1].bits_per_weight, roles[0].share), (Some(16.0), None, 0.7));
    }
}
