//! A scheme: the recipe of each matrix, without step sizes. It is the part of a plan that a search over ties decides.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::recipe::{AnyGrid, Prediction, Terms};

/// The recipe of a matrix: other matrices by their numbers, and a grid that coding chooses.
pub type Choice = Terms<usize, AnyGrid>;

/// Stored by itself.
pub const ALONE: Choice = Terms::alone(AnyGrid);

/// A copy of `from` with a low-rank term of this rank: its gain is the best by least squares.
pub fn copy(from: usize, rank: usize) -> Choice {
    Terms { prediction: Some(Prediction { from, gain: None }), rank, residual: None }
}

/// The recipes of all matrices that are not simply stored alone. Matrices have numbers, and start from lower ones only, so
/// there are no cycles.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Scheme {
    choices: BTreeMap<usize, Choice>,
    /// Matrices that stand for others as well: the mean of these, weighted by curvature, is coded in their place.
    mean_of: BTreeMap<usize, Vec<usize>>,
}

impl Scheme {
    pub fn choice(&self, matrix: usize) -> Choice {
        self.choices.get(&matrix).copied().unwrap_or(ALONE)
    }

    /// Whose mean is coded as this matrix; empty: it is coded as itself.
    pub fn mean_of(&self, matrix: usize) -> &[usize] {
        self.mean_of.get(&matrix).map_or(&[], |of| of)
    }

    pub fn from(&self, matrix: usize) -> Option<usize> {
        self.choice(matrix).from().copied()
    }

    /// # Panics
    /// A matrix would start from one that is not before it.
    #[must_use]
    pub fn with(mut self, matrix: usize, choice: Choice) -> Self {
        if let Some(from) = choice.from() {
            assert!(*from < matrix, "{matrix} cannot start from {from}");
        }
        if choice.is_alone() {
            self.choices.remove(&matrix);
        } else {
            self.choices.insert(matrix, choice);
        }
        self
    }

    #[must_use]
    pub fn with_mean(mut self, matrix: usize, of: Vec<usize>) -> Self {
        if of.is_empty() || of == [matrix] {
            self.mean_of.remove(&matrix);
        } else {
            self.mean_of.insert(matrix, of);
        }
        self
    }

    /// Whether every matrix is stored by itself.
    pub fn is_plain(&self) -> bool {
        self.choices.is_empty() && self.mean_of.is_empty()
    }

    /// The matrix that a tied one is a copy of, itself where it is none. A copy may have a low-rank term but no residual.
    pub fn representative(&self, matrix: usize) -> usize {
        self.choice(matrix).copy_of().map_or(matrix, |of| self.representative(*of))
    }

    /// Matrices that start from this one, directly or not, and itself.
    pub fn dependents(&self, matrix: usize) -> BTreeSet<usize> {
        let mut all = BTreeSet::from([matrix]);
        // In rising order whatever a matrix starts from has been seen.
        for (m, choice) in &self.choices {
            if choice.from().is_some_and(|from| all.contains(from)) {
                all.insert(*m);
            }
        }
        all
    }

    /// Copies of this matrix, and copies of those: what has no residual of its own.
    pub fn copies(&self, matrix: usize) -> Vec<usize> {
        let mut all = vec![matrix];
        for (m, choice) in &self.choices {
            if choice.copy_of().is_some_and(|of| all.contains(of)) {
                all.push(*m);
            }
        }
        all.split_off(1)
    }

    /// The first of all that this one starts from.
    pub fn root(&self, matrix: usize) -> usize {
        self.from(matrix).map_or(matrix, |from| self.root(from))
    }

    /// Ties the groups of two matrices: all become copies of the first, which is coded as the mean of them all.
    #[must_use]
    pub fn tied(&self, a: usize, b: usize, rank: usize) -> Self {
        let (one, other) = (self.representative(a), self.representative(b));
        let (first, last) = (one.min(other), one.max(other));
        if first == last {
            return self.clone();
        }
        let group = |representative: usize| -> Vec<usize> {
            self.dependents(representative).into_iter().filter(|m| self.representative(*m) == representative).collect()
        };
        let joined = group(last);
        let mut members: Vec<usize> = group(first).into_iter().chain(joined.iter().copied()).collect();
        members.sort_unstable();
        let mut scheme = self.clone();
        for m in joined {
            let rank = scheme.choice(m).rank.max(rank);
            scheme = scheme.with(m, copy(first, rank));
            scheme.mean_of.remove(&m);
        }
        if scheme.choice(first).is_zero() {
            scheme = scheme.with(first, ALONE);
        }
        scheme.with_mean(first, members)
    }

    /// Leaves matrices out. `None` when others start from one of them.
    pub fn without(&self, matrices: &[usize]) -> Option<Self> {
        let mut scheme = self.clone();
        for m in matrices {
            if self.dependents(*m).iter().any(|d| !matrices.contains(d)) {
                return None;
            }
            // One that was tied no longer counts in the mean.
            let representative = self.representative(*m);
            let left: Vec<usize> = scheme.mean_of(representative).iter().copied().filter(|k| k != m).collect();
            scheme = scheme.with(*m, Choice::ZERO).with_mean(representative, left);
            scheme.mean_of.remove(m);
        }
        Some(scheme)
    }

    /// The scheme in a few bytes: equal schemes have equal text.
    pub fn text(&self) -> String {
        serde_json::to_string(self).unwrap_or_default()
    }

    /// blake3 of [`Scheme::text`], shortened.
    pub fn digest(&self) -> String {
        blake3::hash(self.text().as_bytes()).to_hex()[..16].to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ties_join_whole_groups() {
        let scheme = Scheme::default().tied(3, 5, 0).tied(5, 1, 4);
        assert_eq!([1, 3, 5].map(|m| scheme.representative(m)), [1, 1, 1]);
        assert_eq!(scheme.mean_of(1), [1, 3, 5]);
        assert_eq!(scheme.choice(3), copy(1, 4));
        assert_eq!(scheme.dependents(1), BTreeSet::from([1, 3, 5]));
        assert!(scheme.without(&[1]).is_none());
        let less = scheme.without(&[5]).unwrap();
        assert_eq!((less.choice(5), less.mean_of(1)), (Choice::ZERO, &[1, 3][..]));
        assert_eq!(scheme.tied(3, 1, 0), scheme);
        assert_eq!(serde_json::from_str::<Scheme>(&scheme.text()).unwrap(), scheme);
    }
}
