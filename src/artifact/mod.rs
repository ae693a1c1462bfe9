//! The container: the only thing that knows where the bytes of an artifact lie. Specified in `formats/artifact.md`.
//!
//! It moves streams without looking inside them: what a codec id means, and what its parameters say, is
//! [`crate::code`]'s business.

pub mod construction;
pub mod extra;
pub mod layout;
pub mod names;
pub mod open;
pub mod read;
pub mod root;
pub mod save;
pub mod write;
