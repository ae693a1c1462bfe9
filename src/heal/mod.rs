//! Healing: trains what a plan keeps, so that the weights make good together for what rounding lost one by one.
//!
//! The original is the teacher, the packed model the student (distillation; QAD, arXiv:2601.20088), on calibration tokens.
//! Matrices are trained through the trellis search itself ([`lattice`]), so that at every moment the model is one that the file
//! can hold; what bits cost is part of the search, and their price is steered so that the file stays at its cap. Text set
//! aside from calibration says which state is the best.

pub mod lattice;
pub mod part;
mod run;
pub mod small;
mod state;
pub mod sum;

pub use run::{Course, Healed, Length, Options, Point, enough, heal};
