//! Bytes per token, for losses in bits per byte: from a SentencePiece `.model`, a `tokenizer.json` ([`json`]), a table
//! of byte counts, or one byte for every token.
//!
//! SentencePiece is counted as the challenge counts: a byte piece is 1 byte; any other piece is its UTF-8 length without
//! one leading `▁` (U+2581, the mark of a space), and that space is 1 byte more unless the token before is a boundary
//! (control, unknown or unused), where no space is written; boundaries themselves are 0 bytes.
//!
//! The file is a protobuf of which three fields matter, so the wire format is read by hand:
//! `ModelProto { repeated SentencePiece pieces = 1 }`, `SentencePiece { string piece = 1; Type type = 3 }`.

mod json;

use std::path::Path;

use crate::error::{Error, Result};

/// What `--tokenizer` says for models of raw bytes, where every token is one.
pub const BYTES: &str = "bytes";
/// SentencePiece's mark of a space before a word.
const SPACE: char = '\u{2581}';
/// No vocabulary is larger, and ids must not claim memory that the file does not have.
const MAX_IDS: usize = 1 << 20;

/// What every token id adds to the length of the text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenBytes {
    /// Bytes without the leading space.
    pub bytes: Vec<u32>,
    /// The piece begins with `▁`.
    pub leading_space: Vec<bool>,
    /// Control, unknown or unused: no text, and no space is written after it.
    pub boundary: Vec<bool>,
    /// A model may know more ids than the table: it is of a kind whose embeddings are often padded.
    pub padded: bool,
}

impl TokenBytes {
    /// The table of a model with `vocab` token ids: from a file, or, where `path` is [`BYTES`], one byte a token.
    ///
    /// A `tokenizer.json` may know fewer ids: embeddings are often padded.
    ///
    /// # Errors
    /// The file cannot be read, [`TokenBytes::parse`] refuses it, or it is of another vocabulary; messages begin with
    /// the path.
    pub fn of_model(path: &Path, vocab: usize) -> Result<TokenBytes> {
        if path == Path::new(BYTES) {
            if vocab < 256 {
                return Err(Error::input(format!(
                    "--tokenizer {BYTES}: the model knows {vocab} token ids, bytes are 256"
                )));
            }
            return Ok(TokenBytes::of_counts(vec![1; vocab]));
        }
        let mut table = TokenBytes::read(path)?;
        if table.padded && table.bytes.len() < vocab {
            table.resize(vocab);
        }
        table.check_vocab(vocab).map_err(|e| e.at(path.display()))?;
        Ok(table)
    }

    /// Reads a tokenizer of any of the three kinds.
    ///
    /// # Errors
    /// The file cannot be read, or [`TokenBytes::parse`] refuses it; the message begins with the path.
    pub fn read(path: &Path) -> Result<TokenBytes> {
        let bytes = std::fs::read(path).map_err(|e| Error::io("read", path, e))?;
        TokenBytes::parse(&bytes).map_err(|e| e.at(path.display()))
    }

    /// Parses a SentencePiece model, a `tokenizer.json` or a JSON array of byte counts; the first byte says which.
    ///
    /// # Errors
    /// Ill-formed; no pieces, or more than 1,048,576; pieces of an unknown kind.
    pub fn parse(bytes: &[u8]) -> Result<TokenBytes> {
        match bytes.first() {
            Some(b'{' | b'[') => json::parse(bytes),
            _ => TokenBytes::sentencepiece(bytes),
        }
    }

    /// A table of plain counts: nothing depends on the token before.
    fn of_counts(bytes: Vec<u32>) -> TokenBytes {
        let none = vec![false; bytes.len()];
        TokenBytes { bytes, leading_space: none.clone(), boundary: none, padded: false }
    }

    /// Ids beyond the table become boundaries of no bytes.
    fn resize(&mut self, length: usize) {
        self.bytes.resize(length, 0);
        self.leading_space.resize(length, false);
        self.boundary.resize(length, true);
    }

    fn sentencepiece(model: &[u8]) -> Result<TokenBytes> {
        let mut table = TokenBytes::of_counts(Vec::new());
        let mut fields = Fields(model);
        while let Some((number, value)) = fields.next().map_err(|fault| refused(model, &fields, fault))? {
            let (1, Value::Bytes(piece)) = (number, value) else { continue };
            let id = table.bytes.len();
            if id == MAX_IDS {
                return Err(Error::input(format!("more than {MAX_IDS} pieces: no known vocabulary is larger")));
            }
            table.push(piece).map_err(|fault| Error::input(format!("piece {id} {fault}")))?;
        }
        if table.bytes.is_empty() {
            return Err(Error::input("not a SentencePiece model: no pieces"));
        }
        Ok(table)
    }

    /// Refuses a tokenizer that is not the model's.
    ///
    /// # Errors
    /// The number of pieces is not `vocab`.
    pub fn check_vocab(&self, vocab: usize) -> Result<()> {
        let pieces = self.bytes.len();
        if pieces == vocab {
            return Ok(());
        }
        Err(Error::input(format!("the tokenizer has {pieces} pieces, but the model knows {vocab} token ids"))
            .hint("give the tokenizer the model was trained with: --tokenizer"))
    }

    /// Bytes of text that `target` adds after `previous`.
    ///
    /// # Panics
    /// An id has no piece; [`TokenBytes::check_vocab`] and [`super::Shard::check_vocab`] rule that out.
    pub fn bytes_of(&self, previous: u32, target: u32) -> u32 {
        let (previous, target) = (previous as usize, target as usize);
        self.bytes[target] + u32::from(self.leading_space[target] && !self.boundary[previous])
    }

    /// Appends one `SentencePiece` message. An error completes the sentence "piece 7 …".
    fn push(&mut self, message: &[u8]) -> std::result::Result<(), String> {
        // What the fields are when absent: proto2's defaults.
        let (mut text, mut kind): (&[u8], u64) = (&[], 1);
        let mut fields = Fields(message);
        while let Some(field) = fields.next().map_err(|fault| format!("is damaged: {fault}"))? {
            match field {
                (1, Value::Bytes(bytes)) => text = bytes,
                (3, Value::Varint(value)) => kind = value,
                _ => {}
            }
        }
        let text = std::str::from_utf8(text).map_err(|e| format!("is not UTF-8: {e}"))?;
        let (bytes, space, boundary) = match kind {
            // Normal, user-defined.
            1 | 4 => match text.strip_prefix(SPACE) {
                Some(rest) => (rest.len() as u32, true, false),
                None => (text.len() as u32, false, false),
            },
            // Unknown, control, unused.
            2 | 3 | 5 => (0, false, true),
            // Byte.
            6 => (1, false, false),
            other => return Err(format!("({text:?}) has the unknown type {other}")),
        };
        self.bytes.push(bytes);
        self.leading_space.push(space);
        self.boundary.push(boundary);
        Ok(())
    }
}

fn refused(model: &[u8], rest: &Fields, fault: &str) -> Error {
    let at = model.len() - rest.0.len();
    Error::input(format!("not a SentencePiece model: {fault} at byte {at} of {}", model.len()))
}

/// The value of one protobuf field; fixed-width values are skipped over, nobody needs them.
enum Value<'a> {
    Varint(u64),
    Bytes(&'a [u8]),
    Fixed,
}

/// What is left of a protobuf message.
struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    /// The next field and its number; `None` at the end.
    fn next(&mut self) -> std::result::Result<Option<(u64, Value<'a>)>, &'static str> {
        if self.0.is_empty() {
            return Ok(None);
        }
        let key = self.varint()?;
        let value = match key & 7 {
            0 => Value::Varint(self.varint()?),
            1 => self.take(8).map(|_| Value::Fixed)?,
            2 => {
                let length = self.varint()?;
                Value::Bytes(self.take(length)?)
            }
            5 => self.take(4).map(|_| Value::Fixed)?,
            _ => return Err("unknown wire type"),
        };
        match key >> 3 {
            0 => Err("field number 0"),
            number => Ok(Some((number, value))),
        }
    }

    fn varint(&mut self) -> std::result::Result<u64, &'static str> {
        let mut value = 0u64;
        for shift in (0..64).step_by(7) {
            let (&byte, rest) = self.0.split_first().ok_or("a number that is cut off")?;
            self.0 = rest;
            // The tenth byte has room for one bit only.
            if shift == 63 && byte > 1 {
                break;
            }
            value |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Ok(value);
            }
        }
        Err("a number of more than 64 bits")
    }

    fn take(&mut self, length: u64) -> std::result::Result<&'a [u8], &'static str> {
        let split = usize::try_from(length).ok().and_then(|n| self.0.split_at_checked(n));
        let (taken, rest) = split.ok_or("a field that is cut off")?;
        self.0 = rest;
        Ok(taken)
    }
}
