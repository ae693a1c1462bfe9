//! Token shards: 256 little-endian i32 of header (magic, version, number of tokens), then the tokens as u16.

use std::fs::File;
use std::io::{BufReader, Read};
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};

const MAGIC: i32 = 20_240_520;
const VERSION: i32 = 1;
const HEADER_BYTES: usize = 256 * 4;

/// The tokens of one shard file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shard {
    pub path: PathBuf,
    pub tokens: Vec<u32>,
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
        check(&self.path, 0, &self.tokens, vocab)
    }
}

/// Refuses ids ≥ `vocab` among `tokens`, the first of which is token `start` of the shard.
fn check(path: &Path, start: usize, tokens: &[u32], vocab: usize) -> Result<()> {
    let Some(at) = tokens.iter().position(|&t| t as usize >= vocab) else { return Ok(()) };
    let (path, token, at) = (path.display(), tokens[at], start + at);
    Err(Error::input(format!("{path}: token {at} is {token}, but the model knows only ids below {vocab}"))
        .hint("the shard was made with another tokenizer than the model's"))
}

/// Reads several shards and joins their tokens in the order given.
///
/// # Errors
/// As [`Shard::read`] and [`Shard::check_vocab`], for the first file at fault.
pub fn read_all(paths: &[PathBuf], vocab: usize) -> Result<Vec<u32>> {
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
pub fn parse(bytes: &[u8]) -> Result<Vec<u32>> {
    let Some((header, body)) = bytes.split_at_checked(HEADER_BYTES) else { return Err(short(bytes.len() as u64)) };
    count(header, body.len() as u64)?;
    Ok(words(body))
}

fn short(found: u64) -> Error {
    Error::input(format!("not a token shard: {found} bytes, the header alone is {HEADER_BYTES}"))
}

/// The number of tokens that a header counts, `body` bytes following it.
fn count(header: &[u8], body: u64) -> Result<usize> {
    let field = |i: usize| i32::from_le_bytes([header[4 * i], header[4 * i + 1], header[4 * i + 2], header[4 * i + 3]]);
    if field(0) != MAGIC {
        return Err(Error::input(format!("not a token shard: magic {}, wanted {MAGIC}", field(0))));
    }
    if field(1) != VERSION {
        return Err(Error::input(format!("token shard of version {}, only version {VERSION} is known", field(1))));
    }
    let count = field(2);
    // Compared in i64, where neither a negative count nor a doubled one can wrap.
    if i64::try_from(body).ok() != Some(2 * i64::from(count)) {
        let (found, half) = (body / 2, if body % 2 == 1 { " and a half" } else { "" });
        return Err(Error::input(format!("the header counts {count} tokens, the file holds {found}{half}"))
            .hint("the shard is truncated or was written by another tool"));
    }
    Ok(count as usize)
}

fn words(bytes: &[u8]) -> Vec<u32> {
    bytes.chunks_exact(2).map(|b| u32::from(u16::from_le_bytes([b[0], b[1]]))).collect()
}

/// The tokens of several shards, one after the other, read part by part: memory does not grow with their number.
#[derive(Debug)]
pub struct Stream {
    /// Shards still to be read, the last first, with their tokens.
    ahead: Vec<(PathBuf, usize)>,
    /// The open one, its tokens, and how many of them were read.
    open: Option<(PathBuf, BufReader<File>, usize, usize)>,
    vocab: usize,
    tokens: usize,
}

impl Stream {
    /// Checks the headers of all shards. Ids are held against `vocab` as they are read.
    ///
    /// # Errors
    /// As [`Shard::read`], for the first file at fault.
    pub fn open(paths: &[PathBuf], vocab: usize) -> Result<Stream> {
        let mut ahead = Vec::with_capacity(paths.len());
        for path in paths {
            ahead.push((path.clone(), header(path)?.1));
        }
        let tokens = ahead.iter().map(|(_, count)| count).sum();
        ahead.reverse();
        Ok(Stream { ahead, open: None, vocab, tokens })
    }

    /// Tokens of all shards.
    pub fn tokens(&self) -> usize {
        self.tokens
    }

    /// Appends the next tokens to `into`, at most `most`; returns how many, 0 at the end.
    ///
    /// # Errors
    /// A shard cannot be read, has changed, or has an id that the model does not know.
    pub fn read(&mut self, into: &mut Vec<u32>, most: usize) -> Result<usize> {
        loop {
            if let Some((path, file, count, at)) = &mut self.open {
                let wanted = most.min(*count - *at);
                if wanted > 0 {
                    let mut bytes = vec![0; 2 * wanted];
                    file.read_exact(&mut bytes).map_err(|e| Error::io("read", path, e))?;
                    let tokens = words(&bytes);
                    check(path, *at, &tokens, self.vocab)?;
                    *at += wanted;
                    into.extend(tokens);
                }
                if wanted > 0 || most == 0 {
                    return Ok(wanted);
                }
            }
            let Some((path, count)) = self.ahead.pop() else { return Ok(0) };
            let (file, found) = header(&path)?;
            if found != count {
                return Err(Error::input(format!("{} changed while it was being read", path.display())));
            }
            self.open = Some((path, file, count, 0));
        }
    }
}

/// Opens a shard at its first token.
fn header(path: &Path) -> Result<(BufReader<File>, usize)> {
    let fail = |e| Error::io("read", path, e);
    let file = File::open(path).map_err(fail)?;
    let size = file.metadata().map_err(fail)?.len();
    let Some(body) = size.checked_sub(HEADER_BYTES as u64) else {
        return Err(short(size).at(path.display()));
    };
    let mut file = BufReader::with_capacity(1 << 16, file);
    let mut header = [0; HEADER_BYTES];
    file.read_exact(&mut header).map_err(fail)?;
    let count = count(&header, body).map_err(|e| e.at(path.display()))?;
    Ok((file, count))
}
