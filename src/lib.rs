//! tiepack compiles a trained, layer-tied transformer into the best model that fits a hard byte cap, and proves it.
//!
//! The stages, in the order the data flows: [`ingest`] reads files, [`model`] checks and deduplicates, [`measure`]
//! finds the curvature of the loss, [`plan`] decides how fine every grid is, [`code`] turns matrices into bytes and
//! back, [`artifact`] is the container, [`verify`] proves the written file. See ARCHITECTURE.md.

pub mod artifact;
pub mod bundle;
pub mod cli;
pub mod code;
pub mod compile;
pub mod diff;
pub mod error;
pub mod escape;
pub mod eval;
pub mod frontier;
pub mod heal;
pub mod ingest;
pub mod inspect;
pub mod measure;
pub mod model;
pub mod nets;
pub mod plan;
pub mod progress;
pub mod report;
pub mod text;
pub mod train;
pub mod unpack;
pub mod verify;
