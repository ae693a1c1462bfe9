//! Tensors that are no weights, between a model and a file.

use std::sync::Arc;

use super::extra::{ELEMENTS, KeptEntry, pack};
use crate::model::{Element, Kept};

/// Element types by the ids of the format.
const TYPES: [Element; ELEMENTS.len()] = [
    Element::F32,
    Element::F16,
    Element::Bf16,
    Element::Integer("bool", 1),
    Element::Integer("u8", 1),
    Element::Integer("i8", 1),
    Element::Integer("i16", 2),
    Element::Integer("u16", 2),
    Element::Integer("i32", 4),
    Element::Integer("u32", 4),
    Element::Integer("i64", 8),
    Element::Integer("u64", 8),
    Element::F64,
    Element::F8E4m3,
    Element::F8E5m2,
];

/// The kept tensors of a model in the order of the file: those of one element type stand together.
pub fn in_order(kept: &[Kept]) -> impl Iterator<Item = &Kept> {
    TYPES.into_iter().flat_map(|element| kept.iter().filter(move |kept| kept.element == element))
}

/// The entries of a header for the kept tensors of a model.
pub fn entries(kept: &[Kept]) -> Vec<KeptEntry> {
    let id = |kept: &Kept| TYPES.iter().position(|element| *element == kept.element).unwrap_or_default() as u8;
    let entry = |kept: &Kept| KeptEntry { name: kept.name.clone(), shape: kept.shape.clone(), element: id(kept) };
    in_order(kept).map(entry).collect()
}

/// The streams of a model's kept tensors, one of each element type.
pub fn streams(kept: &[Kept]) -> Vec<Vec<u8>> {
    let kept: Vec<&Kept> = in_order(kept).collect();
    let stream = |run: &[&Kept]| {
        let bytes: Vec<u8> = run.iter().flat_map(|kept| kept.bytes.iter().copied()).collect();
        pack(run[0].element.size(), &bytes)
    };
    kept.chunk_by(|a, b| a.element == b.element).map(stream).collect()
}

/// A kept tensor of a file.
pub fn of_file(entry: &KeptEntry, bytes: Vec<u8>) -> Kept {
    Kept { name: entry.name.clone(), shape: entry.shape.clone(), element: element(entry), bytes: Arc::new(bytes) }
}

/// The element type of a kept tensor, of which the format has checked the id.
pub fn element(entry: &KeptEntry) -> Element {
    TYPES[usize::from(entry.element)]
}
