//! Reads tiepack artifacts: from the bytes of one to its header and its tensors, every hash checked.
//!
//! ```
//! let bytes = std::fs::read("../../fixtures/golden/v1-quantized.tiepack")?;
//! let artifact = tiepack_format::decode(&bytes)?;
//! for named in &artifact.header().names {
//!     println!("{} {:?}", named.name, named.shape);
//! }
//! let (shape, values) = artifact.tensor("tok_emb.weight").unwrap();
//! assert_eq!(shape.iter().product::<usize>(), values.len());
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! The bytes may be anything: they give tensors that hash to the root in the file, or an [`Error`]. A stream or a part of
//! the header is read by the modules below; `formats/artifact.md` in the repository specifies every byte.
//!
//! Features: `parallel` decodes on all processors, `write` makes artifacts as well. Without them there is no C in the
//! crate, and it runs wherever Rust's standard library does.

#![forbid(unsafe_code)]

pub mod container;
pub mod decode;
pub mod entropy;
pub mod error;
pub mod grid;
pub mod limits;
mod parallel;
pub mod streams;
pub mod tensor;
pub mod varint;

pub use container::{Header, Named, Parsed, StreamEntry, parse};
pub use decode::{Artifact, decode, decode_within};
pub use error::{Error, Result};
pub use limits::Limits;
pub use tensor::{Dtype, Form};
