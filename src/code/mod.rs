//! Turns tensors into bytes and back, in four rooms: [`grid`] and [`entropy`] serve both directions, [`quantize`] only the
//! writer, and in [`codec`] the two directions stand side by side. ARCHITECTURE.md says which files a decoder needs.

pub mod codec;
pub mod entropy;
pub mod grid;
pub mod quantize;
