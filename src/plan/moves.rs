//! Changes of a scheme that a search tries one by one: a layer, or one branch of it, as a copy of another, or left out.

use serde::{Deserialize, Serialize};

use super::scheme::{Choice, Scheme};
use super::shape::Table;

/// A scheme with a name that a person understands.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Candidate {
    pub name: String,
    pub scheme: Scheme,
}

/// In models of more layers than this only near layers are tried as copies of each other.
const FEW: usize = 12;
/// How near.
const NEAR: usize = 3;
/// Rank of a specialist that is tried first.
pub const RANK: usize = 8;

/// A layer whose matrices are stored under its own name, or a branch of it.
struct Piece {
    layer: usize,
    /// First part of the roles' names, `attn`; `None`: the whole layer.
    branch: Option<String>,
    /// By role.
    matrices: Vec<Option<usize>>,
}

impl Piece {
    fn name(&self) -> String {
        match &self.branch {
            Some(branch) => format!("layer {} {branch}", self.layer),
            None => format!("layer {}", self.layer),
        }
    }
}

fn branch_of(role: &str) -> &str {
    role.split('.').next().unwrap_or(role)
}

/// Whole layers first, then branches.
fn pieces(table: &Table) -> Vec<Piece> {
    let mut seen = std::collections::BTreeSet::new();
    let mut layers = Vec::new();
    for layer in 0..table.layers.len() {
        let own = |stored: &Option<usize>| stored.filter(|stored| seen.insert(*stored));
        let matrices: Vec<Option<usize>> = table.layers[layer].iter().map(own).collect();
        if matrices.iter().any(Option::is_some) {
            layers.push(Piece { layer, branch: None, matrices });
        }
    }
    let mut names: Vec<&str> = table.roles.iter().map(|role| branch_of(role)).collect();
    names.dedup();
    let mut branches = Vec::new();
    for branch in names.iter().filter(|_| names.len() > 1) {
        for piece in &layers {
            let keep = |(role, stored): (&String, &Option<usize>)| stored.filter(|_| branch_of(role) == *branch);
            let matrices: Vec<Option<usize>> = table.roles.iter().zip(&piece.matrices).map(keep).collect();
            if matrices.iter().any(Option::is_some) {
                branches.push(Piece { layer: piece.layer, branch: Some((*branch).to_string()), matrices });
            }
        }
    }
    layers.into_iter().chain(branches).collect()
}

/// Every single change of `scheme`. The first list is worth looking at always: copies of the layer before, and what is left
/// out; the second only where something of the first came near to being worth it.
pub fn moves(table: &Table, scheme: &Scheme) -> (Vec<Candidate>, Vec<Candidate>) {
    let pieces = pieces(table);
    let (mut near, mut far) = (Vec::new(), Vec::new());
    let owners = pieces.iter().filter(|piece| piece.branch.is_none()).count();
    for (at, piece) in pieces.iter().enumerate() {
        let gone: Vec<usize> =
            piece.matrices.iter().flatten().copied().filter(|m| scheme.choice(*m) != Choice::Zero).collect();
        if let Some(without) = scheme.without(&gone).filter(|_| !gone.is_empty()) {
            near.push(Candidate { name: format!("without {}", piece.name()), scheme: without });
        }
        let others = pieces[..at].iter().filter(|other| other.branch == piece.branch);
        for (distance, other) in others.rev().enumerate() {
            if owners > FEW && distance >= NEAR {
                break;
            }
            let pairs = piece.matrices.iter().zip(&other.matrices);
            let pairs: Vec<(usize, usize)> = pairs.filter_map(|(a, b)| Some(((*a)?, (*b)?))).collect();
            let live = |m: usize| scheme.choice(scheme.leader(m)) != Choice::Zero;
            if pairs.is_empty() || !pairs.iter().all(|(a, b)| live(*a) && live(*b)) {
                continue;
            }
            let tied = pairs.iter().fold(scheme.clone(), |s, (a, b)| s.tied(*a, *b, 0));
            if tied != *scheme {
                let candidate = Candidate { name: format!("{} as {}", piece.name(), other.layer), scheme: tied };
                if distance == 0 { near.push(candidate) } else { far.push(candidate) }
            }
        }
    }
    (near, far)
}

/// The same ties with a low-rank term for every copy that `base` has not.
pub fn specialised(candidate: &Candidate, base: &Scheme, table: &Table, rank: usize) -> Option<Candidate> {
    let mut scheme = candidate.scheme.clone();
    let matrices = table.layers.iter().flatten().flatten();
    for m in matrices.filter(|m| candidate.scheme.choice(**m) != base.choice(**m)) {
        if let Choice::Sum { from: Some(from), unit, residual: false, .. } = scheme.choice(*m) {
            scheme = scheme.with(*m, Choice::Sum { from: Some(from), unit, rank, residual: false });
        }
    }
    let name = format!("{}, rank {rank}", candidate.name);
    (scheme != candidate.scheme).then_some(Candidate { name, scheme })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_change_once() {
        let roles = ["attn.q", "attn.v", "mlp.fc"].map(String::from).to_vec();
        // Layer 2 is layer 0 by declaration.
        let layers =
            vec![vec![Some(0), Some(1), Some(2)], vec![Some(3), Some(4), Some(5)], vec![Some(0), Some(1), Some(2)]];
        let table = Table { layers, roles };
        let names = |scheme: &Scheme| {
            let (near, far) = moves(&table, scheme);
            near.into_iter().chain(far).map(|c| c.name).collect::<Vec<_>>().join("; ")
        };
        assert_eq!(
            names(&Scheme::default()),
            "without layer 0; without layer 1; layer 1 as 0; without layer 0 attn; without layer 1 attn; layer 1 attn as 0; \
             without layer 0 mlp; without layer 1 mlp; layer 1 mlp as 0"
        );
        let (near, _) = moves(&table, &Scheme::default());
        let tie = near.iter().find(|c| c.name == "layer 1 attn as 0").unwrap();
        assert_eq!([3, 4, 5].map(|m| tie.scheme.leader(m)), [0, 1, 5]);
        let special = specialised(tie, &Scheme::default(), &table, 8).unwrap();
        assert_eq!(special.name, "layer 1 attn as 0, rank 8");
        // What is tied is not tied again; what others start from stays.
        assert_eq!(
            names(&tie.scheme),
            "without layer 1; layer 1 as 0; without layer 1 attn; without layer 0 mlp; without layer 1 mlp; layer 1 mlp as 0"
        );
    }
}
