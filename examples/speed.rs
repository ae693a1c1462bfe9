//! Times a forward pass, the measuring of curvature, and the gradient that healing takes a step by, in tokens per second.
//!
//!     cargo run --release --example speed -- MODEL --tokens TOKENS.bin [--rows 32] [--times 3] [--threads N] [--device cuda:0]
//!
//! MODEL is a folder, as that of the `random_model` example; TOKENS.bin is any shard of its vocabulary.

use std::error::Error;
use std::path::PathBuf;
use std::time::Instant;

use clap::Parser;
use tiepack::cli::device::{self, DeviceChoice};
use tiepack::eval::compare::losses;
use tiepack::eval::windows::Windows;
use tiepack::ingest::{self, Overrides, Reading, Shard, folder};
use tiepack::measure::curvature::measure;
use tiepack::model::{Structure, build};
use tiepack::nets;
use tiepack::train::gradient::gradient;
use tiepack::train::objective::Objective;
use tiepack::train::teacher::Teacher;

// The command's allocator: another one would measure another program.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Time forward passes, the measuring of curvature, and gradients of the divergence
#[derive(Parser)]
struct Args {
    model: PathBuf,
    /// Token shard
    #[arg(long)]
    tokens: PathBuf,
    /// Rows of the model's context to run
    #[arg(long, default_value_t = 32)]
    rows: usize,
    /// How often
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..))]
    times: u32,
    /// Threads [default: one per core]
    #[arg(long)]
    threads: Option<usize>,
    /// cpu or cuda:N
    #[arg(long, default_value = "cpu", value_parser = device::parse)]
    device: DeviceChoice,
}

fn main() -> Result<(), Box<dyn Error>> {
    let args = Args::parse();
    rayon::ThreadPoolBuilder::new().num_threads(args.threads.unwrap_or(0)).build_global()?;
    let source = ingest::read(&folder::locate(&args.model, &Overrides::default())?)?;
    let structure = Structure::of_file(nets::build(&source.config), &source.tensors);
    let model = build(source, structure, None)?.on(&args.device.open()?);
    let (net, params) = (model.network()?, model.params()?);
    let tokens = Shard::read(&args.tokens, &Reading::default(), usize::MAX)?.tokens;
    let windows = Windows::new(&tokens, net.context(), Some(args.rows));
    let report = |what: &str, run: &mut dyn FnMut() -> tiepack::error::Result<()>| {
        let (mut seconds, before) = (Vec::new(), cpu());
        for _ in 0..args.times {
            let start = Instant::now();
            run()?;
            seconds.push(start.elapsed().as_secs_f64());
        }
        let spent = before.zip(cpu()).map(|(before, after)| after - before);
        let of_cpu = spent
            .map(|spent| format!(", {:.0} tokens a CPU second", (windows.tokens() * seconds.len()) as f64 / spent));
        seconds.sort_by(f64::total_cmp);
        let rate = |seconds: f64| windows.tokens() as f64 / seconds;
        println!(
            "{what}: median {:.0} tokens/s, fastest {:.0}, slowest {:.0}; {} tokens, {} times, {} threads{}, {:?}",
            rate(seconds[seconds.len() / 2]),
            rate(seconds[0]),
            rate(seconds[seconds.len() - 1]),
            windows.tokens(),
            args.times,
            rayon::current_num_threads(),
            of_cpu.unwrap_or_default(),
            args.device,
        );
        tiepack::error::Result::Ok(())
    };
    report("forward", &mut || losses(net, &params, &windows, &|_| ()).map(drop))?;
    report("statistics", &mut || measure(&model, &windows, 0, &|_| Ok(())).map(drop))?;
    // A step: the divergence from a teacher and its gradient for every weight, in pieces as healing takes them.
    let (length, piece) = (net.context(), 512usize.div_ceil(net.context()));
    let batch: Vec<Windows> = (0..windows.rows() / piece)
        .map(|k| Windows::new(&tokens[k * piece * length..=(k + 1) * piece * length], length, None))
        .collect();
    let weights: Vec<Vec<f32>> = model.stored.iter().map(|s| s.data.to_vec()).collect();
    // A teacher that has seen none of it.
    let mut step =
        || gradient(&model, &weights, Some(&Teacher::new(net, params.clone())), &batch, Objective::Kl).map(drop);
    report("gradient", &mut step)?;
    Ok(())
}

/// Processor seconds of all threads so far, where the system tells them as Linux does, in hundredths.
fn cpu() -> Option<f64> {
    let text = std::fs::read_to_string("/proc/self/stat").ok()?;
    // After the program's name, which may hold spaces: field 3 and on.
    let fields: Vec<&str> = text.rsplit_once(')')?.1.split_whitespace().collect();
    let hundredths = |k: usize| fields.get(k - 3)?.parse::<f64>().ok();
    Some((hundredths(14)? + hundredths(15)?) / 100.0)
}
