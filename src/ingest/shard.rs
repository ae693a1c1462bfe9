//! The tokens of one file, of any kind that [`tokens`](super::tokens) knows.

use std::path::{Path, PathBuf};

use super::tokens::{Reading, TokenStream};
use crate::error::Result;

/// The tokens of one file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shard {
    pub path: PathBuf,
    pub tokens: Vec<u32>,
}

impl Shard {
    /// Reads the tokens of a file for a model that knows ids below `vocab`.
    ///
    /// # Errors
    /// As [`TokenStream::open`] and [`TokenStream::read`].
    pub fn read(path: &Path, reading: &Reading, vocab: usize) -> Result<Shard> {
        let tokens = TokenStream::open(&[path.to_path_buf()], reading, vocab)?.rest()?;
        Ok(Shard { path: path.to_path_buf(), tokens })
    }
}
