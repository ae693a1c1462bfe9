//! One quantized matrix: which points of its grid stand for it. The stream is [`tiepack_format::streams::matrix`].

mod encode;

pub use encode::{CodedMatrix, Settings, converged, encode, learn, price_step, search};
pub use tiepack_format::streams::matrix::*;
