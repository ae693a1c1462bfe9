//! The decoder for JavaScript: plain exports over numbers and addresses, called by `js/index.js` and by nobody else.

mod describe;

use tiepack_format::{Artifact, Limits, decode_within};

/// What came of a file: its tensors, or none and a description that says why.
pub struct Model {
    tensors: Vec<Vec<f32>>,
    /// Bytes of the tensors that are no weights.
    kept: Vec<Vec<u8>>,
    /// JSON.
    description: String,
}

/// Memory for `size` bytes, to be given to [`tiepack_decode`].
#[unsafe(no_mangle)]
pub extern "C" fn tiepack_allocate(size: usize) -> *mut u8 {
    Box::leak(vec![0u8; size].into_boxed_slice()).as_mut_ptr()
}

/// Decodes the file of `size` bytes at `file`, which it frees. `weights` is the most that it may hold.
///
/// # Safety
/// `file` and `size` are of one call of [`tiepack_allocate`].
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tiepack_decode(file: *mut u8, size: usize, weights: usize) -> *mut Model {
    // SAFETY: this is the box that `tiepack_allocate` leaked.
    let bytes = unsafe { Box::from_raw(std::ptr::slice_from_raw_parts_mut(file, size)) };
    let limits = Limits { weights, ..Limits::default() };
    let model = match decode_within(&bytes, &limits) {
        Ok(artifact) => {
            let description = describe::artifact(&artifact, size);
            let Artifact { tensors, kept, .. } = artifact;
            Model { tensors, kept, description }
        }
        Err(error) => Model { tensors: Vec::new(), kept: Vec::new(), description: describe::error(&error) },
    };
    Box::into_raw(Box::new(model))
}

/// # Safety
/// `model` is of [`tiepack_decode`].
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tiepack_description(model: *const Model) -> *const u8 {
    // SAFETY: the model lives as long as the instance.
    unsafe { &*model }.description.as_ptr()
}

/// # Safety
/// `model` is of [`tiepack_decode`].
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tiepack_description_size(model: *const Model) -> usize {
    // SAFETY: the model lives as long as the instance.
    unsafe { &*model }.description.len()
}

/// The bytes of a tensor, as many as its shape and its type say: f32 for the stored tensors, which come first, then the kept ones.
///
/// # Safety
/// `model` is of [`tiepack_decode`], `stored` a number that its description gives.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tiepack_tensor(model: *const Model, stored: usize) -> *const u8 {
    // SAFETY: the model lives as long as the instance.
    let Model { tensors, kept, .. } = unsafe { &*model };
    match tensors.get(stored) {
        Some(weights) => weights.as_ptr().cast(),
        None => kept[stored - tensors.len()].as_ptr(),
    }
}
