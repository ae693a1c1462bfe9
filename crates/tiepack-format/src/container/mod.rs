//! The container: where the bytes of an artifact lie. Specified in `formats/artifact.md`.
//!
//! It moves streams without looking inside them: what they hold is the business of [`crate::streams`].

pub mod extra;
pub mod header;
pub mod names;
pub mod read;
pub mod root;
#[cfg(feature = "write")]
pub mod write;

pub use header::{Header, StreamEntry, codec};
pub use names::{Named, split_layer};
pub use read::{Parsed, parse, parse_within};

/// First bytes of every artifact; the last one is the version of the format.
pub const MAGIC: [u8; 4] = *b"TPK1";
/// Bytes of the root at the end, before the checksum.
pub const ROOT_BYTES: usize = 32;
/// Bytes of the checksum, the last of the file.
pub const CHECK_BYTES: usize = 8;

/// The first 8 bytes of the blake3 hash of everything before them.
fn checksum(bytes: &[u8]) -> [u8; CHECK_BYTES] {
    let mut hasher = blake3::Hasher::new();
    #[cfg(feature = "parallel")]
    hasher.update_rayon(bytes);
    #[cfg(not(feature = "parallel"))]
    hasher.update(bytes);
    let mut short = [0; CHECK_BYTES];
    short.copy_from_slice(&hasher.finalize().as_bytes()[..CHECK_BYTES]);
    short
}
