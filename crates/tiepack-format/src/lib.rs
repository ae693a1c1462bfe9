//! Reads tiepack artifacts: from the bytes of one to its header and its tensors, every hash checked.
//!
//! ```
//! let bytes = std::fs::read("../../fixtures/golden/v1-beside.tiepack")?;
//! let artifact = tiepack_format::decode(&bytes)?;
//! for name in artifact.names() {
//!     let (shape, values) = artifact.tensor(name).unwrap();
//!     println!("{name} {shape:?}: {} weights", values.len());
//! }
//! for (kept, bytes) in artifact.kept_tensors() {
//!     println!("{} {:?}: {} bytes of {}", kept.name, kept.shape, bytes.len(), kept.element_name());
//! }
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! Names are those of the file that was packed; tied ones, and several names of one tensor, share its values. Weights are f32,
//! whatever they were. Integers, booleans and tables are kept bit for bit and stand apart. The names that a network gives its
//! tensors are in [`Header::names`].
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

pub use container::extra::KeptEntry;
pub use container::{Header, Named, Parsed, StreamEntry, parse};
pub use decode::{Artifact, decode, decode_within};
pub use error::{Error, Result};
pub use limits::Limits;
pub use tensor::{Dtype, Form};
