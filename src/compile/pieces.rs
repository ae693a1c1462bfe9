//! The streams of a model on their way into a file.

use crate::artifact::construction::codec_of;
use crate::artifact::layout::{Header, StreamEntry};
use crate::artifact::names::Named;
use crate::artifact::root::{Decoded, root};
use crate::artifact::write::assemble;
use crate::error::Result;
use crate::model::Model;
use crate::recipe::Recipe;

/// Streams of a model and what they decode to.
#[derive(Clone, Default)]
pub(super) struct Pieces {
    pub entries: Vec<StreamEntry>,
    pub streams: Vec<Vec<u8>>,
    /// Decoded tensors, by stored index.
    pub decoded: Vec<Vec<f32>>,
}

/// The header of a model in these streams.
pub fn header(model: &Model, streams: Vec<StreamEntry>) -> Header {
    let named =
        |spec: &crate::nets::TensorSpec| Named { name: spec.name.clone(), shape: spec.shape.clone(), form: spec.form };
    Header {
        config: model.config.to_json(),
        names: model.specs.iter().map(named).collect(),
        source: model.source.iter().map(|s| *s as u32).collect(),
        streams,
    }
}

/// The entry of a stream of `len` bytes.
pub(super) fn entry<G>(model: &Model, recipe: &Recipe<usize, G>, tensors: &[usize], len: usize) -> StreamEntry {
    StreamEntry {
        codec: codec_of(recipe),
        tensors: tensors.iter().map(|t| *t as u32).collect(),
        dtypes: tensors.iter().map(|t| model.stored[*t].dtype).collect(),
        needs: recipe.from().map(|t| *t as u32).into_iter().collect(),
        len: len as u64,
    }
}

/// The bytes of the artifact.
pub(super) fn file(model: &Model, pieces: Pieces) -> Result<Vec<u8>> {
    let header = header(model, pieces.entries);
    let tensors = pieces.decoded.iter().enumerate();
    let decoded: Vec<Decoded> = tensors.map(|(i, data)| Decoded { shape: model.shape(i), data }).collect();
    Ok(assemble(&header, &pieces.streams, &root(&decoded, &header))?)
}
