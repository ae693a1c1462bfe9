//! One hash over everything a decoder must reproduce: the tensors bit by bit, which of them each name stands for, and
//! the architecture.

use super::header::Header;
use super::names::Named;
use crate::parallel;

/// A decoded tensor as the root sees it.
#[derive(Debug, Clone, Copy)]
pub struct Decoded<'a> {
    pub shape: &'a [usize],
    /// Row-major values.
    pub data: &'a [f32],
}

/// Hash of one tensor: blake3 of rank and dimensions as u64, then the values as f32, all little-endian.
pub fn tensor_hash(tensor: Decoded) -> [u8; 32] {
    let mut hasher = blake3::Hasher::new();
    hasher.update(&(tensor.shape.len() as u64).to_le_bytes());
    for &d in tensor.shape {
        hasher.update(&(d as u64).to_le_bytes());
    }
    // Through a small buffer, so that hashing a tensor does not take its size in memory again.
    let mut buffer = [0u8; 4 * 4096];
    for part in tensor.data.chunks(4096) {
        for (bytes, value) in buffer.chunks_exact_mut(4).zip(part) {
            bytes.copy_from_slice(&value.to_le_bytes());
        }
        hasher.update(&buffer[..4 * part.len()]);
    }
    *hasher.finalize().as_bytes()
}

/// The root: blake3 of (number of stored tensors, their hashes, number of tensors of the model, for each the stored
/// tensor that it is, the length of its name and the name, and the config's text); numbers as u64, the map as u32,
/// little-endian; and of what [`super::extra::Extra`] adds. `tensors` are the stored ones in their order, `kept` the bytes of those
/// that are no weights, the rest is the header's.
pub fn root(tensors: &[Decoded], kept: &[impl AsRef<[u8]>], header: &Header) -> [u8; 32] {
    let hashes: Vec<[u8; 32]> = parallel::map(tensors, |&t| tensor_hash(t));
    let mut hasher = blake3::Hasher::new();
    hasher.update(&(hashes.len() as u64).to_le_bytes());
    for hash in &hashes {
        hasher.update(hash);
    }
    hasher.update(&(header.source.len() as u64).to_le_bytes());
    for (source, Named { name, .. }) in header.source.iter().zip(&header.names) {
        hasher.update(&source.to_le_bytes());
        hasher.update(&(name.len() as u64).to_le_bytes());
        hasher.update(name.as_bytes());
    }
    hasher.update(header.config.as_bytes());
    header.extra.hash(&mut hasher, kept);
    *hasher.finalize().as_bytes()
}
