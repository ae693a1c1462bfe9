//! The trained model as files, and what it loses on validation tokens.

use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use tiepack::error::{Error, Result};
use tiepack::eval::bits::{bits_per_byte, target_bytes};
use tiepack::eval::compare::losses;
use tiepack::eval::windows::Windows;
use tiepack::ingest::TokenBytes;
use tiepack::model::Model;
use tiepack::nets::Net;
use tiepack::progress::Progress;
use tiepack::save;
use tiepack::unpack::unpack;

use super::args::Args;

/// Writes `model.safetensors`, `config.json`, `ties.json` and a copy of the tokenizer.
///
/// # Errors
/// If a file cannot be written.
pub fn write(model: &Model, out: &Path, tokenizer: Option<&Path>) -> Result<()> {
    let files = unpack(model)?;
    if let Some(config) = files.config {
        save::save(&out.join("config.json"), config.as_bytes())?;
    }
    let own = || format!("{:#}\n", json!({"layers": model.layers, "copies": (0..model.layers).collect::<Vec<_>>()}));
    save::save(&out.join("ties.json"), files.ties.unwrap_or_else(own).as_bytes())?;
    if let Some((path, name)) = tokenizer.and_then(|path| Some((path, path.file_name()?))) {
        let bytes = std::fs::read(path).map_err(|e| Error::io("read", path, e))?;
        save::save(&out.join(name), &bytes)?;
    }
    save::save(&out.join("model.safetensors"), &files.weights)
}

/// The rows that the model is evaluated on.
///
/// # Errors
/// Input, if there are too few tokens for one.
pub fn rows<'a>(tokens: &'a [u32], net: &dyn Net, limit: Option<usize>) -> Result<Windows<'a>> {
    let windows = Windows::new(tokens, net.context(), limit);
    if windows.rows() == 0 {
        let (found, wanted) = (tokens.len(), net.context() + 1);
        return Err(Error::input(format!("{found} validation tokens fill no row, one takes {wanted}"))
            .hint("give more text in val_*.bin, or a smaller --context"));
    }
    Ok(windows)
}

/// Bits a weight of a packed file, unless --cap says otherwise.
const BITS: usize = 4;

/// The command that packs the model: calibrated on the text that it was trained on, judged on the validation text.
pub fn packing(args: &Args, shards: [&[PathBuf]; 2], weights: usize) -> String {
    // `cargo run` says so in the environment; a binary by itself is found on the path.
    let tiepack = if std::env::var_os("CARGO").is_some() { "cargo run --release --" } else { "tiepack" };
    let out = args.out.to_string_lossy();
    let out = if out.len() > 1 { out.trim_end_matches('/') } else { &out };
    let cap = args.cap.unwrap_or((weights * BITS / 8) as u64);
    let [calib, val] = [(shards[0], "--calib"), (shards[1], "--val")].map(|(paths, flag)| {
        paths.iter().map(|path| format!(" {flag} {}", quoted(&path.to_string_lossy()))).collect::<String>()
    });
    format!("{tiepack} pack {} -o {} --cap {cap}{calib}{val}", quoted(out), quoted(&format!("{out}.tiepack")))
}

/// A word of a shell's command line.
fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_alphanumeric() || "/._-+=:,@%".contains(c);
    if !word.is_empty() && word.chars().all(plain) { word.into() } else { format!("'{}'", word.replace('\'', "'\\''")) }
}

/// The loss on validation tokens, as `tiepack eval` measures it.
///
/// # Errors
/// If there are too few tokens for a row, or a pass fails.
pub fn evaluate(
    model: &Model,
    tokens: &[u32],
    limit: Option<usize>,
    table: Option<&TokenBytes>,
    progress: &dyn Progress,
) -> Result<Value> {
    let net = model.network()?;
    let windows = rows(tokens, net, limit)?;
    progress.begin("evaluate on validation", windows.rows() as u64);
    let losses = losses(net, &model.params()?, &windows, &|n| progress.advance(n))?;
    progress.end();
    let bytes = table.map(|table| target_bytes(&windows, table));
    Ok(json!({
        "nats_per_token": losses.mean(),
        "bits_per_byte": bytes.and_then(|bytes| bits_per_byte(losses.total(), bytes)),
        "tokens": windows.tokens(),
    }))
}
