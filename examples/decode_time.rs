//! Times the decoder: opens an artifact again and again, hash check included.
//!
//!     cargo run --release --example decode_time -- ARTIFACT [--times 5] [--threads N]

use std::error::Error;
use std::path::PathBuf;
use std::time::Instant;

use clap::Parser;
use tiepack::artifact::open::open;

// The command's allocator: another one would measure another program.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Time the opening of an artifact
#[derive(Parser)]
struct Args {
    artifact: PathBuf,
    /// How often to open it
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    times: u32,
    /// Threads [default: one per core]
    #[arg(long)]
    threads: Option<usize>,
}

fn main() -> Result<(), Box<dyn Error>> {
    let args = Args::parse();
    rayon::ThreadPoolBuilder::new().num_threads(args.threads.unwrap_or(0)).build_global()?;
    let mut seconds = Vec::new();
    let (mut bytes, mut weights) = (0, 0);
    for _ in 0..args.times {
        let start = Instant::now();
        let opened = open(&args.artifact)?;
        seconds.push(start.elapsed().as_secs_f64());
        (bytes, weights) = (opened.size, opened.model.weights());
    }
    seconds.sort_by(f64::total_cmp);
    let median = seconds[seconds.len() / 2];
    let (megabytes, millions) = (bytes as f64 / 1e6, weights as f64 / 1e6);
    println!(
        "{bytes} bytes, {weights} weights: median of {} {median:.3} s on {} threads, {:.2} MB/s, {:.2} million weights/s",
        args.times,
        rayon::current_num_threads(),
        megabytes / median,
        millions / median
    );
    println!("fastest {:.3} s, slowest {:.3} s", seconds[0], seconds[seconds.len() - 1]);
    Ok(())
}
