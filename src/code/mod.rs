//! Turns one matrix into bytes and back.

pub mod metric;
pub mod trellis;
pub mod viterbi;
