//! Keeps statistics on disk: they depend on the model and the calibration tokens alone, and cost most of a pack.

use std::path::{Path, PathBuf};

use candle_core::DType;

use super::{Statistics, file};
use crate::error::{Error, Result};
use crate::eval::windows::token_bytes;
use crate::model::Model;
use crate::save;

/// Changes whenever the figures that measuring gives change.
const VERSION: u32 = 4;

/// Name of the file for a model, calibration tokens and settings: blake3 of all that the statistics depend on.
pub fn key(model: &Model, tokens: &[u32], rows: usize, seed: u64) -> String {
    let mut hash = blake3::Hasher::new();
    let mut field = |bytes: &[u8]| {
        hash.update(&(bytes.len() as u64).to_le_bytes());
        hash.update(bytes);
    };
    field(&VERSION.to_le_bytes());
    field(model.digest().as_bytes());
    field(&token_bytes(tokens));
    field(&(rows as u64).to_le_bytes());
    field(&seed.to_le_bytes());
    if model.precision() != DType::F32 {
        field(model.precision().as_str().as_bytes());
    }
    hash.finalize().to_hex().to_string()
}

fn path(folder: &Path, key: &str) -> PathBuf {
    folder.join(format!("{key}.statistics.safetensors"))
}

/// Statistics of `tokens` tokens kept under `key`, if there are any and they are whole: a damaged file counts as none.
pub fn load(folder: &Path, key: &str, model: &Model, tokens: usize) -> Option<Statistics> {
    let bytes = std::fs::read(path(folder, key)).ok()?;
    file::from_bytes(&bytes, model).ok().filter(|statistics| statistics.tokens == tokens)
}

/// Keeps `statistics` under `key`.
///
/// # Errors
/// If the folder cannot be written.
pub fn save(folder: &Path, key: &str, model: &Model, statistics: &Statistics) -> Result<()> {
    std::fs::create_dir_all(folder).map_err(|e| Error::io("create", folder, e))?;
    save::save(&path(folder, key), &file::to_bytes(model, statistics)?)
}
