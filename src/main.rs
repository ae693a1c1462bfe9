//! The `tiepack` command; all of it is in [`tiepack::cli`].

use std::process::ExitCode;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// `mi_option_purge_delay` of mimalloc 2 and 3: milliseconds until freed memory goes back to the kernel.
const PURGE_DELAY: libmimalloc_sys::mi_option_t = 15;

fn main() -> ExitCode {
    // A pass frees its tensors and the next one asks for the same again: at the default of 10 ms a tenth of the time of healing
    // goes into giving pages back and forth.
    // SAFETY: only sets a number that the allocator reads when it frees.
    unsafe { libmimalloc_sys::mi_option_set(PURGE_DELAY, 10_000) };
    // Every stage runs many small batches side by side; candle's own thread pool would make them wait for each other.
    // SAFETY: no other thread exists yet that could read the environment.
    unsafe { std::env::set_var("CANDLE_NUM_THREADS", "1") };
    tiepack::cli::main(std::env::args_os())
}
