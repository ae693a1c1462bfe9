//! Healing: trains what a plan keeps, so that the weights make good together for what rounding lost one by one.
//!
//! The original is the teacher, the packed model the student (distillation; QAD, arXiv:2601.20088), on calibration tokens.
//! Columns of all matrices are bound to their grids in groups, and between two groups what is still loose is trained to make
//! good for what the bound ones could not say ([`freeze`]); what bits cost is part of the search, and their price is steered so
//! that the file stays at its cap. Text set aside from calibration says whether that helped.

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
