//! Finds the files of a model: in its folder, beside its weights file, or where the command line says.

use std::path::{Path, PathBuf};

use super::tokenizer::BYTES;
use super::tokens::{Reading, TokenStream};
use super::{parts, weights as weights_files};
use crate::error::{Error, Result};

/// What `--calib` says before the number of tokens that the model is to write itself.
pub const SELF: &str = "self:";

/// What the command line names explicitly; everything else is looked for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Overrides {
    pub config: Option<PathBuf>,
    pub ties: Option<PathBuf>,
    /// A file, or [`BYTES`].
    pub tokenizer: Option<PathBuf>,
    /// Calibration shards, or patterns of their names; empty: the folder's `train_*.bin`.
    pub calib: Vec<PathBuf>,
    /// Validation shards, or patterns of their names; empty: the folder's `val_*.bin`.
    pub val: Vec<PathBuf>,
    /// How both are read; its tokenizer is found as those of models are.
    pub reading: Reading,
}

/// The files of a model. Every path named here existed when it was looked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Located {
    /// A `.safetensors` or a PyTorch checkpoint, or the `.index.json` of a sharded one.
    pub weights: PathBuf,
    pub config: Option<PathBuf>,
    pub ties: Option<PathBuf>,
    pub tokenizer: Option<PathBuf>,
    /// Calibration shards in the order of their names; may be empty.
    pub train: Vec<PathBuf>,
    /// Validation shards in the order of their names; may be empty.
    pub val: Vec<PathBuf>,
    /// How tokens are read.
    pub reading: Reading,
}

impl Located {
    /// Every file of the model and its tokens, the parts of sharded weights included.
    pub fn files(&self) -> Vec<PathBuf> {
        let named = [&self.config, &self.ties, &self.tokenizer].into_iter().flatten();
        let files = weights_files::files(&self.weights).into_iter().chain(named.cloned());
        files.chain(self.train.iter().cloned()).chain(self.val.iter().cloned()).collect()
    }

    /// Why no network computes with the weights where there is no configuration.
    pub fn no_config(&self) -> Error {
        Error::input(format!("there is no config.json beside {}", self.weights.display()))
            .hint("name the configuration with --config; `tiepack config MODEL` guesses one from the tensors")
    }

    /// The calibration tokens, all shards joined, every id below `vocab`.
    ///
    /// # Errors
    /// There are no shards, or one of them is unusable.
    pub fn train_tokens(&self, vocab: usize) -> Result<Vec<u32>> {
        self.tokens(&self.train, vocab, "calibration", "train_*.bin", "--calib")
    }

    /// The validation tokens, all shards joined, every id below `vocab`.
    ///
    /// # Errors
    /// There are no shards, or one of them is unusable.
    pub fn val_tokens(&self, vocab: usize) -> Result<Vec<u32>> {
        self.tokens(&self.val, vocab, "validation", "val_*.bin", "--val")
    }

    fn tokens(&self, paths: &[PathBuf], vocab: usize, what: &str, pattern: &str, flag: &str) -> Result<Vec<u32>> {
        if paths.is_empty() {
            let weights = self.weights.display();
            return Err(Error::input(format!("no {what} tokens: there is no {pattern} beside {weights}"))
                .hint(format!("name tokens or text with {flag}")));
        }
        TokenStream::open(paths, &self.reading, vocab)?.rest()
    }
}

/// The tokens that the model is to write itself, where that is what is named for calibration.
///
/// # Errors
/// Usage: no whole number, or files are named as well.
pub fn sampled(calib: &[PathBuf]) -> Result<Option<usize>> {
    let number = |path: &PathBuf| path.to_str().and_then(|name| name.strip_prefix(SELF)).map(str::to_string);
    let Some(said) = calib.iter().find_map(number) else { return Ok(None) };
    let tokens = said.replace('_', "").parse().ok().filter(|tokens| *tokens > 0);
    match tokens {
        Some(tokens) if calib.len() == 1 => Ok(Some(tokens)),
        Some(_) => Err(Error::usage(format!(
            "--calib {SELF}{said} stands for all calibration tokens, and files are named as well"
        ))),
        None => Err(Error::usage(format!("--calib {SELF}{said}: wanted a number of tokens"))),
    }
}

/// The weights of `model`, a folder or a weights file, and the folder that they lie in.
///
/// # Errors
/// `model` does not exist, or holds no weights or several.
pub fn weights(model: &Path) -> Result<(PathBuf, PathBuf)> {
    // `metadata` rather than `exists`: a folder one may not enter is not a missing one.
    let metadata = std::fs::metadata(model).map_err(|e| Error::io("read", model, e))?;
    let (folder, weights) = if metadata.is_dir() {
        (model.to_path_buf(), find_weights(model)?)
    } else {
        (model.with_file_name(""), model.to_path_buf())
    };
    // A bare file name has the empty path as its folder, which cannot be listed.
    Ok((if folder.as_os_str().is_empty() { PathBuf::from(".") } else { folder }, weights))
}

/// Finds the files of `model`, a folder or a weights file.
///
/// # Errors
/// As [`weights`]; an override does not exist or matches nothing.
pub fn locate(model: &Path, overrides: &Overrides) -> Result<Located> {
    let (folder, weights) = weights(model)?;
    let tokenizer = tokenizer(&folder, overrides)?;
    Ok(Located {
        config: config(&folder, overrides)?,
        ties: ties(&folder, overrides)?,
        reading: Reading { tokenizer: tokenizer.clone(), ..overrides.reading.clone() },
        tokenizer,
        train: match sampled(&overrides.calib)? {
            Some(_) => Vec::new(),
            None => shards(&overrides.calib, &folder, "train_")?,
        },
        val: shards(&overrides.val, &folder, "val_")?,
        weights,
    })
}

/// The named configuration, or the `config.json` of a folder.
///
/// # Errors
/// The named one does not exist.
pub fn config(folder: &Path, overrides: &Overrides) -> Result<Option<PathBuf>> {
    Ok(named(overrides.config.as_deref())?.or_else(|| beside(folder, "config.json")))
}

/// The named tie map, or the `ties.json` of a folder.
///
/// # Errors
/// The named one does not exist.
pub fn ties(folder: &Path, overrides: &Overrides) -> Result<Option<PathBuf>> {
    Ok(named(overrides.ties.as_deref())?.or_else(|| beside(folder, "ties.json")))
}

/// The named tokenizer, or the `tokenizer.model` or `tokenizer.json` of a folder.
///
/// # Errors
/// The named one does not exist.
pub fn tokenizer(folder: &Path, overrides: &Overrides) -> Result<Option<PathBuf>> {
    match overrides.tokenizer.as_deref() {
        Some(path) if path == Path::new(BYTES) => Ok(Some(path.to_path_buf())),
        path => {
            Ok(named(path)?.or_else(|| beside(folder, "tokenizer.model")).or_else(|| beside(folder, "tokenizer.json")))
        }
    }
}

/// A file of a folder, if it is there.
fn beside(folder: &Path, name: &str) -> Option<PathBuf> {
    Some(folder.join(name)).filter(|path| path.is_file())
}

/// An override, which unlike a file that is picked up must exist.
fn named(path: Option<&Path>) -> Result<Option<PathBuf>> {
    let Some(path) = path else { return Ok(None) };
    std::fs::metadata(path).map_err(|e| Error::io("read", path, e))?;
    Ok(Some(path.to_path_buf()))
}

/// The named shards, patterns expanded, or those of a folder whose names begin with `prefix`.
///
/// # Errors
/// A named shard does not exist, or a pattern matches none.
pub fn shards(overrides: &[PathBuf], folder: &Path, prefix: &str) -> Result<Vec<PathBuf>> {
    if overrides.is_empty() {
        return list(folder, |name| name.starts_with(prefix) && name.ends_with(".bin"));
    }
    let mut found = Vec::new();
    for path in overrides {
        let pattern = path.to_str().filter(|text| text.contains(['*', '?', '[']) && !path.exists());
        match pattern {
            Some(pattern) => found.extend(expand(pattern)?),
            None => found.extend(named(Some(path))?),
        }
    }
    Ok(found)
}

/// The files that a pattern matches, sorted, without the challenge's tables of byte counts: these have the header of
/// a shard, and `_bytes_` in their names.
fn expand(pattern: &str) -> Result<Vec<PathBuf>> {
    let entries = glob::glob(pattern).map_err(|e| Error::input(format!("{pattern} is no pattern: {e}")))?;
    let mut found = Vec::new();
    for entry in entries {
        let path = entry.map_err(|e| Error::io("list", e.path(), std::io::Error::from(e.error().kind())))?;
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        if path.is_file() && !name.contains("_bytes_") {
            found.push(path);
        }
    }
    found.sort();
    match found.is_empty() {
        true => Err(Error::input(format!("no file matches {pattern}"))),
        false => Ok(found),
    }
}

fn find_weights(folder: &Path) -> Result<PathBuf> {
    let usual =
        ["model.safetensors", "model.safetensors.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json"];
    if let Some(path) = usual.iter().find_map(|name| beside(folder, name)) {
        return Ok(path);
    }
    let mut found = list(folder, |name| name.ends_with(".safetensors"))?;
    if found.is_empty() {
        found = list(folder, |name| [".pt", ".pth", ".ckpt"].iter().any(|end| name.ends_with(end)))?;
    }
    if found.is_empty() {
        found = list(folder, |name| name.starts_with("pytorch_model-") && name.ends_with(".bin"))?;
    }
    // The parts of a model are one, named by the first.
    let parts = found.first().and_then(|first| parts::all(first));
    if parts.is_some_and(|parts| found.iter().all(|path| parts.contains(path))) {
        found.truncate(1);
    }
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
///
/// # Errors
/// The folder cannot be listed.
pub fn list(folder: &Path, wanted: impl Fn(&str) -> bool) -> Result<Vec<PathBuf>> {
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
