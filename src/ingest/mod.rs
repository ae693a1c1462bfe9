//! Reads what a training run leaves behind: weights, configuration, tie map, token shards, tokenizer.
//!
//! Every parser here takes arbitrary bytes and answers with an error that names the file and the figures; none
//! panics and none allocates more than a small multiple of the file. Nothing here knows any architecture: whether the
//! tensors are the right ones is the question of [`crate::model`], which ingest never imports.

mod buffers;
pub mod checkpoint;
pub mod config;
pub mod dtype;
pub mod folder;
mod foreign;
pub mod gather;
mod header;
mod json;
mod names;
pub mod overlap;
mod parts;
mod pickle;
mod quantized;
pub mod remark;
mod settings;
pub mod shard;
mod state;
pub mod ties;
pub mod tokenizer;
pub mod tokens;
mod view;
pub mod weights;

use std::collections::BTreeMap;
use std::path::PathBuf;

pub use config::Config;
pub use dtype::Dtype;
pub use folder::{Located, Overrides};
pub use gather::{Beside, RawTensor, Sizes, Weights};
pub use overlap::Overlap;
pub use remark::Remark;
pub use shard::Shard;
pub use ties::TieMap;
pub use tokenizer::TokenBytes;
pub use tokens::{Reading, TokenStream};

use crate::error::Result;

/// A model as its files give it: parsed, every weight finite, not yet held against an architecture.
#[derive(Debug, Clone)]
pub struct Source {
    /// The weights file, or the index of a sharded one.
    pub path: PathBuf,
    pub config: Config,
    /// Tensors by state-dict name.
    pub tensors: BTreeMap<String, RawTensor>,
    /// Tensors that are no weights, by name.
    pub beside: BTreeMap<String, Beside>,
    /// `None`: no tie map was given or found.
    pub ties: Option<TieMap>,
    /// What reading changed or left out.
    pub remarks: Vec<Remark>,
    pub sizes: Sizes,
}

/// Reads the weights, the configuration and the tie map that [`folder::locate`] found.
///
/// # Errors
/// Whatever is wrong with one of the files, naming it.
pub fn read(located: &Located) -> Result<Source> {
    // The small files first: a mistake there should not wait for gigabytes of weights.
    let config = located.config.as_deref().map_or(Ok(Config::none()), Config::read)?;
    let ties = match &located.ties {
        Some(path) => TieMap::read(path)?,
        None => None,
    };
    let Weights { tensors, beside, remarks, sizes } = weights::read(&located.weights)?;
    Ok(Source { path: located.weights.clone(), config, tensors, beside, ties, remarks, sizes })
}
