//! A matrix as a sum: which terms stand for it. The stream is [`tiepack_format::streams::sum`].

mod encode;

pub use encode::{Coded, Start, Terms, coarser, encode, gain, is_coarse, loss, start};
pub use tiepack_format::streams::sum::{LowRank, MOST, add_up, decode, gain_value, read_start, terms, write};
