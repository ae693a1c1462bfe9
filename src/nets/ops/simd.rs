//! Loops for the vector units that the machine has.

use std::ops::Range;

/// Runs `f` compiled for AVX-512 or AVX2 where the processor has them, found out at run time (the `pulp` crate).
///
/// The result is the same everywhere: every operation stays one correctly rounded operation, nothing is contracted or
/// reordered. `f` should be marked `#[inline(always)]` and hold its loops itself: a function that is called, and not inlined,
/// keeps the instructions that it was compiled for. Iterators over chunks are such functions at times, indices never.
#[inline(always)]
pub(crate) fn vectorized<R>(f: impl FnOnce() -> R) -> R {
    pulp::Arch::new().dispatch(f)
}

/// Where the rows of `width` elements are in a slice of `len`.
#[inline(always)]
pub(crate) fn rows(len: usize, width: usize) -> impl Iterator<Item = Range<usize>> {
    (0..len / width).map(
        #[inline(always)]
        move |row| row * width..(row + 1) * width,
    )
}
