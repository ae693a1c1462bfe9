//! Streams: what the bytes of one hold, one folder a kind. `read` and `write` turn integers into bits and back; which
//! integers stand for a tensor is the writer's choice, made elsewhere.

pub mod exact;
pub mod matrix;
pub mod sum;
pub mod vectors;
