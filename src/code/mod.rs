//! Turns one matrix into bytes and back.

pub mod ensemble;
pub mod exponents;
pub mod indices;
mod logarithm;
pub mod lossless;
pub mod matrix;
pub mod metric;
pub mod mixing;
pub mod range;
mod scales;
mod shape;
pub mod steps;
pub mod trellis;
pub mod vectors;
pub mod viterbi;
