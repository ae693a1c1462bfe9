//! How long the text is that tokens stand for, beside what their table counts for them.
//!
//! The challenge counts a SentencePiece piece at its bytes without one leading `▁`. Where a `▁` stands elsewhere in a piece, or a
//! space was written in bytes, that is more than the text has.

use super::{SPACE, TokenBytes};

/// What is needed to rebuild the text of a SentencePiece model's tokens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rebuilt {
    pieces: Vec<Piece>,
    /// A space that the text does not have stands before it, or after it.
    pub dummy: bool,
    pub suffix: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Piece {
    /// Its text in bytes, each `▁` a space; whether it begins and ends with one.
    Text(u32, bool, bool),
    Byte(u8),
    /// Where a text begins or ends.
    Boundary,
    /// Its text is lost.
    Unknown,
}

impl Default for Rebuilt {
    /// No pieces yet, and spaces as models put them unless they say otherwise.
    fn default() -> Self {
        Rebuilt { pieces: Vec::new(), dummy: true, suffix: false }
    }
}

impl Rebuilt {
    /// Adds a piece, of a type as SentencePiece numbers them.
    pub fn push(&mut self, text: &str, kind: u64) {
        let byte = || u8::from_str_radix(text.strip_prefix("<0x")?.strip_suffix('>')?, 16).ok();
        self.pieces.push(match kind {
            2 => Piece::Unknown,
            3 | 5 => Piece::Boundary,
            6 => byte().map_or(Piece::Unknown, Piece::Byte),
            _ => {
                let spaces = text.matches(SPACE).count();
                let bytes = text.len() - spaces * (SPACE.len_utf8() - 1);
                Piece::Text(bytes as u32, text.starts_with(SPACE), text.ends_with(SPACE))
            }
        });
    }
}

/// Lengths of tokens that are told part by part.
#[derive(Debug)]
pub struct Lengths<'a> {
    table: &'a TokenBytes,
    previous: Option<u32>,
    /// Bytes that were written one by one just before.
    run: Vec<u8>,
    counted: u64,
    /// `None`: it cannot be rebuilt.
    text: Option<u64>,
}

impl<'a> Lengths<'a> {
    pub fn of(table: &'a TokenBytes) -> Self {
        let text = table.rebuilt.is_some().then_some(0);
        Lengths { table, previous: None, run: Vec::new(), counted: 0, text }
    }

    /// Goes on with the next tokens.
    pub fn push(&mut self, tokens: &[u32]) {
        for &token in tokens {
            self.counted += u64::from(match self.previous {
                Some(previous) => self.table.bytes_of(previous, token),
                None => self.table.bytes[token as usize],
            });
            self.rebuild(token);
            self.previous = Some(token);
        }
    }

    fn rebuild(&mut self, token: u32) {
        let (Some(rebuilt), Some(text)) = (&self.table.rebuilt, &mut self.text) else { return };
        // A model may know more ids than its tokenizer.
        let piece = |id: u32| rebuilt.pieces.get(id as usize).copied().unwrap_or(Piece::Boundary);
        let before = self.previous.map_or(Piece::Boundary, piece);
        let piece = piece(token);
        if !matches!(piece, Piece::Byte(_)) {
            self.run.clear();
        }
        match piece {
            Piece::Text(bytes, leads, _) => {
                let dummy = leads && before == Piece::Boundary && rebuilt.dummy && !rebuilt.suffix;
                *text += u64::from(bytes - u32::from(dummy));
            }
            Piece::Byte(byte) => {
                *text += 1;
                self.run.push(byte);
                let mut mark = [0; 4];
                if self.run.ends_with(SPACE.encode_utf8(&mut mark).as_bytes()) {
                    *text -= SPACE.len_utf8() as u64 - 1;
                    self.run.clear();
                }
            }
            Piece::Boundary => {
                let dummy = matches!(before, Piece::Text(.., true)) && rebuilt.dummy && rebuilt.suffix;
                *text -= u64::from(dummy);
            }
            Piece::Unknown => self.text = None,
        }
    }

    /// Bytes as the table counts, and those of the text: `known` ones, or rebuilt ones.
    pub fn end(self, known: Option<u64>) -> Option<(u64, u64)> {
        known.or(self.text).map(|text| (self.counted, text))
    }
}
