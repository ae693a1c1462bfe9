//! One quantized matrix as a stream: how fine its grid is, then the indices on it (codec 1).
//!
//! | bytes | what |
//! |---|---|
//! | 1 | trellis: log2 of the states, plus 16 if grid 1 is odd multiples without zero |
//! | 2 | base step exponent, signed little-endian, 64ths of an octave |
//! | varint | length of the next part |
//! | … | row and column exponents ([`crate::code::entropy::exponents`]) |
//! | rest | indices ([`crate::code::entropy::indices`]) |

mod decode;
mod encode;
mod head;

pub use decode::decode;
pub use encode::{Coded, Settings, encode, learn, price_step, search, settled, write};
pub use head::{Head, Indices, head, indices, integers};

/// Bit of the first byte that says that grid 1 is odd multiples without zero.
const PLAIN: u8 = 16;
