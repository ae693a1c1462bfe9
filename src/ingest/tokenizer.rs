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
mod lengths;
pub mod sentencepiece;
mod wire;

use std::path::Path;

use crate::error::{Error, Result};
pub use lengths::Lengths;
use lengths::Rebuilt;
use wire::{Fields, Value};

/// What `--tokenizer` says for models of raw bytes, where every token is one.
pub const BYTES: &str = "bytes";
/// SentencePiece's mark of a space before a word.
const SPACE: char = '\u{2581}';
/// No vocabulary is larger, and ids must not claim memory that the file does not have.
const MAX_IDS: usize = 1 << 20;

/// Bytes that every token id adds to the text.
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
    /// How their text is rebuilt, where that is known.
    pub rebuilt: Option<Rebuilt>,
}

impl TokenBytes {
    /// The table of a model with `vocab` token ids: from a file, or, where `path` is [`BYTES`], one byte a token.
    ///
    /// A `tokenizer.json` and a SentencePiece model may know fewer ids: embeddings are often padded.
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
        if is_json(bytes) { json::parse(bytes) } else { TokenBytes::sentencepiece(bytes) }
    }

    /// A table of plain counts: nothing depends on the token before.
    fn of_counts(bytes: Vec<u32>) -> TokenBytes {
        let none = vec![false; bytes.len()];
        TokenBytes { bytes, leading_space: none.clone(), boundary: none, padded: false, rebuilt: None }
    }

    /// Ids beyond the table become boundaries of no bytes.
    fn resize(&mut self, length: usize) {
        self.bytes.resize(length, 0);
        self.leading_space.resize(length, false);
        self.boundary.resize(length, true);
    }

    fn sentencepiece(model: &[u8]) -> Result<TokenBytes> {
        let mut table = TokenBytes { padded: true, ..TokenBytes::of_counts(Vec::new()) };
        let mut rebuilt = Rebuilt::default();
        let mut fields = Fields(model);
        while let Some((number, value)) = fields.next().map_err(|fault| refused(model, &fields, fault))? {
            let Value::Bytes(piece) = value else { continue };
            if number != 1 {
                // What is no message here is none that matters: the pieces were read.
                let flag = |wanted| flag(piece, wanted).unwrap_or_default();
                match number {
                    2 => rebuilt.suffix = flag(24).unwrap_or(false),
                    3 => rebuilt.dummy = flag(3).unwrap_or(true),
                    _ => {}
                }
                continue;
            }
            let id = table.bytes.len();
            if id == MAX_IDS {
                return Err(Error::input(format!("more than {MAX_IDS} pieces: no known vocabulary is larger")));
            }
            table.push(piece, &mut rebuilt).map_err(|fault| Error::input(format!("piece {id} {fault}")))?;
        }
        if table.bytes.is_empty() {
            return Err(Error::input("not a SentencePiece model: no pieces"));
        }
        table.rebuilt = Some(rebuilt);
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
    /// An id has no piece; [`TokenBytes::check_vocab`] and [`super::tokens::TokenStream::read`] rule that out.
    pub fn bytes_of(&self, previous: u32, target: u32) -> u32 {
        let (previous, target) = (previous as usize, target as usize);
        self.bytes[target] + u32::from(self.leading_space[target] && !self.boundary[previous])
    }

    /// Appends one `SentencePiece` message. An error completes the sentence "piece 7 …".
    fn push(&mut self, message: &[u8], rebuilt: &mut Rebuilt) -> std::result::Result<(), String> {
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
        rebuilt.push(text, kind);
        self.bytes.push(bytes);
        self.leading_space.push(space);
        self.boundary.push(boundary);
        Ok(())
    }
}

/// A number of a message as yes or no; `None`: it is absent.
fn flag(message: &[u8], wanted: u64) -> std::result::Result<Option<bool>, &'static str> {
    let (mut fields, mut found) = (Fields(message), None);
    while let Some((number, value)) = fields.next()? {
        match value {
            Value::Varint(value) if number == wanted => found = Some(value != 0),
            _ => {}
        }
    }
    Ok(found)
}

/// Whether a tokenizer is written in JSON; otherwise it is a SentencePiece model.
pub fn is_json(bytes: &[u8]) -> bool {
    matches!(bytes.first(), Some(b'{' | b'['))
}

fn refused(model: &[u8], rest: &Fields, fault: &str) -> Error {
    let at = model.len() - rest.0.len();
    Error::input(format!("not a SentencePiece model: {fault} at byte {at} of {}", model.len()))
}
