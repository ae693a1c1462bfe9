//! Files that tokens come from: shards of several makers, raw numbers, `.npy`, and text, which is tokenized on the way in.
//!
//! What a file is, its content says, and where that leaves a doubt, its name; where both do, it is refused with the way out.

mod documents;
pub mod encode;
pub mod header;
mod npy;
mod numbers;
mod recognise;

use std::fs::File;
use std::io::{BufReader, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};
use encode::Encoder;
use numbers::Element;
use recognise::Found;

/// The format of a file of tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TokenFormat {
    /// With a header of 256 integers: the challenge's, modded-nanogpt's, llm.c's.
    Shard,
    /// Little-endian, without a header.
    U16,
    U32,
    /// An array of integers as numpy saves it.
    Npy,
    /// A document, perhaps compressed.
    Text,
    /// A document in a field of every line.
    Jsonl,
}

/// Settings of reading files of tokens.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Reading {
    /// `None`: as each file's content says.
    pub kind: Option<TokenFormat>,
    /// Where a line of JSON has its text; `None`: in `text`.
    pub field: Option<String>,
    /// What makes tokens of text.
    pub tokenizer: Option<PathBuf>,
}

/// The extent of the tokens of one file.
#[derive(Debug)]
struct Extent {
    path: PathBuf,
    /// Size of the file, `None` where its tokens are in the spill.
    size: Option<u64>,
    start: u64,
    element: Element,
    count: usize,
}

/// The tokens of several files, one after the other, read part by part: memory does not grow with their number. Those of text
/// are kept in a temporary file.
#[derive(Debug)]
pub struct TokenStream {
    extents: Vec<Extent>,
    spill: Option<File>,
    /// The open file, its place, and how many of its tokens were read.
    open: Option<(BufReader<File>, usize, usize)>,
    /// The place to open next.
    next: usize,
    vocab: usize,
    tokens: usize,
    text_bytes: Option<u64>,
}

impl TokenStream {
    /// Finds out what all files are, and makes tokens of text. Other ids are held against `vocab` as they are read.
    ///
    /// # Errors
    /// A file cannot be read, is none of [`TokenFormat`] or not what was said, or is text and there is no tokenizer for it.
    pub fn open(paths: &[PathBuf], reading: &Reading, vocab: usize) -> Result<TokenStream> {
        let mut extents = Vec::with_capacity(paths.len());
        let mut texts = Texts::default();
        for path in paths {
            let size = size(path)?;
            extents.push(match recognise::recognise(path, size, reading, vocab)? {
                Found::Numbers { start, element, count } => {
                    Extent { path: path.clone(), size: Some(size), start, element, count }
                }
                Found::Text(text) => texts.add(path, &text, reading, vocab)?,
            });
        }
        let tokens = extents.iter().map(|extent| extent.count).sum();
        // Of a mixture nobody knows how long its text is.
        let text_bytes = extents.iter().all(|extent| extent.size.is_none()).then_some(texts.bytes);
        let spill = texts.spill.map(|spill| spill.into_inner().map_err(|e| spilled(e.into_error()))).transpose()?;
        Ok(TokenStream { extents, spill, open: None, next: 0, vocab, tokens, text_bytes })
    }

    /// Tokens of all files.
    pub fn tokens(&self) -> usize {
        self.tokens
    }

    /// Bytes of the text that the tokens were made of; `None`: that is not known.
    pub fn text_bytes(&self) -> Option<u64> {
        self.text_bytes
    }

    /// Begins anew.
    pub fn rewind(&mut self) {
        (self.open, self.next) = (None, 0);
    }

    /// Appends the next tokens to `into`, at most `most`; returns how many, 0 at the end.
    ///
    /// # Errors
    /// A file cannot be read, has changed, or has an id that the model does not know.
    pub fn read(&mut self, into: &mut Vec<u32>, most: usize) -> Result<usize> {
        loop {
            if let Some((file, extent, at)) = &mut self.open {
                let Extent { path, element, count, .. } = &self.extents[*extent];
                let wanted = most.min(*count - *at);
                if wanted > 0 {
                    let mut bytes = vec![0; element.width * wanted];
                    file.read_exact(&mut bytes).map_err(|e| Error::io("read", path, e))?;
                    element.decode(&bytes, *at, into).map_err(|e| e.at(path.display()))?;
                    check(path, *at, &into[into.len() - wanted..], self.vocab)?;
                    *at += wanted;
                }
                if wanted > 0 || most == 0 {
                    return Ok(wanted);
                }
            }
            let Some(extent) = self.extents.get(self.next) else { return Ok(0) };
            self.open = Some((open(extent, self.spill.as_ref())?, self.next, 0));
            self.next += 1;
        }
    }

    /// All tokens that are left.
    ///
    /// # Errors
    /// As [`TokenStream::read`].
    pub fn rest(&mut self) -> Result<Vec<u32>> {
        let mut tokens = Vec::with_capacity(self.tokens);
        while self.read(&mut tokens, 1 << 16)? > 0 {}
        Ok(tokens)
    }
}

/// Refuses ids ≥ `vocab` among `tokens`, the first of which is token `start` of the file.
fn check(path: &Path, start: usize, tokens: &[u32], vocab: usize) -> Result<()> {
    let Some(at) = tokens.iter().position(|&t| t as usize >= vocab) else { return Ok(()) };
    let (path, token, at) = (path.display(), tokens[at], start + at);
    Err(Error::input(format!("{path}: token {at} is {token}, but the model knows only ids below {vocab}"))
        .hint("the tokens were made with another tokenizer than the model's, or the file is of another kind: --tokens"))
}

/// Opens a file at its first token.
fn open(extent: &Extent, spill: Option<&File>) -> Result<BufReader<File>> {
    let fail = |e| Error::io("read", &extent.path, e);
    let mut file = match (extent.size, spill) {
        (None, Some(spill)) => spill.try_clone().map_err(spilled)?,
        _ => File::open(&extent.path).map_err(fail)?,
    };
    if extent.size.is_some_and(|size| file.metadata().is_ok_and(|now| now.len() != size)) {
        return Err(Error::input(format!("{} changed while it was being read", extent.path.display())));
    }
    file.seek(SeekFrom::Start(extent.start)).map_err(fail)?;
    Ok(BufReader::with_capacity(1 << 16, file))
}

/// Bytes of an ordinary file.
fn size(path: &Path) -> Result<u64> {
    let metadata = std::fs::metadata(path).map_err(|e| Error::io("read", path, e))?;
    if !metadata.is_file() {
        let (what, path) = (if metadata.is_dir() { "a folder" } else { "no ordinary file" }, path.display());
        return Err(Error::input(format!("{path} is {what}, wanted a file of tokens or text"))
            .hint("name files, or a pattern of their names"));
    }
    if metadata.len() == 0 {
        return Err(Error::input(format!("{} is empty", path.display())));
    }
    Ok(metadata.len())
}

fn spilled(e: std::io::Error) -> Error {
    Error::input(format!("cannot keep the tokens of text in a temporary file: {e}"))
        .hint("make room in the folder for temporary files, or name another in TMPDIR")
}

/// The tokens of texts, in a temporary file.
#[derive(Default)]
struct Texts {
    spill: Option<std::io::BufWriter<File>>,
    encoder: Option<Encoder>,
    bytes: u64,
    /// Bytes of the temporary file.
    end: u64,
    /// Documents so far.
    documents: usize,
}

impl Texts {
    fn add(&mut self, path: &Path, text: &documents::Text, reading: &Reading, vocab: usize) -> Result<Extent> {
        let encoder = match self.encoder.take() {
            Some(encoder) => encoder,
            None => Encoder::of_model(reading.tokenizer.as_deref(), path, vocab)?,
        };
        let mut spill = match self.spill.take() {
            Some(spill) => spill,
            None => std::io::BufWriter::new(tempfile::tempfile().map_err(spilled)?),
        };
        let (start, mut count) = (self.end, 0);
        self.bytes += documents::tokens(path, text, reading, &encoder, &mut self.documents, &mut |ids| {
            count += ids.len();
            ids.iter().try_for_each(|id| spill.write_all(&id.to_le_bytes())).map_err(spilled)
        })?;
        self.end += 4 * count as u64;
        (self.encoder, self.spill) = (Some(encoder), Some(spill));
        Ok(Extent { path: path.to_path_buf(), size: None, start, element: numbers::U32, count })
    }
}
