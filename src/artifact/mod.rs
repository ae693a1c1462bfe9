//! Artifacts as files that hold a model. What lies where in them, and how their streams decode, is `tiepack_format`.

pub use tiepack_format::container::{extra, header as layout, names, read, root, write};

pub mod construction;
pub mod kept;
pub mod open;
