//! The streams of a model on their way into a file.

use crate::artifact::construction::codec_of;
use crate::artifact::extra::Extra;
use crate::artifact::kept;
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
    let lengths = kept_streams(model).iter().map(|stream| stream.len() as u64).collect();
    let named =
        |spec: &crate::nets::TensorSpec| Named { name: spec.name.clone(), shape: spec.shape.clone(), form: spec.form };
    Header {
        config: model.config.to_json(),
        names: model.specs.iter().map(named).collect(),
        source: model.source.iter().map(|s| *s as u32).collect(),
        streams,
        extra: Extra { labels: labels(model), kept: kept::entries(&model.kept), lengths },
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

/// The streams of a model's tensors that are no weights, packed once.
fn kept_streams(model: &Model) -> &[Vec<u8>] {
    model.packed.get_or_init(|| kept::streams(&model.kept))
}

/// The names of a model's tensors, if these are not the canonical ones.
fn labels(model: &Model) -> Vec<(String, u32)> {
    let own = |(label, spec): &(String, usize)| model.specs[*spec].name == *label;
    if model.labels.len() == model.specs.len() && model.labels.iter().all(own) {
        return Vec::new();
    }
    model.labels.iter().map(|(label, spec)| (label.clone(), *spec as u32)).collect()
}

/// The bytes of the artifact.
pub(super) fn file(model: &Model, pieces: Pieces) -> Result<Vec<u8>> {
    let header = header(model, pieces.entries);
    let tensors = pieces.decoded.iter().enumerate();
    let decoded: Vec<Decoded> = tensors.map(|(i, data)| Decoded { shape: model.shape(i), data }).collect();
    let kept_bytes: Vec<&[u8]> = kept::in_order(&model.kept).map(|kept| &kept.bytes[..]).collect();
    let root = root(&decoded, &kept_bytes, &header);
    let streams: Vec<&[u8]> = pieces.streams.iter().chain(kept_streams(model)).map(Vec::as_slice).collect();
    Ok(assemble(&header, &streams, &root)?)
}
