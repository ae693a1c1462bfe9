//! Changes of a scheme that a search tries one by one: a layer, or one branch of it, as a copy of another, or left out.

use std::fmt::{self, Display, Formatter};

use serde::{Deserialize, Serialize};

use super::scheme::{Choice, Scheme};
use super::shape::{Shape, Table};

/// A scheme, and the change that leads to it from the one before.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Candidate {
    pub change: Move,
    pub scheme: Scheme,
}

/// A change of a scheme.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Move {
    /// None: where a search starts.
    Declared,
    /// No matrix starts from another one.
    Apart,
    /// All of it becomes a fixed shape.
    Shape(Shape),
    /// A piece goes.
    Without(Piece),
    /// A piece becomes the copy of the same piece of layer `of`, each matrix with a low-rank term of this rank; 0: with none.
    Copy { piece: Piece, of: usize, rank: usize },
}

/// A layer, or one branch of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Piece {
    pub layer: usize,
    /// First part of its roles' names, `attn`; `None`: the whole layer.
    pub branch: Option<String>,
}

impl Move {
    /// Whether both make copies of the same piece; every other move is like itself only.
    pub fn is_like(&self, other: &Move) -> bool {
        match (self, other) {
            (Move::Copy { piece: a, .. }, Move::Copy { piece: b, .. }) => a == b,
            _ => self == other,
        }
    }
}

/// `layer 3`, `layer 3 attn`.
impl Display for Piece {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match &self.branch {
            Some(branch) => write!(f, "layer {} {branch}", self.layer),
            None => write!(f, "layer {}", self.layer),
        }
    }
}

/// `without layer 3`, `layer 3 attn as 1, rank 8`.
impl Display for Move {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Move::Declared => f.write_str("declared"),
            Move::Apart => f.write_str("every matrix by itself"),
            Move::Shape(shape) => shape.fmt(f),
            Move::Without(piece) => write!(f, "without {piece}"),
            Move::Copy { piece, of, rank: 0 } => write!(f, "{piece} as {of}"),
            Move::Copy { piece, of, rank } => write!(f, "{piece} as {of}, rank {rank}"),
        }
    }
}

/// In models of more layers than this only near layers are tried as copies of each other.
const FEW: usize = 12;
/// How near.
const NEAR: usize = 3;
/// Rank of a specialist that is tried first.
pub const RANK: usize = 8;

/// A piece and the matrices that are stored under its own name.
struct Owner {
    piece: Piece,
    /// By role.
    matrices: Vec<Option<usize>>,
}

fn branch_of(role: &str) -> &str {
    role.split('.').next().unwrap_or(role)
}

/// Whole layers first, then branches.
fn owners(table: &Table) -> Vec<Owner> {
    let mut seen = std::collections::BTreeSet::new();
    let mut layers = Vec::new();
    for layer in 0..table.layers.len() {
        let own = |stored: &Option<usize>| stored.filter(|stored| seen.insert(*stored));
        let matrices: Vec<Option<usize>> = table.layers[layer].iter().map(own).collect();
        if matrices.iter().any(Option::is_some) {
            layers.push(Owner { piece: Piece { layer, branch: None }, matrices });
        }
    }
    let mut names: Vec<&str> = table.roles.iter().map(|role| branch_of(role)).collect();
    names.dedup();
    let mut branches = Vec::new();
    for branch in names.iter().filter(|_| names.len() > 1) {
        for Owner { piece, matrices } in &layers {
            let keep = |(role, stored): (&String, &Option<usize>)| stored.filter(|_| branch_of(role) == *branch);
            let matrices: Vec<Option<usize>> = table.roles.iter().zip(matrices).map(keep).collect();
            if matrices.iter().any(Option::is_some) {
                let piece = Piece { layer: piece.layer, branch: Some((*branch).to_string()) };
                branches.push(Owner { piece, matrices });
            }
        }
    }
    layers.into_iter().chain(branches).collect()
}

/// Every single change of `scheme`. The first list is always probed: copies of the layer before, and pieces left
/// out; the second only where a change of the first nearly pays.
pub fn moves(table: &Table, scheme: &Scheme) -> (Vec<Candidate>, Vec<Candidate>) {
    let pieces = owners(table);
    let (mut near, mut far) = (Vec::new(), Vec::new());
    let layers = pieces.iter().filter(|owner| owner.piece.branch.is_none()).count();
    for (at, Owner { piece, matrices }) in pieces.iter().enumerate() {
        let gone: Vec<usize> = matrices.iter().flatten().copied().filter(|m| !scheme.choice(*m).is_zero()).collect();
        if let Some(without) = scheme.without(&gone).filter(|_| !gone.is_empty()) {
            near.push(Candidate { change: Move::Without(piece.clone()), scheme: without });
        }
        let others = pieces[..at].iter().filter(|other| other.piece.branch == piece.branch);
        for (distance, other) in others.rev().enumerate() {
            if layers > FEW && distance >= NEAR {
                break;
            }
            let pairs = matrices.iter().zip(&other.matrices);
            let pairs: Vec<(usize, usize)> = pairs.filter_map(|(a, b)| Some(((*a)?, (*b)?))).collect();
            let live = |m: usize| !scheme.choice(scheme.representative(m)).is_zero();
            if pairs.is_empty() || !pairs.iter().all(|(a, b)| live(*a) && live(*b)) {
                continue;
            }
            let tied = pairs.iter().fold(scheme.clone(), |s, (a, b)| s.tied(*a, *b, 0));
            if tied != *scheme {
                let change = Move::Copy { piece: piece.clone(), of: other.piece.layer, rank: 0 };
                let candidate = Candidate { change, scheme: tied };
                if distance == 0 { near.push(candidate) } else { far.push(candidate) }
            }
        }
    }
    (near, far)
}

/// A copy with a low-rank term for every matrix that is one in `candidate` and was none in `base`.
pub fn specialised(candidate: &Candidate, base: &Scheme, table: &Table, rank: usize) -> Option<Candidate> {
    let Move::Copy { piece, of, .. } = &candidate.change else { return None };
    let mut scheme = candidate.scheme.clone();
    let matrices = table.layers.iter().flatten().flatten();
    for m in matrices.filter(|m| candidate.scheme.choice(**m) != base.choice(**m)) {
        let choice = scheme.choice(*m);
        if choice.copy_of().is_some() {
            scheme = scheme.with(*m, Choice { rank, ..choice });
        }
    }
    let change = Move::Copy { piece: piece.clone(), of: *of, rank };
    (scheme != candidate.scheme).then_some(Candidate { change, scheme })
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
            near.into_iter().chain(far).map(|c| c.change.to_string()).collect::<Vec<_>>().join("; ")
        };
        assert_eq!(
            names(&Scheme::default()),
            "without layer 0; without layer 1; layer 1 as 0; without layer 0 attn; without layer 1 attn; layer 1 attn as 0; \
             without layer 0 mlp; without layer 1 mlp; layer 1 mlp as 0"
        );
        let (near, _) = moves(&table, &Scheme::default());
        let tie = near.iter().find(|c| c.change.to_string() == "layer 1 attn as 0").unwrap();
        assert_eq!([3, 4, 5].map(|m| tie.scheme.representative(m)), [0, 1, 5]);
        let special = specialised(tie, &Scheme::default(), &table, 8).unwrap();
        assert_eq!(special.change.to_string(), "layer 1 attn as 0, rank 8");
        // What is tied is not tied again; what others start from stays.
        assert_eq!(
            names(&tie.scheme),
            "without layer 1; layer 1 as 0; without layer 1 attn; without layer 0 mlp; without layer 1 mlp; layer 1 mlp as 0"
        );
    }
}
