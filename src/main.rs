//! The `tiepack` command; all of it is in [`tiepack::cli`].

use std::process::ExitCode;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    // Every stage runs many small batches side by side; candle's own thread pool would make them wait for each other.
    // SAFETY: no other thread exists yet that could read the environment.
    unsafe { std::env::set_var("CANDLE_NUM_THREADS", "1") };
    tiepack::cli::main(std::env::args_os())
}
