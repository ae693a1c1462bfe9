//! Loops for the vector units that the machine has.

/// Runs `f` compiled for AVX-512 or AVX2 where the processor has them, found out at run time (the `pulp` crate).
///
/// The result is the same everywhere: every operation stays one correctly rounded operation, nothing is contracted or
/// reordered. `f` should be marked `#[inline(always)]` and hold its loops itself: a function that is called, and not inlined,
/// keeps the instructions that it was compiled for.
#[inline(always)]
pub(crate) fn vectorized<R>(f: impl FnOnce() -> R) -> R {
    pulp::Arch::new().dispatch(f)
}
