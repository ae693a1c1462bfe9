//! Writes a model of any size with random weights, to time a pack before the real model is trained.
//!
//!     cargo run --release --example random_model -- FOLDER [--layers 11] [--dim 512] [--heads 8] [--kv-heads 4] \
//!         [--mlp-mult 4] [--vocab 8192] [--context 1024] [--train-tokens 200000] [--val-tokens 20000] [--seed 0]
//!
//! The default has the shapes of the challenge's best records: 36 million weights. FOLDER then packs as any other:
//! `tiepack pack FOLDER -o random.tiepack --cap 16MB --effort fast --no-eval`. Weights are Gaussian with the variance
//! of a fresh initialisation, in bf16; tokens follow Zipf's law, so that the embedding has frequent and rare rows.

use std::error::Error;
use std::path::{Path, PathBuf};

use clap::Parser;
use half::bf16;
use safetensors::Dtype;
use safetensors::tensor::{TensorView, serialize_to_file};
use serde_json::json;
use tiepack::ingest::Config;
use tiepack::nets::golf::ARCH;
use tiepack::nets::{self, Form, TensorSpec};
use tiepack::random::Random;

/// Write a model folder with random weights
#[derive(Parser)]
struct Args {
    /// Folder to write (made if missing)
    folder: PathBuf,
    #[arg(long, default_value_t = 11)]
    layers: usize,
    #[arg(long, default_value_t = 512)]
    dim: usize,
    #[arg(long, default_value_t = 8)]
    heads: usize,
    #[arg(long, default_value_t = 4)]
    kv_heads: usize,
    #[arg(long, default_value_t = 4)]
    mlp_mult: usize,
    #[arg(long, default_value_t = 8192)]
    vocab: usize,
    /// Tokens of a row
    #[arg(long, default_value_t = 1024)]
    context: usize,
    #[arg(long, default_value_t = 200_000)]
    train_tokens: usize,
    #[arg(long, default_value_t = 20_000)]
    val_tokens: usize,
    #[arg(long, default_value_t = 0)]
    seed: u64,
}

fn main() -> Result<(), Box<dyn Error>> {
    let args = Args::parse();
    let config = json!({
        "arch": ARCH,
        "vocab_size": args.vocab,
        "num_layers": args.layers,
        "model_dim": args.dim,
        "num_heads": args.heads,
        "num_kv_heads": args.kv_heads,
        "mlp_mult": args.mlp_mult,
        "tie_embeddings": true,
        "logit_softcap": 30.0,
        "rope_base": 10000.0,
        "train_seq_len": args.context,
    })
    .to_string();
    // The architecture itself says which tensors it wants.
    let specs = nets::build(&Config::from_json(&config)?)?.tensors();

    std::fs::create_dir_all(&args.folder)?;
    std::fs::write(args.folder.join("config.json"), &config)?;
    let mut random = Random::new(args.seed);
    let raw: Vec<(Dtype, Vec<u8>)> = specs.iter().map(|spec| tensor(spec, &mut random)).collect();
    let views = specs
        .iter()
        .zip(&raw)
        .map(|(spec, (dtype, bytes))| Ok((&spec.name, TensorView::new(*dtype, spec.shape.clone(), bytes)?)))
        .collect::<Result<Vec<_>, safetensors::SafeTensorError>>()?;
    serialize_to_file(views, None, &args.folder.join("model.safetensors"))?;
    for (name, count) in [("train_000.bin", args.train_tokens), ("val_000.bin", args.val_tokens)] {
        shard(&args.folder.join(name), count, args.vocab, &mut random)?;
    }
    let matrices = specs.iter().filter(|spec| spec.form != Form::Vector);
    let weights: usize = matrices.map(|spec| spec.shape.iter().product::<usize>()).sum();
    println!("{weights} weights in {} tensors, seed {}", specs.len(), args.seed);
    Ok(())
}

/// Element type and bytes of a tensor: matrices in bf16, vectors around their initial values in f32.
fn tensor(spec: &TensorSpec, random: &mut Random) -> (Dtype, Vec<u8>) {
    let count = spec.shape.iter().product();
    match (spec.form, &spec.shape[..]) {
        (Form::Matrix | Form::Embedding, &[.., inputs]) => {
            let deviation = (inputs as f64).sqrt().recip();
            let weight = |_| bf16::from_f64(deviation * random.gaussian()).to_le_bytes();
            (Dtype::BF16, (0..count).flat_map(weight).collect())
        }
        _ => {
            // `resid_mix` is (2, D): all of the stream, nothing of the embedding.
            let mean =
                |i: usize| if spec.shape.len() == 2 && spec.layer.is_some() && 2 * i >= count { 0.0 } else { 1.0 };
            let value = |i| ((mean(i) + 0.1 * random.gaussian()) as f32).to_le_bytes();
            (Dtype::F32, (0..count).flat_map(value).collect())
        }
    }
}

/// Writes `count` tokens below `vocab`: id t about as often as 1 / t.
fn shard(path: &Path, count: usize, vocab: usize, random: &mut Random) -> std::io::Result<()> {
    let mut header = [0i32; 256];
    header[..3].copy_from_slice(&[20_240_520, 1, count as i32]);
    let token = |_| ((vocab as f64).powf(random.uniform()) as usize % vocab) as u16;
    let tokens: Vec<u16> = (0..count).map(token).collect();
    let header = header.iter().flat_map(|v| v.to_le_bytes());
    std::fs::write(path, header.chain(tokens.iter().flat_map(|t| t.to_le_bytes())).collect::<Vec<u8>>())
}
