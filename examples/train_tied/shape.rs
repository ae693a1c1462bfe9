//! Shapes: which stored layers a network has and in which order they run, as a `config.json`.

use serde_json::{Map, Value, json};
use tiepack::error::{Error, Result};
use tiepack::ingest::Config;
use tiepack::nets::golf::ARCH;
use tiepack::nets::{self, Form};

use super::args::{Args, Shape};

/// Bytes of header, names and metadata in a packed file, about; a control value takes one byte.
const OVERHEAD: f64 = 600.0;

/// The configuration that the arguments ask for. With `--bits` the width is the largest whose weights, at so many bits each,
/// fit the cap.
///
/// # Errors
/// Usage, if the arguments do not fit together.
pub fn config(args: &Args) -> Result<Config> {
    let Some(bits) = args.bits else { return of_width(args, args.dim) };
    let cap = args.cap.ok_or_else(|| Error::usage("--bits needs --cap").hint("--cap 160000 --bits 2.5"))? as f64;
    let unit = 2 * args.heads;
    let fits = |width: usize| Ok::<_, Error>(packed_bytes(&of_width(args, width)?, bits)? <= cap);
    let mut width = unit;
    while fits(width + unit)? {
        width += unit;
    }
    match fits(width)? {
        true => of_width(args, width),
        false => Err(Error::usage(format!("no network {unit} wide or more fits {cap} bytes at {bits} bits a weight"))
            .hint("raise --cap, lower --bits or --vocab")),
    }
}

/// Matrices and embeddings, and control values, of a network.
pub fn sizes(config: &Config) -> Result<(usize, usize)> {
    let specs = nets::build(config)?.tensors();
    let count = |vectors: bool| {
        let of_kind = specs.iter().filter(|spec| (spec.form == Form::Vector) == vectors);
        of_kind.map(|spec| spec.shape.iter().product::<usize>()).sum()
    };
    Ok((count(false), count(true)))
}

fn packed_bytes(config: &Config, bits: f64) -> Result<f64> {
    let (weights, values) = sizes(config)?;
    Ok(weights as f64 * bits / 8.0 + values as f64 + OVERHEAD)
}

fn of_width(args: &Args, width: usize) -> Result<Config> {
    let depth = args.layers;
    let mut fields = json!({
        "arch": ARCH,
        "vocab_size": args.vocab,
        "num_layers": depth,
        "model_dim": width,
        "num_heads": args.heads,
        "num_kv_heads": args.kv_heads,
        "mlp_mult": args.mlp_mult,
        "tie_embeddings": true,
        "logit_softcap": 30.0,
        "rope_base": 10000.0,
        "train_seq_len": args.context,
    });
    let mut set = |key: &str, value: Value| fields[key] = value;
    let fewer = |what: &str, n: usize| {
        let wrong = || Error::usage(format!("{what} {n}: the network runs {depth} layers (--layers)"));
        (1..=depth).contains(&n).then_some(n).ok_or_else(wrong)
    };
    match args.shape {
        Shape::Untied | Shape::Dynamic => {}
        Shape::Albert | Shape::Universal => {
            set("num_layers", 1.into());
            set("loop", vec![0; depth].into());
            if args.shape == Shape::Universal {
                set("depth_embedding", true.into());
            }
        }
        Shape::Cycle => {
            let blocks = fewer("--blocks", args.blocks)?;
            set("num_layers", blocks.into());
            set("loop", (0..depth).map(|step| step % blocks).collect());
            if args.rank > 0 {
                set("lora_rank", args.rank.into());
            }
        }
        Shape::Trunk => {
            fewer("--early and --late and a trunk:", args.early + args.late + 1)?;
            set("num_layers", (args.early + 1).into());
            set("loop", (0..depth).map(|step| step.min(args.early)).collect());
            if args.rank > 0 && args.late > 0 {
                set("lora_rank", args.rank.into());
                set("lora_steps", (depth - args.late..depth).collect());
            }
        }
    }
    if let Some(width) = args.embedding_dim {
        set("embedding_dim", width.into());
    }
    let fields: Map<String, Value> = fields.as_object().cloned().unwrap_or_default();
    let config = Config { arch: ARCH.to_string(), fields };
    // A width that the heads do not divide is the command line's fault.
    nets::build(&config).map_err(|e| Error::usage(e.message)).map(|_| config)
}
