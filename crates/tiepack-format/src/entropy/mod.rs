//! Entropy coding: a binary range coder and the models that say how likely each bit is.
//!
//! A model is written once and serves both directions; what only a writer needs (`range::Encoder`, `indices::encode`,
//! `indices::prices`) stands in files of its own. Integers only.

pub mod ensemble;
pub mod exponents;
pub mod indices;
pub mod logarithm;
pub mod mixing;
pub mod range;
