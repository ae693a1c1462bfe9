//! Chooses the integers that stand for a tensor, one folder for each kind of stream that has one. The streams
//! themselves are [`tiepack_format::streams`].

pub use tiepack_format::streams::exact as lossless;

pub mod matrix;
pub mod sum;
pub mod vectors;
