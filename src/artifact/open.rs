//! Opens an artifact as a stranger would: from its bytes alone, believing nothing.

use std::path::Path;
use std::sync::Arc;

pub use tiepack_format::decode::{some, stored_shapes, stream, streams};
use tiepack_format::{Artifact, Dtype};

use super::kept::of_file;
use super::layout::Header;
use super::read::Parsed;
use crate::error::{Error, Result};
use crate::ingest::Config;
use crate::model::{Model, Structure};
use crate::nets;
use crate::nets::TensorSpec;

/// A decoded artifact whose tensors were checked against the root in the file.
pub struct Opened {
    pub model: Model,
    pub parsed: Parsed,
    /// Bytes of the file.
    pub size: u64,
}

/// Reads and decodes the artifact at `path`.
///
/// # Errors
/// Input if it cannot be read; Verification if it is damaged or not an artifact. Names the path.
pub fn open(path: &Path) -> Result<Opened> {
    let bytes = std::fs::read(path).map_err(|e| Error::io("read", path, e))?;
    decode(&bytes).map_err(|e| e.at(path.display()))
}

/// Decodes an artifact.
///
/// # Errors
/// Verification; any bytes give a model that hashes to the root in the file, or an error.
pub fn decode(bytes: &[u8]) -> Result<Opened> {
    let Artifact { parsed, tensors, kept } = tiepack_format::decode(bytes)?;
    let header = &parsed.header;
    let mut dtypes = vec![Dtype::F32; tensors.len()];
    for entry in &header.streams {
        entry.tensors.iter().zip(&entry.dtypes).for_each(|(t, dtype)| dtypes[*t as usize] = *dtype);
    }
    let (config, structure) = structure(header)?;
    let parts = dtypes.into_iter().zip(tensors.into_iter().map(Arc::new)).collect();
    let source = header.source.iter().map(|s| *s as usize).collect();
    let kept = header.extra.kept.iter().zip(kept).map(|(entry, bytes)| of_file(entry, bytes));
    let mut model = Model::from_parts(config, structure, parts, source)?.keeping(kept.collect());
    if !header.extra.labels.is_empty() {
        model.labels = header.extra.labels.iter().map(|(label, tensor)| (label.clone(), *tensor as usize)).collect();
    }
    Ok(Opened { model, size: bytes.len() as u64, parsed })
}

/// What a header says of the model: its configuration, and its tensors with the network that computes with them, if
/// the configuration names one that has exactly these tensors.
///
/// # Errors
/// Verification, when the configuration is not one.
pub fn structure(header: &Header) -> Result<(Config, Structure)> {
    let config = match &header.config[..] {
        "" => Config::none(),
        text => Config::from_json(text)
            .map_err(|e| Error::verification(format!("the artifact's configuration is damaged: {}", e.message)))?,
    };
    let same = |(spec, named): (&TensorSpec, &super::names::Named)| {
        spec.name == named.name && spec.shape == named.shape && spec.form == named.form
    };
    let why = match nets::build(&config).map(Structure::from) {
        Ok(structure) => {
            let specs = &structure.specs;
            if specs.len() == header.names.len() && specs.iter().zip(&header.names).all(same) {
                return Ok((config, structure));
            }
            Error::verification(format!(
                "the artifact's tensors are not those of {} with its configuration",
                config.arch
            ))
        }
        Err(why) => why,
    };
    let named = header.names.iter().map(|named| (named.name.clone(), named.shape.clone(), named.form));
    Ok((config, Structure::described(named, why)))
}
