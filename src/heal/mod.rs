//! Healing: trains the parameters that a plan keeps, so that the weights compensate together for the errors of rounding each alone.
//!
//! The original is the teacher, the packed model the student (distillation; QAD, arXiv:2601.20088), on calibration tokens.
//! Columns of all matrices are frozen on their grids in groups, and between two groups the free columns are trained to
//! compensate for the rounding error of the frozen ones ([`freeze`]). The search for grid points counts bits at a price, which is
//! steered so that the file stays at its cap. Text set aside from calibration says whether that helped.

mod course;
mod eigenbasis;
pub mod freeze;
mod param;
mod run;
pub mod small;
pub mod state;
mod student;
pub mod sum;
mod text;
pub mod trainable;

pub use course::{Course, Length, Point};
pub use run::{Healed, Options, Packed, heal};
pub use text::{Pace, enough};
