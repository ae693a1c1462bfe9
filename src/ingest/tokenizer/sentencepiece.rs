//! Makes tokens of text as SentencePiece does, byte-pair and unigram models.
//!
//! Its normaliser comes with the model as a table of replacements: a double array over UTF-8 (darts-clone), then the
//! replacements, each ended by a zero. The longest match is replaced.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};

use super::SPACE;
use super::wire::{Fields, Value};
use crate::error::{Error, Result};

/// What an unknown character costs a unigram model below its worst piece.
const UNKNOWN_PENALTY: f32 = 10.0;

/// Types of pieces.
const NORMAL: u64 = 1;
const UNKNOWN: u64 = 2;
const USER: u64 = 4;
const UNUSED: u64 = 5;
const BYTE: u64 = 6;

/// A model that encodes.
pub struct SentencePiece {
    /// Ids of pieces that text can become, with the byte length of the longest.
    pieces: HashMap<String, u32>,
    longest: usize,
    scores: Vec<f32>,
    kinds: Vec<u64>,
    /// Ids of the 256 byte pieces, where unknown characters become these.
    bytes: Option<Vec<u32>>,
    unknown: u32,
    /// Pieces that are never cut, nor normalised.
    user: Vec<String>,
    unigram: bool,
    /// The lowest and the highest score of a normal piece.
    range: (f32, f32),
    normalizer: Normalizer,
    /// Pieces that begin and end a text.
    pub begin: Option<u32>,
    pub end: Option<u32>,
}

/// What is done to text before it is cut.
struct Normalizer {
    /// Double array, and what it leads to.
    units: Vec<u32>,
    replacements: Vec<u8>,
    dummy_prefix: bool,
    remove_extra: bool,
    escape: bool,
    suffix: bool,
}

impl SentencePiece {
    /// # Errors
    /// Ill-formed, without pieces, or of a kind that is neither byte-pair nor unigram.
    pub fn parse(model: &[u8]) -> Result<SentencePiece> {
        let damaged = |fault: &str| Error::input(format!("not a SentencePiece model: {fault}"));
        let mut out = SentencePiece {
            pieces: HashMap::new(),
            longest: 0,
            scores: Vec::new(),
            kinds: Vec::new(),
            bytes: None,
            unknown: 0,
            user: Vec::new(),
            unigram: true,
            range: (f32::MAX, f32::MIN),
            normalizer: Normalizer {
                units: Vec::new(),
                replacements: Vec::new(),
                dummy_prefix: true,
                remove_extra: true,
                escape: true,
                suffix: false,
            },
            begin: None,
            end: None,
        };
        // What the numbers of the training are when absent.
        let (mut kind, mut fallback, mut begin, mut end) = (1, false, 1i64, 2i64);
        let mut byte_ids = HashMap::new();
        let mut fields = Fields(model);
        while let Some((number, value)) = fields.next().map_err(damaged)? {
            let Value::Bytes(message) = value else { continue };
            let mut inner = Fields(message);
            match number {
                1 => out.piece(message, &mut byte_ids)?,
                2 => {
                    while let Some(field) = inner.next().map_err(damaged)? {
                        match field {
                            (3, Value::Varint(value)) => kind = value,
                            (24, Value::Varint(value)) => out.normalizer.suffix = value != 0,
                            (35, Value::Varint(value)) => fallback = value != 0,
                            // Negative where there is none.
                            (41, Value::Varint(value)) => begin = i64::from(value as i32),
                            (42, Value::Varint(value)) => end = i64::from(value as i32),
                            _ => {}
                        }
                    }
                }
                3 => {
                    while let Some(field) = inner.next().map_err(damaged)? {
                        match field {
                            (2, Value::Bytes(table)) => out.normalizer.table(table)?,
                            (3, Value::Varint(value)) => out.normalizer.dummy_prefix = value != 0,
                            (4, Value::Varint(value)) => out.normalizer.remove_extra = value != 0,
                            (5, Value::Varint(value)) => out.normalizer.escape = value != 0,
                            _ => {}
                        }
                    }
                }
                _ => {}
            }
        }
        out.unigram = match kind {
            1 => true,
            2 => false,
            other => {
                let name = ["word", "char"].get((other as usize).wrapping_sub(3)).unwrap_or(&"unknown");
                return Err(Error::input(format!("a SentencePiece model of kind {name} makes no tokens of text here"))
                    .hint("byte-pair and unigram models do; or give token ids: --tokens u16"));
            }
        };
        if fallback {
            let ids: Option<Vec<u32>> = (0..=255u8).map(|byte| byte_ids.get(&byte).copied()).collect();
            out.bytes =
                Some(ids.ok_or_else(|| {
                    Error::input("a SentencePiece model that falls back to bytes without 256 of them")
                })?);
        }
        // The longest of those that match comes first.
        out.user.sort_by_key(|piece| Reverse(piece.len()));
        let known = |id: i64| u32::try_from(id).ok().filter(|id| out.kinds.get(*id as usize) == Some(&3));
        (out.begin, out.end) = (known(begin), known(end));
        Ok(out)
    }

    fn piece(&mut self, message: &[u8], byte_ids: &mut HashMap<u8, u32>) -> Result<()> {
        let id = self.kinds.len() as u32;
        let damaged = |fault: &str| Error::input(format!("piece {id} is damaged: {fault}"));
        let (mut text, mut score, mut kind): (&[u8], f32, u64) = (&[], 0.0, NORMAL);
        let mut fields = Fields(message);
        while let Some(field) = fields.next().map_err(damaged)? {
            match field {
                (1, Value::Bytes(bytes)) => text = bytes,
                (2, Value::Fixed32(bits)) => score = f32::from_bits(bits),
                (3, Value::Varint(value)) => kind = value,
                _ => {}
            }
        }
        let text = std::str::from_utf8(text).map_err(|e| damaged(&e.to_string()))?;
        match kind {
            NORMAL | USER | UNUSED => {
                self.longest = self.longest.max(text.len());
                self.pieces.insert(text.to_string(), id);
            }
            UNKNOWN => self.unknown = id,
            BYTE => {
                let digits = text.strip_prefix("<0x").and_then(|rest| rest.strip_suffix('>'));
                let byte = digits.and_then(|digits| u8::from_str_radix(digits, 16).ok());
                byte_ids.insert(byte.ok_or_else(|| damaged("a byte piece that names no byte"))?, id);
            }
            _ => {}
        }
        if kind == USER && !text.is_empty() {
            self.user.push(text.to_string());
        }
        if kind == NORMAL {
            self.range = (self.range.0.min(score), self.range.1.max(score));
        }
        self.scores.push(score);
        self.kinds.push(kind);
        Ok(())
    }

    /// The id of a piece that text can become.
    fn id(&self, piece: &str) -> Option<u32> {
        self.pieces.get(piece).copied()
    }

    /// The tokens of a text; of a part of one that does not stand at its beginning, no space is put before it.
    pub fn encode(&self, text: &str, begins: bool) -> Vec<u32> {
        let text = self.normalizer.normalize(text, &self.user, begins);
        let cut = if self.unigram { self.unigram(&text) } else { self.merge(&text) };
        let mut ids = Vec::with_capacity(cut.len());
        for (piece, id) in cut {
            match (id, &self.bytes) {
                (Some(id), _) => ids.push(id),
                (None, Some(bytes)) => ids.extend(piece.bytes().map(|byte| bytes[usize::from(byte)])),
                // Unknown characters in a row are one token.
                (None, None) if ids.last() == Some(&self.unknown) => {}
                (None, None) => ids.push(self.unknown),
            }
        }
        ids
    }

    /// The user's piece, the longest, that a text begins with.
    fn users(&self, text: &str) -> Option<usize> {
        self.user.iter().find(|piece| text.starts_with(piece.as_str())).map(String::len)
    }

    /// Merges neighbours, those of the best piece first, the leftmost of equals.
    fn merge<'a>(&self, text: &'a str) -> Vec<(&'a str, Option<u32>)> {
        /// A part of the text and its neighbours; no bytes once it was merged into the one before.
        struct Symbol {
            start: usize,
            end: usize,
            before: Option<usize>,
            after: Option<usize>,
            whole: bool,
        }
        let mut symbols: Vec<Symbol> = Vec::new();
        let mut at = 0;
        while let Some(c) = text[at..].chars().next() {
            let user = self.users(&text[at..]);
            let (i, end) = (symbols.len(), at + user.unwrap_or(c.len_utf8()));
            symbols.push(Symbol {
                start: at,
                end,
                before: i.checked_sub(1),
                after: Some(i + 1),
                whole: user.is_some(),
            });
            at = end;
        }
        if let Some(last) = symbols.last_mut() {
            last.after = None;
        }
        // A score orders as its bits do, once the sign is dealt with.
        let order = |score: f32| {
            // Of the two zeros SentencePiece knows one.
            let bits = (score + 0.0).to_bits() as i32;
            bits ^ ((bits >> 31) as u32 >> 1) as i32
        };
        let mut agenda = BinaryHeap::new();
        let mut parts: HashMap<&str, usize> = HashMap::new();
        let mut alternative =
            |symbols: &[Symbol], left: Option<usize>, right: Option<usize>, agenda: &mut BinaryHeap<_>| {
                let (Some(l), Some(r)) = (left, right) else { return };
                if symbols[l].whole || symbols[r].whole {
                    return;
                }
                let piece = &text[symbols[l].start..symbols[r].end];
                if let Some(id) = self.pieces.get(piece) {
                    agenda.push((order(self.scores[*id as usize]), Reverse(l), r, piece.len()));
                    if self.kinds[*id as usize] == UNUSED {
                        parts.insert(piece, symbols[l].end - symbols[l].start);
                    }
                }
            };
        for i in 1..symbols.len() {
            alternative(&symbols, Some(i - 1), Some(i), &mut agenda);
        }
        while let Some((_, Reverse(l), r, size)) = agenda.pop() {
            let length = |i: usize| symbols[i].end - symbols[i].start;
            if length(l) == 0 || length(r) == 0 || length(l) + length(r) != size {
                continue;
            }
            symbols[l].end = symbols[r].end;
            symbols[r].start = symbols[r].end;
            symbols[l].after = symbols[r].after;
            if let Some(next) = symbols[r].after {
                symbols[next].before = Some(l);
            }
            alternative(&symbols, symbols[l].before, Some(l), &mut agenda);
            alternative(&symbols, Some(l), symbols[l].after, &mut agenda);
        }
        // Unused pieces fall back into what they were merged from.
        let mut found = Vec::new();
        let mut left: Vec<&str> = symbols.iter().rev().map(|symbol| &text[symbol.start..symbol.end]).collect();
        while let Some(piece) = left.pop() {
            let id = self.id(piece);
            match parts.get(piece).filter(|_| id.is_some_and(|id| self.kinds[id as usize] == UNUSED)) {
                Some(&at) => left.extend([&piece[at..], &piece[..at]]),
                None if piece.is_empty() => {}
                None => found.push((piece, id)),
            }
        }
        found
    }

    /// The cut with the highest sum of scores.
    fn unigram<'a>(&self, text: &'a str) -> Vec<(&'a str, Option<u32>)> {
        /// The best way to end at a byte.
        #[derive(Clone, Copy)]
        struct Best {
            score: f32,
            start: usize,
            id: Option<u32>,
            known: bool,
        }
        let unknown = self.range.0 - UNKNOWN_PENALTY;
        let mut best = vec![Best { score: 0.0, start: 0, id: None, known: false }; text.len() + 1];
        let alternative = |best: &mut [Best], start: usize, end: usize, score: f32, id: Option<u32>| {
            let score = score + best[start].score;
            if !best[end].known || score > best[end].score {
                best[end] = Best { score, start, id, known: true };
            }
        };
        for (start, c) in text.char_indices() {
            let mut single = false;
            let longest = (start + self.longest).min(text.len());
            for end in (start + c.len_utf8()..=longest).filter(|end| text.is_char_boundary(*end)) {
                let Some(&id) = self.pieces.get(&text[start..end]) else { continue };
                let score = match self.kinds[id as usize] {
                    UNUSED => continue,
                    USER => (end - start) as f32 * self.range.1 - 0.1,
                    _ => self.scores[id as usize],
                };
                alternative(&mut best, start, end, score, Some(id));
                single |= end == start + c.len_utf8();
            }
            if !single {
                alternative(&mut best, start, start + c.len_utf8(), unknown, None);
            }
        }
        let (mut found, mut end) = (Vec::new(), text.len());
        while end > 0 {
            let Best { start, id, .. } = best[end];
            found.push((&text[start..end], id));
            end = start;
        }
        found.reverse();
        found
    }
}

impl Normalizer {
    /// Reads the table of replacements: the length of the double array, the array, the replacements.
    fn table(&mut self, table: &[u8]) -> Result<()> {
        if table.is_empty() {
            return Ok(());
        }
        let damaged = || Error::input("not a SentencePiece model: a damaged table of replacements");
        let (length, rest) = table.split_at_checked(4).ok_or_else(damaged)?;
        let length = u32::from_le_bytes([length[0], length[1], length[2], length[3]]) as usize;
        let (units, replacements) = rest.split_at_checked(length).ok_or_else(damaged)?;
        self.units = units.as_chunks().0.iter().map(|b| u32::from_le_bytes(*b)).collect();
        self.replacements = replacements.to_vec();
        Ok(())
    }

    /// What the beginning of a text becomes, and how many bytes of it that are.
    fn prefix<'a>(&'a self, text: &'a str, user: &[String]) -> (&'a str, usize) {
        if let Some(piece) = user.iter().find(|piece| text.starts_with(piece.as_str())) {
            return (&text[..piece.len()], piece.len());
        }
        let first = text.chars().next().map_or(0, char::len_utf8);
        let Some((value, length)) = self.longest(text.as_bytes()) else { return (&text[..first], first) };
        let rest = self.replacements.get(value..).unwrap_or_default();
        let end = rest.iter().position(|b| *b == 0).unwrap_or(rest.len());
        (std::str::from_utf8(&rest[..end]).unwrap_or_default(), length)
    }

    /// The longest key of the double array that a text begins with: its value and its length.
    fn longest(&self, text: &[u8]) -> Option<(usize, usize)> {
        let offset = |unit: u32| (unit >> 10) << ((unit & 1 << 9) >> 6);
        let mut at = offset(*self.units.first()?);
        let mut found = None;
        for (i, byte) in text.iter().enumerate() {
            at ^= u32::from(*byte);
            let Some(unit) = self.units.get(at as usize) else { break };
            if unit & (1 << 31 | 0xff) != u32::from(*byte) {
                break;
            }
            at ^= offset(*unit);
            if unit >> 8 & 1 == 1 {
                let value = self.units.get(at as usize)?;
                found = Some(((value & !(1 << 31)) as usize, i + 1));
            }
        }
        found
    }

    fn normalize(&self, text: &str, user: &[String], begins: bool) -> String {
        let mut rest = text;
        if self.remove_extra {
            while !rest.is_empty() {
                let (part, length) = self.prefix(rest, user);
                if part != " " {
                    break;
                }
                rest = &rest[length..];
            }
        }
        if rest.is_empty() {
            return String::new();
        }
        let space = if self.escape { SPACE } else { ' ' };
        let mut out = String::with_capacity(text.len() + 3);
        if self.dummy_prefix && !self.suffix && begins {
            out.push(space);
        }
        let mut spaced = self.remove_extra;
        while !rest.is_empty() {
            let (mut part, length) = self.prefix(rest, user);
            if spaced {
                part = part.trim_start_matches(' ');
            }
            if !part.is_empty() {
                out.extend(part.chars().map(|c| if c == ' ' { space } else { c }));
                spaced = self.remove_extra && part.ends_with(' ');
            }
            rest = &rest[length..];
        }
        if self.remove_extra {
            out.truncate(out.trim_end_matches(space).len());
        }
        if self.dummy_prefix && self.suffix {
            out.push(space);
        }
        out
    }
}
