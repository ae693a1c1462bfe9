//! Token shards: 256 little-endian i32 of header (magic, version, number of tokens), then the tokens as u16.

use std::path::{Path, PathBuf};

use crate::error::{Error, Result};

const MAGIC: i32 = 20_240_520;
const VERSION: i32 = 1;
const HEADER_BYTES: usize = 256 * 4;

/// The tokens of one shard file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shard {
    pub path: PathBuf,
    pub tokens: Vec<u16>,
}

impl Shard {
    /// Reads a shard.
    ///
    /// # Errors
    /// The file cannot be read, or [`parse`] refuses it; the message begins with the path.
    pub fn read(path: &Path) -> Result<Shard> {
        let bytes = std::fs::read(path).map_err(|e| Error::io("read", path, e))?;
        let tokens = parse(&bytes).map_err(|e| e.at(path.display()))?;
        Ok(Shard { path: path.to_path_buf(), tokens })
    }

    /// Refuses tokens that a model with `vocab` token ids has no embedding for.
    ///
    /// # Errors
    /// The first token ≥ `vocab`, with the file and the position.
    pub fn check_vocab(&self, vocab: usize) -> Result<()> {
        let Some(at) = self.tokens.iter().position(|&t| usize::from(t) >= vocab) else { return Ok(()) };
        let (path, token) = (self.path.display(), self.tokens[at]);
        Err(Error::input(format!("{path}: token {at} is {token}, but the model knows only ids below {vocab}"))
            .hint("the shard was made with another tokenizer than the model's"))
    }
}

/// Reads several shards and joins their tokens in the order given.
///
/// # Errors
/// As [`Shard::read`] and [`Shard::check_vocab`], for the first file at fault.
pub fn read_all(paths: &[PathBuf], vocab: usize) -> Result<Vec<u16>> {
    let mut tokens = Vec::new();
    for path in paths {
        let shard = Shard::read(path)?;
        shard.check_vocab(vocab)?;
        tokens.extend_from_slice(&shard.tokens);
    }
    Ok(tokens)
}

/// The tokens in the bytes of a shard.
///
/// # Errors
/// Shorter than its header, wrong magic or version, or another length than the count says.
pub fn parse(bytes: &[u8]) -> Result<Vec<u16>> {
    let Some((header, body)) = bytes.split_at_checked(HEADER_BYTES) else {
        let found = bytes.len();
        return Err(Error::input(format!("not a token shard: {found} bytes, the header alone is {HEADER_BYTES}")));
    };
    let field = |i: usize| i32::from_le_bytes([header[4 * i], header[4 * i + 1], header[4 * i + 2], header[4 * i + 3]]);
    if field(0) != MAGIC {
        return Err(Error::input(format!("not a token shard: magic {}, wanted {MAGIC}", field(0))));
    }
    if field(1) != VERSION {
        return Err(Error::input(format!("token shard of version {}, only version {VERSION} is known", field(1))));
    }
    let count = field(2);
    // Compared in i64, where neither a negative count nor a doubled one can wrap.
    if body.len() as i64 != 2 * i64::from(count) {
        let (found, half) = (body.len() / 2, if body.len() % 2 == 1 { " and a half" } else { "" });
        return Err(Error::input(format!("the header counts {count} tokens, the file holds {found}{half}"))
            .hint("the shard is truncated or was written by another tool"));
    }
    Ok(body.chunks_exact(2).map(|b| u16::from_le_bytes([b[0], b[1]])).collect())
}
