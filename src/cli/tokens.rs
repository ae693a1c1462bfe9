//! `tiepack tokens`: a shard from text.

use std::path::{Path, PathBuf};

use serde::Serialize;

use super::args::TokensArgs;
use super::figures::count;
use super::guard;
use super::output::OutputKind;
use crate::error::Result;
use crate::ingest::tokenizer::BYTES;
use crate::ingest::tokens::header;
use crate::ingest::{Reading, TokenBytes, TokenStream, folder};
use crate::progress::Progress;
use crate::save;

/// A shard that was written.
#[derive(Debug, Serialize)]
pub struct Made {
    pub output: PathBuf,
    /// Files that were read.
    pub files: usize,
    pub tokens: usize,
    /// Bits of a token in the shard.
    pub bits: usize,
    /// Token ids of the tokenizer.
    pub vocab: usize,
    /// Bytes of the text; `None` where tokens were read.
    pub text_bytes: Option<u64>,
}

/// # Errors
/// A file or the tokenizer is unusable, or the shard cannot be written.
pub fn run(args: &TokensArgs, progress: &dyn Progress) -> Result<Made> {
    let paths = folder::shards(&args.text, Path::new("."), "")?;
    let inputs: Vec<PathBuf> = paths.iter().chain([&args.tokenizer]).cloned().collect();
    // Shards look like anybody's.
    guard::outputs(&[OutputKind::Anonymous.at(&args.output)], &inputs, args.writing.force)?;
    let vocab = match args.tokenizer == Path::new(BYTES) {
        true => 256,
        false => TokenBytes::read(&args.tokenizer)?.bytes.len(),
    };
    progress.begin("make tokens", 0);
    let reading = Reading { tokenizer: Some(args.tokenizer.clone()), ..args.reading.reading() };
    let mut stream = TokenStream::open(&paths, &reading, vocab)?;
    let tokens = stream.tokens();
    let (head, bits) = header::of(vocab, tokens)?;
    let mut file = save::begin(&args.output)?;
    file.write(&head)?;
    let mut part = Vec::new();
    while stream.read(&mut part, 1 << 16)? > 0 {
        let bytes = part.drain(..).flat_map(|id| id.to_le_bytes().into_iter().take(bits / 8));
        file.write(&bytes.collect::<Vec<_>>())?;
    }
    file.commit()?;
    progress.end();
    let (output, files) = (args.output.clone(), paths.len());
    Ok(Made { output, files, tokens, bits, vocab, text_bytes: stream.text_bytes() })
}

impl Made {
    pub fn text(&self) -> String {
        let of = match self.text_bytes {
            Some(bytes) => {
                let each = bytes as f64 / self.tokens.max(1) as f64;
                format!(" of {} bytes of text, {each:.3} bytes each", count(bytes as usize))
            }
            None => String::new(),
        };
        format!("{}: {} tokens of {} bits{of}\n", self.output.display(), count(self.tokens), self.bits)
    }
}
