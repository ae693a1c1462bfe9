//! Recognises the format of a file of tokens by its content; its name decides only where numbers without a header could be anything.

use std::fs::File;
use std::io::{ErrorKind, Read};
use std::path::Path;

use serde_json::{Map, Value};

use super::documents::{self, Compression, Text};
use super::numbers::{self, Element, U16, U32};
use super::{Reading, TokenFormat, header, npy};
use crate::error::{Error, Result};

/// What is looked at: enough for every header, and for telling numbers from text.
const HEAD: usize = 1 << 16;
/// Endings of text, and of lines of JSON.
const TEXT: [&str; 4] = ["txt", "text", "md", "rst"];
const JSONL: [&str; 2] = ["jsonl", "ndjson"];
/// Endings of numbers without a header, which say nothing about their width.
const NUMBERS: [&str; 9] = ["bin", "raw", "dat", "tok", "tokens", "u16", "u32", "uint16", "uint32"];
/// How to make something of what is not read.
const MAKE: &str = "make lines of JSON of it, as `pandas.read_parquet(FILE)[['text']].to_json('FILE.jsonl', orient='records', \
     lines=True)`, or save token ids with numpy.save";

/// What was found.
pub enum Found {
    Numbers { start: u64, element: Element, count: usize },
    Text(Text),
}

/// Finds out what the file at `path`, of `size` bytes, is.
///
/// # Errors
/// It cannot be read; it is nothing that holds tokens or text, or could be several things; its header is not that of the rest.
pub fn recognise(path: &Path, size: u64, reading: &Reading, vocab: usize) -> Result<Found> {
    let place = path.display();
    let head =
        head(File::open(path).map_err(|e| Error::io("read", path, e))?).map_err(|e| Error::io("read", path, e))?;
    let compression = Compression::of(&head);
    let kind = match reading.kind {
        Some(kind) => kind,
        None => kind(path, &head, compression, reading)?,
    };
    if compression != Compression::None && !matches!(kind, TokenFormat::Text | TokenFormat::Jsonl) {
        return Err(Error::input(format!("{place} is compressed: of compressed files text alone is read"))
            .hint("decompress it first"));
    }
    let raw = |element: Element| {
        let (width, rest) = (element.width as u64, size % element.width as u64);
        if rest != 0 {
            return Err(Error::input(format!("{place}: {size} bytes are no whole number of uint{}", 8 * width)));
        }
        Ok(Found::Numbers { start: 0, element, count: (size / width) as usize })
    };
    match kind {
        TokenFormat::Shard => {
            let (element, count) = header::parse(&head, size).map_err(|e| e.at(place))?;
            Ok(Found::Numbers { start: header::BYTES as u64, element, count })
        }
        TokenFormat::Npy if !head.starts_with(npy::MAGIC) => Err(Error::input(format!("{place} is no .npy file"))),
        TokenFormat::Npy => {
            let (start, element, count) = npy::parse(&head, size).map_err(|e| e.at(place))?;
            Ok(Found::Numbers { start, element, count })
        }
        // Unless it was said which.
        TokenFormat::U16 | TokenFormat::U32 if reading.kind.is_none() => {
            let hint = "say which with --tokens u16 or u32, or give the tokens of this model's tokenizer";
            raw(numbers::width(&head, size, vocab).map_err(|why| Error::input(format!("{place} {why}")).hint(hint))?)
        }
        TokenFormat::U16 => raw(U16),
        TokenFormat::U32 => raw(U32),
        TokenFormat::Text => Ok(Found::Text(Text { compression, lines: false })),
        TokenFormat::Jsonl => Ok(Found::Text(Text { compression, lines: true })),
    }
}

/// The kind of a file, by its first bytes and its name. Raw numbers are [`TokenFormat::U16`], of whatever width.
fn kind(path: &Path, head: &[u8], compression: Compression, reading: &Reading) -> Result<TokenFormat> {
    let place = path.display();
    if compression == Compression::None {
        if head.starts_with(npy::MAGIC) {
            return Ok(TokenFormat::Npy);
        }
        if header::begins(head) {
            return Ok(TokenFormat::Shard);
        }
        let named: [(&[u8], &str, &str); 6] = [
            (b"PAR1", "a Parquet file", MAKE),
            (b"ARROW1", "an Arrow file", MAKE),
            (b"PK\x03\x04", "a zip archive or an .npz", "give one array of it, as numpy.save writes it"),
            (b"\xfe\xff", "text in UTF-16", "convert it to UTF-8"),
            (b"BZh", "compressed with bzip2", "decompress it first, or compress it with gzip or zstd"),
            (b"\xfd7zXZ", "compressed with xz", "decompress it first, or compress it with gzip or zstd"),
        ];
        if let Some((_, what, hint)) = named.iter().find(|(magic, ..)| head.starts_with(magic)) {
            return Err(Error::input(format!("{place} is {what}, which is not read")).hint(*hint));
        }
    }
    // What follows in a compressed file is looked at the same way.
    let (inner, name) = match compression {
        Compression::None => (head.to_vec(), path.to_path_buf()),
        _ => {
            let file = File::open(path).map_err(|e| Error::io("read", path, e))?;
            let read = documents::open(file, compression).and_then(self::head);
            (read.map_err(|e| documents::broken(path, compression, 0, &e))?, path.with_extension(""))
        }
    };
    let ending = name.extension().map(|e| e.to_string_lossy().to_lowercase()).unwrap_or_default();
    let (ending, text) = (ending.as_str(), is_text(&inner));
    if JSONL.contains(&ending) {
        return Ok(TokenFormat::Jsonl);
    }
    if TEXT.contains(&ending) {
        return Ok(TokenFormat::Text);
    }
    if compression != Compression::None || text && !NUMBERS.contains(&ending) {
        return Ok(if lines(&inner, reading) { TokenFormat::Jsonl } else { TokenFormat::Text });
    }
    match (text, NUMBERS.contains(&ending)) {
        (false, true) => Ok(TokenFormat::U16),
        (true, _) => Err(Error::input(format!("{place} is named as tokens are, and could be text"))
            .hint("say what it is with --tokens text, jsonl, u16 or u32")),
        (false, false) => {
            Err(Error::input(format!("{place} is neither text in UTF-8 nor a file of tokens that is known"))
                .hint("numbers without a header are read with --tokens u16 or u32"))
        }
    }
}

/// The first bytes of a file, at most [`HEAD`].
fn head(file: impl Read) -> std::io::Result<Vec<u8>> {
    let mut head = Vec::new();
    match file.take(HEAD as u64).read_to_end(&mut head) {
        // The beginning of what is cut off later.
        Err(e) if e.kind() != ErrorKind::UnexpectedEof || head.is_empty() => Err(e),
        _ => Ok(head),
    }
}

/// UTF-8, but perhaps for a last character that is cut off, without control characters that no text has.
fn is_text(head: &[u8]) -> bool {
    let whole = match std::str::from_utf8(head) {
        Ok(_) => true,
        Err(e) => e.error_len().is_none() && head.len() == HEAD,
    };
    whole && !head.iter().any(|b| *b < 0x20 && !matches!(b, b'\t' | b'\n' | b'\r' | 0x0c | 0x1b))
}

/// Whether the first line is an object with the text in a field.
fn lines(head: &[u8], reading: &Reading) -> bool {
    let first = head.split(|b| *b == b'\n').next().unwrap_or_default();
    let object = serde_json::from_slice::<Map<String, Value>>(first).ok();
    object.is_some_and(|object| {
        object.get(reading.field.as_deref().unwrap_or(documents::FIELD)).is_some_and(Value::is_string)
    })
}
