//! Finds the files of a model: in its folder, beside its weights file, or where the command line says.

use std::path::{Path, PathBuf};

use super::shard;
use crate::error::{Error, Result};

/// What the command line names explicitly; everything else is looked for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Overrides {
    pub config: Option<PathBuf>,
    pub ties: Option<PathBuf>,
    pub tokenizer: Option<PathBuf>,
    /// Calibration shards; empty: the folder's `train_*.bin`.
    pub calib: Vec<PathBuf>,
    /// Validation shards; empty: the folder's `val_*.bin`.
    pub val: Vec<PathBuf>,
}

/// The files of a model. Every path named here existed when it was looked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Located {
    /// A `.safetensors`, or the `.safetensors.index.json` of a sharded one.
    pub weights: PathBuf,
    pub config: PathBuf,
    pub ties: Option<PathBuf>,
    pub tokenizer: Option<PathBuf>,
    /// Calibration shards in the order of their names; may be empty.
    pub train: Vec<PathBuf>,
    /// Validation shards in the order of their names; may be empty.
    pub val: Vec<PathBuf>,
}

impl Located {
    /// The calibration tokens, all shards joined, every id below `vocab`.
    ///
    /// # Errors
    /// There are no shards, or one of them is unusable.
    pub fn train_tokens(&self, vocab: usize) -> Result<Vec<u16>> {
        self.tokens(&self.train, vocab, "calibration", "train_*.bin", "--calib")
    }

    /// The validation tokens, all shards joined, every id below `vocab`.
    ///
    /// # Errors
    /// There are no shards, or one of them is unusable.
    pub fn val_tokens(&self, vocab: usize) -> Result<Vec<u16>> {
        self.tokens(&self.val, vocab, "validation", "val_*.bin", "--val")
    }

    fn tokens(&self, paths: &[PathBuf], vocab: usize, what: &str, pattern: &str, flag: &str) -> Result<Vec<u16>> {
        if paths.is_empty() {
            let weights = self.weights.display();
            return Err(Error::input(format!("no {what} tokens: there is no {pattern} beside {weights}"))
                .hint(format!("name a token shard with {flag}")));
        }
        shard::read_all(paths, vocab)
    }
}

/// Finds the files of `model`, a folder or a weights file.
///
/// # Errors
/// `model` does not exist, holds no weights or several, has no `config.json`, or an override does not exist.
pub fn locate(model: &Path, overrides: &Overrides) -> Result<Located> {
    // `metadata` rather than `exists`: a folder one may not enter is not a missing one.
    let metadata = std::fs::metadata(model).map_err(|e| Error::io("read", model, e))?;
    let (folder, weights) = if metadata.is_dir() {
        (model.to_path_buf(), find_weights(model)?)
    } else {
        (model.with_file_name(""), model.to_path_buf())
    };
    // A bare file name has the empty path as its folder, which cannot be listed.
    let folder = if folder.as_os_str().is_empty() { PathBuf::from(".") } else { folder };
    let beside = |name: &str| Some(folder.join(name)).filter(|path| path.is_file());
    let config = named(overrides.config.as_deref())?.or_else(|| beside("config.json")).ok_or_else(|| {
        Error::input(format!("there is no config.json beside {}", weights.display()))
            .hint("name the configuration with --config")
    })?;
    Ok(Located {
        config,
        ties: named(overrides.ties.as_deref())?.or_else(|| beside("ties.json")),
        tokenizer: named(overrides.tokenizer.as_deref())?.or_else(|| beside("tokenizer.model")),
        train: shards(&overrides.calib, &folder, "train_")?,
        val: shards(&overrides.val, &folder, "val_")?,
        weights,
    })
}

/// An override, which unlike a file that is picked up must exist.
fn named(path: Option<&Path>) -> Result<Option<PathBuf>> {
    let Some(path) = path else { return Ok(None) };
    std::fs::metadata(path).map_err(|e| Error::io("read", path, e))?;
    Ok(Some(path.to_path_buf()))
}

fn shards(overrides: &[PathBuf], folder: &Path, prefix: &str) -> Result<Vec<PathBuf>> {
    if overrides.is_empty() {
        return list(folder, |name| name.starts_with(prefix) && name.ends_with(".bin"));
    }
    for path in overrides {
        named(Some(path))?;
    }
    Ok(overrides.to_vec())
}

fn find_weights(folder: &Path) -> Result<PathBuf> {
    for name in ["model.safetensors", "model.safetensors.index.json"] {
        let path = folder.join(name);
        if path.is_file() {
            return Ok(path);
        }
    }
    let mut found = list(folder, |name| name.ends_with(".safetensors"))?;
    match found.len() {
        1 => Ok(found.remove(0)),
        0 => Err(Error::input(format!("there is no model.safetensors in {}", folder.display()))
            .hint("name the folder that holds model.safetensors and config.json, or the weights file itself")),
        count => {
            let names: Vec<_> = found.iter().filter_map(|p| p.file_name()).map(|n| n.to_string_lossy()).collect();
            let (shown, folder) = (names[..count.min(5)].join(", "), folder.display());
            let more = if count > 5 { format!(" and {} more", count - 5) } else { String::new() };
            Err(Error::input(format!("{folder} holds {count} weights files: {shown}{more}"))
                .hint("name the one to read"))
        }
    }
}

/// The files of a folder whose names `wanted` accepts, sorted by name.
fn list(folder: &Path, wanted: impl Fn(&str) -> bool) -> Result<Vec<PathBuf>> {
    let entries = std::fs::read_dir(folder).map_err(|e| Error::io("list", folder, e))?;
    let mut found = Vec::new();
    for entry in entries {
        let path = entry.map_err(|e| Error::io("list", folder, e))?.path();
        if path.file_name().and_then(|n| n.to_str()).is_some_and(&wanted) && path.is_file() {
            found.push(path);
        }
    }
    found.sort();
    Ok(found)
}
