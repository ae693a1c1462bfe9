//! From paths on the command line to what the stages want.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tiepack_format::container::MAGIC;

use super::args::ModelFiles;
use super::bytes::Rows;
use crate::bundle::read::{self as bundles, Brought};
use crate::error::{Error, Result};
use crate::ingest::tokenizer::Lengths;
use crate::ingest::{
    self, Located, Overrides, RawTensor, Reading, Remark, Shard, Source, TokenBytes, TokenStream, folder,
};
use crate::model::{Model, Structure, build, build_as_it_is};
use crate::nets::guess::{self, Shapes};
use crate::nets::{self, Net};
use crate::text::listed;
use crate::verify::Trial;

/// Where validation tokens and the tokenizer are, if anywhere.
#[derive(Debug, Default)]
pub struct Validation {
    pub shards: Vec<PathBuf>,
    pub reading: Reading,
}

/// What `path` means if it means an artifact: itself, by its first bytes, or the only one in a folder that holds no weights.
///
/// # Errors
/// The path cannot be read, or a folder holds several artifacts and no weights.
pub fn artifact(path: &Path) -> Result<Option<PathBuf>> {
    if !std::fs::metadata(path).map_err(|e| Error::io("read", path, e))?.is_dir() {
        return Ok(is_artifact_file(path)?.then(|| path.to_path_buf()));
    }
    match folder::weights(path).is_ok() || artifacts(path)?.is_empty() {
        true => Ok(None),
        false => only_artifact(path).map(Some),
    }
}

/// The artifact where nothing else is wanted: `path`, or the only one in a folder of that name.
///
/// # Errors
/// The folder cannot be listed, or holds no artifact or several.
pub fn only_artifact(path: &Path) -> Result<PathBuf> {
    if !path.is_dir() {
        return Ok(path.to_path_buf());
    }
    let mut found = artifacts(path)?;
    match found.len() {
        1 => Ok(found.remove(0)),
        0 => Err(Error::input(format!("there is no .tiepack in {}", path.display()))
            .hint("name an artifact; `tiepack pack` makes one of a model")),
        _ => {
            let names = found.iter().filter_map(|path| path.file_name());
            let names: Vec<String> = names.map(|name| name.to_string_lossy().into_owned()).collect();
            let (count, folder) = (found.len(), path.display());
            Err(Error::input(format!("{folder} holds {count} artifacts: {}", listed(&names)))
                .hint("name the one to read"))
        }
    }
}

/// The artifacts in a folder by their names, sorted.
fn artifacts(folder: &Path) -> Result<Vec<PathBuf>> {
    folder::list(folder, |name| name.ends_with(".tiepack"))
}

/// What a bundle brings; `None`: `path` is none.
///
/// # Errors
/// It cannot be read, or is damaged.
pub fn bundle(path: &Path) -> Result<Option<Brought>> {
    match std::fs::metadata(path).map_err(|e| Error::io("read", path, e))?.is_dir() {
        true => Ok(None),
        false => bundles::read(path),
    }
}

/// Finds the files of a model where an artifact is none: what was packed from it is not what it was.
///
/// # Errors
/// As [`folder::locate`], and when `path` is an artifact.
pub fn locate(path: &Path, overrides: &Overrides) -> Result<Located> {
    match artifact(path)? {
        None => folder::locate(path, overrides),
        Some(found) => Err(Error::input(format!("{} is an artifact, wanted a model", found.display())).hint(format!(
            "name the model that it was packed from, or write it out first: tiepack unpack {} -o DIR",
            found.display()
        ))),
    }
}

/// Whether a file is an artifact, by its first bytes.
fn is_artifact_file(path: &Path) -> Result<bool> {
    let fail = |e| Error::io("read", path, e);
    // All but the version: an artifact of another version is still no weights file.
    let mut start = [0; MAGIC.len() - 1];
    let read = File::open(path).and_then(|mut file| file.read(&mut start)).map_err(fail)?;
    Ok(begins_as_artifact(&start[..read]))
}

/// Whether a file that begins so is an artifact, of whatever version.
pub fn begins_as_artifact(start: &[u8]) -> bool {
    start.starts_with(&MAGIC[..MAGIC.len() - 1])
}

/// Finds, reads and checks a model.
///
/// # Errors
/// As [`locate`], [`ingest::read`] and [`build`].
pub fn model(path: &Path, files: &ModelFiles, overrides: &Overrides) -> Result<(Located, Model)> {
    let located = locate(path, overrides)?;
    let model = read(&located, files)?;
    Ok((located, model))
}

/// Reads and checks a model that was found.
///
/// # Errors
/// As [`ingest::read`] and [`build`].
pub fn read(located: &Located, files: &ModelFiles) -> Result<Model> {
    let source = source(located)?;
    let net = network(located, &source);
    let structure = Structure::of_file(net, &source.tensors);
    build(source, structure, files.retie())
}

/// A source, with the configuration that a checkpoint speaks for where there is none beside it.
fn source(located: &Located) -> Result<Source> {
    let mut source = ingest::read(located)?;
    if located.config.is_none()
        && let Some(guess) = stated(&source.remarks, &shapes(&source.tensors))
    {
        source.config = guess.config;
    }
    Ok(source)
}

/// What computes with the tensors of a source, or why nothing does.
fn network(located: &Located, source: &Source) -> Result<Arc<dyn Net>> {
    let shapes = || shapes(&source.tensors);
    match &located.config {
        Some(path) => nets::build(&source.config).map_err(|e| {
            // An unknown name of a known family: its tensors tell. What transformers calls otherwise is otherwise, even if its
            // tensors have the names of another family.
            let own = source.config.fields.contains_key("arch") && !nets::is_known(&source.config.arch);
            let near = guess::nearest(&shapes()).filter(|_| own);
            let hint = [e.hint.clone(), near.map(|family| format!("its tensors are named as those of {family}"))];
            let hint = hint.into_iter().flatten().collect::<Vec<_>>().join("; ");
            Error { hint: (!hint.is_empty()).then_some(hint), ..e.at(path.display()) }
        }),
        None if !source.config.fields.is_empty() => {
            nets::build(&source.config).map_err(|e| e.at(located.weights.display()))
        }
        None => match guess::foreign(&shapes()) {
            Some(name) => Err(foreign(&located.weights, name)),
            None => Err(located.no_config()),
        },
    }
}

/// Why no network computes with the weights of a network that is known by name only.
pub fn foreign(weights: &Path, name: &str) -> Error {
    Error::input(format!("{}: the tensors are those of {name}, which tiepack does not compute", weights.display()))
        .hint("measure and pack it from Python, where its own code runs: tiepack.torch")
}

/// The configuration that a checkpoint speaks for by what it says of its network.
pub fn stated(remarks: &[Remark], shapes: &Shapes) -> Option<guess::Guess> {
    remarks.iter().find_map(|remark| match remark {
        Remark::Settings(settings) => guess::stated(shapes, settings),
        _ => None,
    })
}

/// Reads a model for what need not run it: tensors that are not those of its network are a model of tensors.
///
/// # Errors
/// As [`ingest::read`] and [`build_as_it_is`].
pub fn read_as_it_is(located: &Located, files: &ModelFiles) -> Result<Model> {
    let source = source(located)?;
    let net = network(located, &source);
    build_as_it_is(source, net, files.retie())
}

/// Shapes of tensors by name.
pub fn shapes(tensors: &BTreeMap<String, RawTensor>) -> Shapes {
    tensors.iter().map(|(name, tensor)| (name.clone(), tensor.shape.clone())).collect()
}

/// What a person calls the model at `path`: its folder's name, or the weights file's if that is telling.
pub fn name(path: &Path) -> String {
    let full = std::fs::canonicalize(path).unwrap_or_else(|_| path.to_path_buf());
    let generic = full.file_name().is_some_and(|name| name.to_string_lossy().starts_with("model.safetensors"));
    let telling = if generic { full.parent().unwrap_or(&full) } else { &full };
    telling.file_name().unwrap_or(telling.as_os_str()).to_string_lossy().into_owned()
}

/// Bytes of all `--include` files.
///
/// # Errors
/// One of them cannot be read, or is no file.
pub fn includes(paths: &[PathBuf]) -> Result<u64> {
    paths.iter().try_fold(0, |sum, path| {
        let metadata = std::fs::metadata(path).map_err(|e| Error::io("read", path, e))?;
        if !metadata.is_file() {
            return Err(
                Error::input(format!("{} is not a file", path.display())).hint("--include its files one by one")
            );
        }
        Ok(sum + metadata.len())
    })
}

impl Validation {
    /// Those that were found with a model.
    pub fn of(located: &Located) -> Validation {
        Validation { shards: located.val.clone(), reading: located.reading.clone() }
    }

    /// Those that the command line names, or that lie beside `path`.
    ///
    /// # Errors
    /// The folder cannot be listed, or a named file does not exist.
    pub fn beside(path: &Path, overrides: &Overrides) -> Result<Validation> {
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        Ok(Validation {
            shards: folder::shards(&overrides.val, folder, "val_")?,
            reading: Reading { tokenizer: folder::tokenizer(folder, overrides)?, ..overrides.reading.clone() },
        })
    }

    /// Those that the command line names, or that lie in the folder `path` or beside the file.
    ///
    /// # Errors
    /// As [`Validation::beside`].
    pub fn near(path: &Path, overrides: &Overrides) -> Result<Validation> {
        // As if the weights had been named.
        let file = if path.is_dir() { path.join("model") } else { path.to_path_buf() };
        Validation::beside(&file, overrides)
    }

    /// Reads the tokenizer and the shards; `None` when there are no shards.
    ///
    /// # Errors
    /// A file is unusable, or not of a model with `vocab` token ids.
    pub fn read(&self, vocab: usize, rows: Rows) -> Result<Option<Trial>> {
        let table = self.table(vocab)?;
        if self.shards.is_empty() {
            return Ok(None);
        }
        let mut stream = TokenStream::open(&self.shards, &self.reading, vocab)?;
        let tokens = stream.rest()?;
        let lengths = table.as_ref().and_then(|table| {
            let mut lengths = Lengths::of(table);
            lengths.push(&tokens);
            lengths.end(stream.text_bytes())
        });
        Ok(Some(Trial { tokens, table, lengths, rows: rows.limit() }))
    }

    /// Bytes of every token, if there is a tokenizer.
    ///
    /// # Errors
    /// It is unusable, or not of a model with `vocab` token ids.
    pub fn table(&self, vocab: usize) -> Result<Option<TokenBytes>> {
        self.reading.tokenizer.as_deref().map(|path| TokenBytes::of_model(path, vocab)).transpose()
    }

    /// Refuses to go on without shards, where validation tokens are what the command is about.
    ///
    /// # Errors
    /// There are no shards.
    pub fn some_shards(&self, path: &Path) -> Result<()> {
        if self.shards.is_empty() {
            return Err(Error::input(format!("no validation tokens: there is no val_*.bin beside {}", path.display()))
                .hint("name tokens or text with --val"));
        }
        Ok(())
    }
}

/// Reads files of tokens one by one, so that later faults can name theirs.
///
/// # Errors
/// A file is unusable, or has ids that a model with `vocab` of them does not know.
pub fn shards(paths: &[PathBuf], reading: &Reading, vocab: usize) -> Result<Vec<Shard>> {
    paths.iter().map(|path| Shard::read(path, reading, vocab)).collect()
}
