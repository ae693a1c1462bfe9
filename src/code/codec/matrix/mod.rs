//! One quantized matrix: which points of its grid stand for it. The stream is [`tiepack_format::streams::matrix`].

mod encode;

pub use encode::{Coded, Settings, encode, learn, price_step, search, settled};
pub use tiepack_format::streams::matrix::*;
