//! Chooses the points of the grid that lose least: what only a writer needs.

mod branches;
pub mod metric;
pub mod step_rule;
pub mod viterbi;
