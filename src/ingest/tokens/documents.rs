//! Documents of text, plain or in lines of JSON, perhaps compressed, as tokens: read piece by piece, so that memory does not
//! grow with them.

use std::fs::File;
use std::io::{self, BufRead, BufReader, ErrorKind, Read};
use std::path::Path;

use flate2::read::MultiGzDecoder;
use rayon::prelude::*;
use serde_json::{Map, Value};

use super::Reading;
use super::encode::Encoder;
use crate::error::{Error, Result};

/// Where a line of JSON has its text unless told otherwise.
pub const FIELD: &str = "text";
/// Bytes that are read at once.
const PART: usize = 1 << 20;
/// Text that is tokenized at once, by all threads.
const BATCH: usize = 8 << 20;
/// Longest document, or line, that must be tokenized as a whole.
const WHOLE: usize = 64 << 20;
/// Compressed text is at most so many times as long as its file: real text stays below 20.
const EXPANDS: u64 = 100;
/// What any compressed file may grow to.
const GROWS: u64 = 16 << 20;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compression {
    None,
    Gzip,
    Zstd,
}

impl Compression {
    /// By the first bytes of a file.
    pub fn of(head: &[u8]) -> Compression {
        match head {
            [0x1f, 0x8b, ..] => Compression::Gzip,
            [0x28, 0xb5, 0x2f, 0xfd, ..] => Compression::Zstd,
            _ => Compression::None,
        }
    }
}

/// The way in which a file holds its documents.
#[derive(Debug, Clone, Copy)]
pub struct Text {
    pub compression: Compression,
    /// One in every line of JSON; otherwise the file is one.
    pub lines: bool,
}

/// Part of a document.
struct Piece {
    text: String,
    begins: bool,
    ends: bool,
}

/// The bytes that a file holds, decompressed, no more than a text of its size can have.
pub fn open(file: File, compression: Compression) -> io::Result<Box<dyn Read>> {
    let size = file.metadata()?.len();
    let inner: Box<dyn Read> = match compression {
        Compression::None => return Ok(Box::new(file)),
        Compression::Gzip => Box::new(MultiGzDecoder::new(BufReader::new(file))),
        Compression::Zstd => {
            let mut decoder = zstd::stream::read::Decoder::new(file)?;
            // As the zstd program: a window of 128 MiB.
            decoder.window_log_max(27)?;
            Box::new(decoder)
        }
    };
    Ok(Box::new(Bounded { inner, left: size.saturating_mul(EXPANDS).saturating_add(GROWS) }))
}

/// Fails where a file expands to more than text can.
struct Bounded {
    inner: Box<dyn Read>,
    left: u64,
}

impl Read for Bounded {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(into)?;
        self.left = self.left.checked_sub(read as u64).ok_or(ErrorKind::FileTooLarge)?;
        Ok(read)
    }
}

/// What went wrong with a file after so many bytes of its text.
pub fn broken(path: &Path, compression: Compression, read: u64, e: &io::Error) -> Error {
    let place = path.display();
    if e.kind() == ErrorKind::FileTooLarge {
        let message = format!("{place} expands to more than {EXPANDS} times its size: no text does");
        return Error::input(message).hint("decompress it first if it is sound");
    }
    match compression {
        Compression::None => Error::input(format!("cannot read {place}: {e}")),
        _ => Error::input(format!("{place} is cut off or damaged after {read} bytes of text: {e}"))
            .hint("get the file anew: `gzip -t` or `zstd -t` says whether it is whole"),
    }
}

/// Hands the tokens of all documents of a file to `each`, in order and in parts, and returns the bytes of their text.
/// `documents` counts those that came before, and these.
///
/// # Errors
/// The file cannot be read or decompressed, is no UTF-8 or no JSON, has no text; those of `each`.
pub fn tokens(
    path: &Path,
    text: &Text,
    reading: &Reading,
    encoder: &Encoder,
    documents: &mut usize,
    each: &mut dyn FnMut(&[u32]) -> Result<()>,
) -> Result<u64> {
    let (mut batch, mut size, mut bytes) = (Vec::new(), 0, 0);
    let mut piece = |piece: Option<Piece>| {
        if let Some(piece) = piece {
            size += piece.text.len();
            bytes += piece.text.len() as u64;
            batch.push(piece);
            if size < BATCH {
                return Ok(());
            }
        }
        size = 0;
        let encoded: Vec<Vec<u32>> =
            batch.par_iter().map(|piece: &Piece| encoder.encode(&piece.text, piece.begins)).collect::<Result<_>>()?;
        for (piece, ids) in batch.drain(..).zip(encoded) {
            if piece.begins {
                each(&encoder.before(*documents > 0)?)?;
                *documents += 1;
            }
            each(&ids)?;
            if piece.ends {
                each(&encoder.after)?;
            }
        }
        Ok(())
    };
    if text.lines {
        lines(path, text.compression, reading, &mut |piece_| piece(Some(piece_)))?;
    } else {
        whole(path, text.compression, encoder, &mut |piece_| piece(Some(piece_)))?;
    }
    piece(None)?;
    if bytes == 0 {
        return Err(Error::input(format!("{} holds no text", path.display())));
    }
    Ok(bytes)
}

/// A file that is one document, in pieces that are tokenized as in one.
fn whole(
    path: &Path,
    compression: Compression,
    encoder: &Encoder,
    each: &mut dyn FnMut(Piece) -> Result<()>,
) -> Result<()> {
    let file = File::open(path).map_err(|e| Error::io("read", path, e))?;
    let mut file = open(file, compression).map_err(|e| broken(path, compression, 0, &e))?;
    let (mut held, mut read, mut begins) = (Vec::new(), 0, true);
    loop {
        let part = file.by_ref().take(PART as u64).read_to_end(&mut held);
        let part = part.map_err(|e| broken(path, compression, read + held.len() as u64, &e))?;
        if read == 0 && begins && held.starts_with(b"\xef\xbb\xbf") {
            held.drain(..3);
        }
        let valid = match std::str::from_utf8(&held) {
            Ok(text) => text,
            Err(e) if e.error_len().is_some() || part == 0 => {
                let at = read + e.valid_up_to() as u64;
                return Err(Error::input(format!("{}: byte {at} is no UTF-8", path.display()))
                    .hint("convert it to UTF-8; token ids are read with --tokens u16 or u32"));
            }
            Err(e) => std::str::from_utf8(&held[..e.valid_up_to()]).unwrap_or_default(),
        };
        if part == 0 {
            let text = valid.to_string();
            return if text.is_empty() && begins { Ok(()) } else { each(Piece { text, begins, ends: true }) };
        }
        match cut(valid, encoder)? {
            Some(at) => {
                each(Piece { text: valid[..at].to_string(), begins, ends: false })?;
                held.drain(..at);
                (read, begins) = (read + at as u64, false);
            }
            None if held.len() > WHOLE => {
                return Err(long(path, "a document").hint(
                    "its tokenizer cannot cut it at the end of a line; give documents as lines of JSON, {\"text\": …}",
                ));
            }
            None => {}
        }
    }
}

fn long(path: &Path, what: &str) -> Error {
    Error::input(format!("{}: {what} of more than {} MiB", path.display(), WHOLE >> 20))
}

/// The last place where text can be cut without a difference to its tokens, as far as its surroundings tell.
fn cut(text: &str, encoder: &Encoder) -> Result<Option<usize>> {
    // Bytes on either side that are tokenized both ways, and places that are tried.
    const AROUND: usize = 256;
    const TRIES: usize = 16;
    if text.len() < PART {
        return Ok(None);
    }
    let ends = text
        .as_bytes()
        .windows(2)
        .enumerate()
        .rev()
        .take(PART)
        .filter(|(_, b)| b[0] == b'\n' && b[1].is_ascii_alphanumeric());
    for (at, _) in ends.take(TRIES) {
        let at = at + 1;
        let (from, to) = (boundary(text, at.saturating_sub(AROUND)), boundary(text, at + AROUND));
        let joined = encoder.encode(&text[from..to], false)?;
        let [mut before, after] = [&text[from..at], &text[at..to]].map(|side| encoder.encode(side, false));
        before.as_mut().map_err(|e| e.clone())?.extend(after?);
        if before? == joined {
            return Ok(Some(at));
        }
    }
    Ok(None)
}

/// The beginning of the character at a byte.
fn boundary(text: &str, at: usize) -> usize {
    (0..=at.min(text.len())).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0)
}

/// A document in every line.
fn lines(
    path: &Path,
    compression: Compression,
    reading: &Reading,
    each: &mut dyn FnMut(Piece) -> Result<()>,
) -> Result<()> {
    let file = File::open(path).map_err(|e| Error::io("read", path, e))?;
    let file = open(file, compression).map_err(|e| broken(path, compression, 0, &e))?;
    let mut file = BufReader::with_capacity(PART, file);
    let (mut line, mut read) = (Vec::new(), 0);
    let field = reading.field.as_deref().unwrap_or(FIELD);
    for number in 1.. {
        line.clear();
        let found = file.by_ref().take(WHOLE as u64 + 1).read_until(b'\n', &mut line);
        let found = found.map_err(|e| broken(path, compression, read + line.len() as u64, &e))?;
        read += found as u64;
        if found == 0 {
            break;
        }
        if line.len() > WHOLE {
            return Err(long(path, &format!("line {number} is")));
        }
        let text = if number == 1 { line.strip_prefix(b"\xef\xbb\xbf").unwrap_or(&line) } else { &line };
        if text.iter().all(u8::is_ascii_whitespace) {
            continue;
        }
        let at = |e: Error| e.at(format!("{}: line {number}", path.display()));
        let mut object: Map<String, Value> =
            serde_json::from_slice(text).map_err(|e| at(Error::input(format!("no JSON object: {e}"))))?;
        match object.remove(field) {
            Some(Value::String(text)) if text.is_empty() => {}
            Some(Value::String(text)) => each(Piece { text, begins: true, ends: true })?,
            found => {
                let has = match found {
                    Some(_) => format!("{field:?} is no text"),
                    None => format!("no {field:?}, but {}", listed(&object)),
                };
                return Err(at(Error::input(has)).hint("name the field that has the text: --text-field"));
            }
        }
    }
    Ok(())
}

/// The first names of an object's fields.
fn listed(object: &Map<String, Value>) -> String {
    let names: Vec<String> = object.keys().take(8).map(|key| format!("{key:?}")).collect();
    if names.is_empty() { "nothing".into() } else { names.join(", ") }
}
