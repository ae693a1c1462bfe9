//! One quantized matrix as a stream: how fine its grid is, then the indices on it (codec 1).
//!
//! | bytes | what |
//! |---|---|
//! | 1 | trellis: log2 of the states, plus 16 if grid 1 is odd multiples without zero |
//! | 2 | base step exponent, signed little-endian, 64ths of an octave |
//! | varint | length of the next part |
//! | … | row and column exponents ([`crate::entropy::exponents`]) |
//! | rest | indices ([`crate::entropy::indices`]) |

mod head;
mod read;
mod write;

pub use head::{GridHeader, Indices, grid_header, indices, integers};
pub use read::decode;
pub use write::{layout, write};

/// Bit of the first byte that says that grid 1 is odd multiples without zero.
const PLAIN: u8 = 16;
