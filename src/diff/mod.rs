//! Two files side by side: bytes, structure, weights.
//!
//! Each side is an artifact or a model. What can be told from headers and from streams that are the same byte for byte is
//! told without decoding.

mod side;
mod weights;

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;
use serde_json::Value;

pub use side::Side;
pub use weights::{Changed, Reshaped, Weights};

use crate::error::Result;
use crate::inspect::groups::{By, key};
use crate::inspect::{Inventory, InventoryKind};

/// The differences of two files.
#[derive(Debug, Serialize)]
pub struct Difference {
    pub before: About,
    pub after: About,
    /// Anything below differs.
    pub different: bool,
    /// What the groups have in common.
    pub by: By,
    /// Bytes by that, the largest change first; the groups that did not change are left out.
    pub bytes: Vec<Bytes>,
    /// Groups of the same size in both.
    pub unchanged: usize,
    /// Keys of the configuration, those that differ.
    pub config: Vec<Setting>,
    /// Matrices that are made of something else than before.
    pub structure: Vec<Made>,
    /// Matrices on finer or coarser grids, the largest change first.
    pub steps: Vec<Step>,
    pub weights: Weights,
}

/// One of the two.
#[derive(Debug, Serialize)]
pub struct About {
    pub path: String,
    /// `None`: there is nothing.
    pub kind: Option<InventoryKind>,
    pub arch: Option<String>,
    pub layers: usize,
    /// For every layer the first layer that shares all its tied roles.
    pub copies: Vec<usize>,
    /// Weights of all distinct tensors.
    pub stored: usize,
    /// Those of them in matrices and embeddings: what a verdict counts.
    pub weights: usize,
    pub bytes: u64,
    /// All bytes over `weights`, as in a verdict; `None`: there are none.
    pub bits_per_weight: Option<f64>,
}

/// The bytes of a group in both.
#[derive(Debug, Serialize)]
pub struct Bytes {
    pub key: String,
    pub before: u64,
    pub after: u64,
    /// After less before.
    pub change: i64,
}

/// A key of the configuration; `None`: it is not there.
#[derive(Debug, Serialize)]
pub struct Setting {
    pub key: String,
    pub before: Option<Value>,
    pub after: Option<Value>,
}

/// The recipe of a matrix in words; `None`: there is no such matrix.
#[derive(Debug, Serialize)]
pub struct Made {
    pub tensor: String,
    pub before: Option<String>,
    pub after: Option<String>,
}

/// log2 of the step of a matrix's grid, that of a weight of neutral scales.
#[derive(Debug, Serialize)]
pub struct Step {
    pub tensor: String,
    pub before: f64,
    pub after: f64,
}

/// Compares two files; `decode`: also weights that only decoding shows.
///
/// # Errors
/// Verification, when a stream is damaged in a way that shows.
pub fn diff(before: &Side, after: &Side, by: By, decode: bool) -> Result<Difference> {
    let (bytes, unchanged) = bytes(before.inventory(), after.inventory(), by);
    let config = settings(before, after);
    let structure = structure(before.inventory(), after.inventory());
    let steps = steps(before.inventory(), after.inventory());
    let weights = weights::compare(before, after, decode)?;
    // The same weights may stand in files of two kinds.
    let models = before.is_model() && after.is_model();
    let stored_alike = if models { types(before.inventory()) == types(after.inventory()) } else { bytes.is_empty() };
    let different = !stored_alike
        || !config.is_empty()
        || !structure.is_empty()
        || !steps.is_empty()
        || weights.compared != weights.identical
        || !weights.no_weights.is_empty()
        || !weights.only_before.is_empty()
        || !weights.only_after.is_empty()
        || !weights.reshaped.is_empty();
    let (before, after) = (before.about(), after.about());
    Ok(Difference { before, after, different, by, bytes, unchanged, config, structure, steps, weights })
}

/// The element type of each tensor of a model.
fn types(inventory: Option<&Inventory>) -> BTreeMap<&str, Option<&str>> {
    let rows = inventory.into_iter().flat_map(|inventory| &inventory.rows);
    rows.flat_map(|row| row.tensors.iter().map(|tensor| (&tensor[..], row.codec.as_deref()))).collect()
}

/// The groups whose sizes differ, and how many have the same.
fn bytes(before: Option<&Inventory>, after: Option<&Inventory>, by: By) -> (Vec<Bytes>, usize) {
    let mut groups: Vec<Bytes> = Vec::new();
    let mut index: BTreeMap<String, usize> = BTreeMap::new();
    let sides = [before, after].into_iter().enumerate();
    let rows = sides.flat_map(|(side, inventory)| {
        inventory.into_iter().flat_map(move |i| i.rows.iter().map(move |row| (side, row)))
    });
    for (side, row) in rows {
        let at = *index.entry(key(row, by)).or_insert_with_key(|key| {
            groups.push(Bytes { key: key.clone(), before: 0, after: 0, change: 0 });
            groups.len() - 1
        });
        if side == 0 { groups[at].before += row.bytes } else { groups[at].after += row.bytes }
    }
    let all = groups.len();
    for group in &mut groups {
        group.change = group.after as i64 - group.before as i64;
    }
    groups.retain(|group| group.change != 0);
    groups.sort_by_key(|group| std::cmp::Reverse(group.change.unsigned_abs()));
    let unchanged = all - groups.len();
    (groups, unchanged)
}

fn settings(before: &Side, after: &Side) -> Vec<Setting> {
    let (a, b) = (before.settings(), after.settings());
    let keys: BTreeSet<&String> = a.keys().chain(b.keys()).collect();
    let setting = |key: &String| Setting { key: key.clone(), before: a.get(key).cloned(), after: b.get(key).cloned() };
    keys.into_iter().map(setting).filter(|setting| setting.before != setting.after).collect()
}

fn structure(before: Option<&Inventory>, after: Option<&Inventory>) -> Vec<Made> {
    let made = |inventory: Option<&Inventory>| -> BTreeMap<String, String> {
        let matrices = inventory.into_iter().flat_map(|i| i.matrices.iter().map(move |m| (i, m)));
        matrices.map(|(i, m)| (m.tensor.clone(), i.made_of(m))).collect()
    };
    let (a, b) = (made(before), made(after));
    // In the order of the architecture that is, then of what was.
    let names = [after, before].into_iter().flatten().flat_map(|i| i.matrices.iter().map(|m| &m.tensor));
    let mut seen = BTreeSet::new();
    names
        .filter(|name| seen.insert(*name))
        .map(|name| Made { tensor: name.clone(), before: a.get(name).cloned(), after: b.get(name).cloned() })
        .filter(|made| made.before != made.after)
        .collect()
}

fn steps(before: Option<&Inventory>, after: Option<&Inventory>) -> Vec<Step> {
    let of = |inventory: Option<&Inventory>| -> BTreeMap<String, f64> {
        let rows = inventory.into_iter().flat_map(|i| &i.rows);
        let step = |row: &crate::inspect::Row| {
            Some((row.tensors.first()?.clone(), row.made.as_ref().and_then(|made| made.log2_step)?))
        };
        rows.filter_map(step).collect()
    };
    let (a, b) = (of(before), of(after));
    let step = |(tensor, before): (&String, &f64)| {
        b.get(tensor).map(|after| Step { tensor: tensor.clone(), before: *before, after: *after })
    };
    let mut steps: Vec<Step> = a.iter().filter_map(step).filter(|step| step.before != step.after).collect();
    steps.sort_by(|x, y| (y.after - y.before).abs().total_cmp(&(x.after - x.before).abs()));
    steps
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    const GOLDEN: &str = "fixtures/golden";

    fn side(name: &str) -> Side {
        Side::artifact(&Path::new(GOLDEN).join(name)).unwrap()
    }

    #[test]
    fn a_file_is_itself_and_nothing_is_nothing() {
        for name in ["v1-quantized.tiepack", "v1-lossless.tiepack", "v1-foreign.tiepack"] {
            let same = diff(&side(name), &side(name), By::Stream, false).unwrap();
            assert!(!same.different && same.weights.compared == same.weights.identical, "{name}: {same:?}");
            assert!(same.weights.compared > 0, "{name}");
            let gone = diff(&side(name), &Side::nothing(Path::new("none")), By::Role, false).unwrap();
            let lost: i64 = gone.bytes.iter().map(|group| group.change).sum();
            assert_eq!((gone.different, lost), (true, -(gone.before.bytes as i64)), "{name}");
        }
    }

    #[test]
    fn changes_add_up_whatever_the_groups() {
        let (a, b) = (side("v1-quantized.tiepack"), side("v1-lossless.tiepack"));
        for by in [By::Stream, By::Layer, By::Role, By::Kind] {
            let found = diff(&a, &b, by, true).unwrap();
            let change: i64 = found.bytes.iter().map(|group| group.change).sum();
            assert_eq!(change, found.after.bytes as i64 - found.before.bytes as i64, "{by:?}");
            assert_eq!(found.weights.undecided, 0);
        }
    }
}
