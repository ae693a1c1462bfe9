//! Streams: tensors to bytes (`encode`) and back (`decode`), one folder a codec.

pub mod lossless;
pub mod matrix;
pub mod sum;
pub mod vectors;
