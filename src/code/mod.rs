//! Turns tensors into bytes: [`quantize`] finds the points of a grid that lose least, [`codec`] what stands for each tensor.
//! Grids, entropy coder and streams, which a reader needs as well, are the crate `tiepack_format`.

pub use tiepack_format::{entropy, grid};

pub mod codec;
pub mod quantize;
