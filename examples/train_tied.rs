//! Trains a small transformer whose layers are tied, and writes what `tiepack pack` takes.
//!
//!     cargo run --release --example train_tied -- DATA OUT [--shape dynamic] [--steps 500] …
//!
//! DATA holds token shards, `train_*.bin` and `val_*.bin` (`tiepack tokens` makes them from text), and the
//! tokenizer. OUT becomes a model folder. The network is the Parameter Golf baseline in a shape of your choice; README.md
//! beside this file says which won. Read session.rs first: it is the training loop.

mod train_tied {
    pub mod args;
    pub mod controller;
    pub mod finish;
    pub mod init;
    pub mod picture;
    pub mod rounding;
    pub mod session;
    pub mod shape;
    pub mod state;
    pub mod student;
    #[cfg(test)]
    mod tests;
}

use std::path::Path;
use std::process::ExitCode;

use candle_core::Device;
use clap::Parser;
use serde_json::{Value, json};
use tiepack::cli::device;
use tiepack::error::{Error, Result};
use tiepack::ingest::{Overrides, Reading, TokenBytes, TokenStream, folder};
use tiepack::nets;
use tiepack::progress::{Bars, Progress, Silent};
use train_tied::args::{Args, Shape};
use train_tied::controller::Controller;
use train_tied::rounding::Rounding;
use train_tied::state::RunState;
use train_tied::student::Student;
use train_tied::{finish, init, session, shape, state};

// The command's allocator: candle allocates a tensor per operation.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    // As in the command: pieces of a batch run side by side, and candle's own threads would spin while they wait for work.
    // SAFETY: no other thread exists yet that could read the environment.
    unsafe { std::env::set_var("CANDLE_NUM_THREADS", "1") };
    let args = Args::parse();
    let progress: &dyn Progress = if args.quiet { &Silent } else { &Bars::new() };
    match run(&args, progress) {
        Ok(result) if args.json => println!("{result:#}"),
        Ok(result) => println!("{}", told(&result)),
        Err(error) => {
            eprintln!("error: {error}");
            error.hint.iter().for_each(|hint| eprintln!("hint: {hint}"));
            return ExitCode::from(error.exit_code());
        }
    }
    ExitCode::SUCCESS
}

/// The whole run; what it came to.
fn run(args: &Args, progress: &dyn Progress) -> Result<Value> {
    if let Some(threads) = args.threads {
        // Fails where the pool is there already, as in a test: nothing that is computed depends on it.
        let _ = rayon::ThreadPoolBuilder::new().num_threads(threads).build_global();
    }
    if args.pack_aware.is_some() && args.cap.is_none() {
        return Err(Error::usage("--pack-aware needs --cap: the bytes that the packed file is to have"));
    }
    let device = opened(&args.device)?;
    let config = shape::config(args)?;
    let net = nets::build(&config)?;
    if args.shape == Shape::Dynamic && net.layers() < 2 {
        return Err(Error::usage("--shape dynamic needs two layers or more"));
    }
    let [train, val] = ["train_", "val_"].map(|prefix| folder::shards(&[], &args.data, prefix));
    let (train, val) = (train?, val?);
    for (shards, pattern) in [(&train, "train_*.bin"), (&val, "val_*.bin")] {
        if shards.is_empty() {
            return Err(Error::input(format!("there is no {pattern} in {}", args.data.display()))
                .hint("`tiepack tokens` makes token shards from text"));
        }
    }
    let tokens = TokenStream::open(&train, &Reading::default(), args.vocab)?.rest()?;
    let validation = TokenStream::open(&val, &Reading::default(), args.vocab)?.rest()?;
    finish::rows(&validation, &*net, args.val_rows)?;
    if args.from.as_ref().is_some_and(|from| same(from, &args.out)) {
        return Err(Error::usage(format!("--from {0}: OUT would overwrite it", args.out.display())));
    }
    let tokenizer = folder::tokenizer(&args.data, &Overrides::default())?;
    let table = tokenizer.as_deref().map(|path| TokenBytes::of_model(path, args.vocab)).transpose()?;
    std::fs::create_dir_all(&args.out).map_err(|e| Error::io("make", &args.out, e))?;

    let mut weights = init::fresh(&net.tensors(), args.seed);
    if let Some(path) = &args.from {
        init::from_untied(&mut weights, &*net, path)?;
    }
    let key = key(args, &tokens, &weights);
    let mut student = Student::new(config.clone(), net.clone(), weights, args, device)?;
    let controller = (args.shape == Shape::Dynamic).then(|| Controller::new(net.layers(), args.price, args.seed));
    let mut run_state = match args.resume {
        true => state::load(&session::checkpoint(&args.out), &key, &mut student, controller)?,
        false => RunState {
            key,
            step: 0,
            copies: student.copies.clone(),
            adam_steps: Vec::new(),
            trend: None,
            recent: Vec::new(),
            controller,
            rounding: args.cap.filter(|_| args.pack_aware.is_some()).map(|cap| Rounding::new(cap, student.specs.len())),
        },
    };
    let course = session::train(args, &tokens, &mut student, &mut run_state, progress)?;
    if course.steps < args.steps {
        return Ok(json!({"out": args.out, "steps": course.steps, "of": args.steps}));
    }
    let model = student.written()?;
    finish::write(&model, &args.out, tokenizer.as_deref())?;
    let validation = finish::evaluate(&model, &validation, args.val_rows, table.as_ref(), progress)?;
    Ok(json!({
        "out": args.out,
        "steps": course.steps,
        "training_tokens": course.steps * course.step_tokens,
        "training_loss": course.training_loss,
        "step_seconds": course.step_seconds,
        "width": config.usize("model_dim")?,
        "weights": model.weights(),
        "copies": student.copies,
        "decisions": course.decisions,
        "validation": validation,
        "pack": finish::packing(args, [&train, &val], model.weights()),
    }))
}

/// The result in words.
fn told(result: &Value) -> String {
    let out = result["out"].as_str().unwrap_or_default();
    if result["validation"].is_null() {
        return format!("{out}: stopped after step {} of {}; --resume goes on", result["steps"], result["of"]);
    }
    let number = |at: &str| result.pointer(at).and_then(Value::as_f64);
    let bits = number("/validation/bits_per_byte").map_or(String::new(), |bits| format!(", {bits:.4} bits per byte"));
    format!(
        "{out}: {} stored weights, width {}, ties {}\nvalidation: {:.6} nats per token{bits} on {} tokens\n\npack it:\n\n    {}\n",
        result["weights"],
        result["width"],
        result["copies"],
        number("/validation/nats_per_token").unwrap_or(f64::NAN),
        result["validation"]["tokens"],
        result["pack"].as_str().unwrap_or_default(),
    )
}

/// Whether two paths are one folder or file.
fn same(a: &Path, b: &Path) -> bool {
    let real = |path: &Path| path.canonicalize().ok();
    real(a).is_some() && real(a) == real(b)
}

/// Of everything that a run depends on.
fn key(args: &Args, tokens: &[u32], weights: &[Vec<f32>]) -> String {
    let mut hash = blake3::Hasher::new();
    hash.update(serde_json::to_string(args).unwrap_or_default().as_bytes());
    tokens.chunks(1 << 16).for_each(|part| {
        hash.update(&part.iter().flat_map(|t| t.to_le_bytes()).collect::<Vec<_>>());
    });
    weights.iter().for_each(|w| {
        hash.update(&w.iter().flat_map(|v| v.to_le_bytes()).collect::<Vec<_>>());
    });
    hash.finalize().to_hex().to_string()
}

fn opened(name: &str) -> Result<Device> {
    device::parse(name).map_err(|why| Error::usage(format!("--device {name}: {why}")))?.open()
}
