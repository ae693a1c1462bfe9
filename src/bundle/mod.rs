//! A script that brings its own weights: the small decoder, the user's code and an artifact's streams in as few bytes as
//! Python can undo without a library of ours.
//!
//! What needs not be stored is left out: container, config, and on demand names. What the decoder needs of the header stands
//! in the code. Code is compressed with LZMA, which Python's standard library reads.

mod contents;
mod minify;
pub mod read;
mod source;
mod wrap;

use std::collections::BTreeSet;

use lzma_rust2::{EncodeMode, LzmaOptions, LzmaWriter};

pub use contents::Contents;
pub use source::{Import, Source};
pub use wrap::{BLOB_NAME, Container, Files, REQUIREMENT, is_bundle, reads};

use crate::code::entropy::indices::{BITS, NODES, PRIORS};
use crate::error::{Error, Result};

const DECODER_C: &str = include_str!("decoder.c");
const DECODER_PY: &str = include_str!("decoder.py");
const RUN_PY: &str = include_str!("run.py");
/// Where the part of decoder.c begins that only codec 0 needs.
const LOSSLESS_C: &str = "// --- Lossless";

/// The decoder of a bundle.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Decoder {
    /// The small decoder is part of the bundle
    Embed,
    /// `import tiepack`, named in a requirements.txt
    Import,
}

/// The parts of a bundle beside the weights.
pub struct Script<'a> {
    /// Its file's name, for tracebacks.
    pub name: &'a str,
    /// Python, encoded as its first lines say.
    pub bytes: &'a [u8],
    pub decoder: Decoder,
    pub form: Container,
}

/// Bytes of a bundle by purpose.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
pub struct Ledger {
    /// Streams, or the whole artifact where the decoder is imported.
    pub weights: u64,
    /// The user's script, compressed alone.
    pub script: u64,
    /// All else: the decoder, what it knows of the streams, what starts it; a requirements.txt.
    pub decoder: u64,
    /// What bytes take more where they are a comment.
    pub text: u64,
    pub total: u64,
}

/// Puts a bundle together. `weights` are the streams, or the whole artifact where the decoder is imported.
///
/// # Errors
/// Compute, when LZMA fails.
pub fn bundle(script: &Script, contents: &Contents, weights: &[u8]) -> Result<(Files, Ledger)> {
    let code = match script.decoder {
        Decoder::Import => script.bytes.to_vec(),
        Decoder::Embed => embedded(script, contents),
    };
    let code = compress(&code)?;
    let files = wrap::wrap(script, &code, weights)?;
    let alone = compress(script.bytes)?.len() as u64;
    let (total, weights, text) = (files.bytes(), weights.len() as u64, files.text);
    let decoder = total.saturating_sub(weights + alone + text);
    Ok((files, Ledger { weights, script: alone, decoder, text, total }))
}

/// Decoder, C, script and starting shapes, as run.py takes them apart.
fn embedded(script: &Script, contents: &Contents) -> Vec<u8> {
    let codecs: BTreeSet<u8> = contents.entries.iter().map(|entry| entry.codec).collect();
    let python = minify::python(&format!("{}\n{}", minify::only(DECODER_PY, &codecs), RUN_PY));
    // The facts come before what is run at once.
    let c = match codecs.contains(&0) {
        true => DECODER_C,
        false => DECODER_C.split(LOSSLESS_C).next().unwrap_or_default(),
    };
    let python = contents.python(script.name) + &python;
    [python.as_bytes(), minify::c(c).as_bytes(), script.bytes, &shapes()[..]].join(&0)
}

/// The starting shapes: differences between nodes, then between the two tables, bit by bit: so they compress best.
fn shapes() -> Vec<u8> {
    let at = |table: usize, node: usize, grid: usize, bit: usize| PRIORS[table][node][grid][bit] as u8;
    let step = |table: usize, node: usize, grid: usize, bit: usize| match node {
        0 => at(table, 0, grid, bit),
        _ => at(table, node, grid, bit).wrapping_sub(at(table, node - 1, grid, bit)),
    };
    let mut out = Vec::new();
    for table in 0..2 {
        for bit in 0..BITS {
            for grid in 0..2 {
                out.extend((0..NODES).map(|node| match table {
                    0 => step(0, node, grid, bit),
                    _ => step(1, node, grid, bit).wrapping_sub(step(0, node, grid, bit)),
                }));
            }
        }
    }
    out
}

/// LZMA in its oldest format, which has the shortest head, with the settings that do best.
fn compress(bytes: &[u8]) -> Result<Vec<u8>> {
    let mut best: Option<Vec<u8>> = None;
    for (lc, pb) in (0..=4).flat_map(|lc| [(lc, 0), (lc, 2)]) {
        let options = LzmaOptions {
            lc,
            pb,
            lp: 0,
            mode: EncodeMode::Normal,
            nice_len: 273,
            depth_limit: 1000,
            ..LzmaOptions::with_preset(9)
        };
        let options = LzmaOptions { dict_size: (bytes.len() as u32).next_power_of_two().max(1 << 12), ..options };
        let packed =
            LzmaWriter::new_use_header(Vec::new(), &options, Some(bytes.len() as u64)).and_then(|mut writer| {
                std::io::Write::write_all(&mut writer, bytes)?;
                writer.finish()
            });
        let packed = packed.map_err(|e| Error::compute(format!("LZMA failed: {e}")))?;
        if best.as_ref().is_none_or(|best| packed.len() < best.len()) {
            best = Some(packed);
        }
    }
    best.ok_or_else(|| Error::compute("LZMA was not tried"))
}

#[cfg(test)]
mod tests;
