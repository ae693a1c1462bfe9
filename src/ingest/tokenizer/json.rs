//! `tokenizer.json` of Hugging Face's tokenizers, as far as the lengths of tokens need it, and plain tables of counts.
//!
//! Two kinds of vocabulary are known. *Byte-level* (GPT-2, Llama 3, Qwen): every character of a token stands for one
//! byte, so a token has as many bytes as characters. *Metaspace* (Llama 2, Mistral): `▁` stands for a space, which is 1
//! byte wherever it stands; a leading one is not written after a boundary; `<0x0A>` is 1 byte. Special tokens are
//! boundaries of no bytes, other added tokens count their text.
//!
//! A SentencePiece model counts an inner `▁` as the challenge does, at its 3 bytes of UTF-8; here it is the space that
//! was in the text.

use serde_json::{Map, Value};

use super::{MAX_IDS, SPACE, TokenBytes};
use crate::error::{Error, Result};

/// Text that one token can stand for.
const MAX_BYTES: u64 = 1 << 16;

/// The notation of bytes in a vocabulary.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum VocabularyKind {
    ByteLevel,
    Metaspace,
}

/// Parses a `tokenizer.json` or an array of byte counts.
///
/// # Errors
/// Ill-formed JSON, a model that is neither byte-level nor metaspace, an id beyond 1,048,576, an ill-formed count.
pub fn parse(bytes: &[u8]) -> Result<TokenBytes> {
    let value: Value =
        serde_json::from_slice(bytes).map_err(|e| Error::input(format!("not a tokenizer: not valid JSON: {e}")))?;
    match value {
        Value::Array(counts) => table(&counts),
        Value::Object(tokenizer) => vocabulary(&tokenizer),
        _ => Err(Error::input("not a tokenizer: neither a JSON object nor an array")),
    }
}

fn table(counts: &[Value]) -> Result<TokenBytes> {
    if counts.is_empty() || counts.len() > MAX_IDS {
        return Err(Error::input(format!("a table of {} byte counts, wanted one for each token", counts.len())));
    }
    let count = |(id, value): (usize, &Value)| match value.as_u64() {
        Some(bytes @ 0..=MAX_BYTES) => Ok(bytes as u32),
        _ => Err(Error::input(format!(
            "the byte count of token {id} is {value}, wanted a whole number up to {MAX_BYTES}"
        ))),
    };
    Ok(TokenBytes::of_counts(counts.iter().enumerate().map(count).collect::<Result<_>>()?))
}

fn vocabulary(tokenizer: &Map<String, Value>) -> Result<TokenBytes> {
    let model = tokenizer.get("model").and_then(Value::as_object);
    let Some(model) = model else { return Err(Error::input("not a tokenizer.json: it has no object `model`")) };
    let kind = kind(tokenizer)?;
    let byte_fallback = model.get("byte_fallback").and_then(Value::as_bool).unwrap_or(false);
    let mut table = TokenBytes { padded: true, ..TokenBytes::of_counts(Vec::new()) };
    match model.get("vocab") {
        Some(Value::Object(vocab)) => {
            for (token, id) in vocab {
                let id = id.as_u64().ok_or_else(|| Error::input(format!("the id of token {token:?} is {id}")))?;
                table.put(token, id, kind, byte_fallback)?;
            }
        }
        Some(Value::Array(pieces)) => {
            for (id, piece) in pieces.iter().enumerate() {
                let token = piece.get(0).and_then(Value::as_str);
                let token = token.ok_or_else(|| Error::input(format!("piece {id} has no text")))?;
                table.put(token, id as u64, kind, byte_fallback)?;
            }
        }
        _ => return Err(Error::input("not a tokenizer.json: its model has no `vocab`")),
    }
    // An unknown token stands for text that nobody knows the length of.
    let unknown = model.get("unk_id").and_then(Value::as_u64);
    if let Some(id) = unknown.filter(|id| *id < table.bytes.len() as u64) {
        table.special(id as usize);
    }
    for added in tokenizer.get("added_tokens").and_then(Value::as_array).into_iter().flatten() {
        let (id, text) = (added.get("id").and_then(Value::as_u64), added.get("content").and_then(Value::as_str));
        let (Some(id), Some(text)) = (id, text) else {
            return Err(Error::input("an added token has no `id` or no `content`"));
        };
        let id = table.reach(id, text)?;
        match added.get("special").and_then(Value::as_bool) {
            Some(true) => table.special(id),
            _ => table.set(id, text.len() as u32, false),
        }
    }
    if table.bytes.is_empty() {
        return Err(Error::input("a tokenizer.json without tokens"));
    }
    Ok(table)
}

/// How the tokenizer writes bytes, by the parts that turn tokens into text.
fn kind(tokenizer: &Map<String, Value>) -> Result<VocabularyKind> {
    let parts = ["decoder", "pre_tokenizer", "normalizer"].map(|part| tokenizer.get(part).unwrap_or(&Value::Null));
    let any = |found: &dyn Fn(&Value) -> bool| parts.iter().any(|part| within(part, found));
    let is = |part: &Value, kind: &str| part.get("type").and_then(Value::as_str) == Some(kind);
    if any(&|part| is(part, "ByteLevel")) {
        return Ok(VocabularyKind::ByteLevel);
    }
    let mark = |part: &Value| is(part, "Replace") && part.to_string().contains(SPACE);
    if any(&|part| is(part, "Metaspace") || mark(part)) {
        return Ok(VocabularyKind::Metaspace);
    }
    let model = tokenizer["model"].get("type").and_then(Value::as_str).unwrap_or("unknown");
    Err(Error::input(format!("a tokenizer.json of model {model} that is neither byte-level nor metaspace"))
        .hint("give a JSON array with the bytes of every token instead: --tokenizer"))
}

/// Whether a part of a tokenizer, or one of those that it is a sequence of, is as wanted.
fn within(part: &Value, found: &dyn Fn(&Value) -> bool) -> bool {
    let lists = ["decoders", "pretokenizers", "normalizers"].map(|key| part.get(key).and_then(Value::as_array));
    found(part) || lists.into_iter().flatten().flatten().any(|part| within(part, found))
}

impl TokenBytes {
    /// Makes room for an id.
    fn reach(&mut self, id: u64, token: &str) -> Result<usize> {
        if id >= MAX_IDS as u64 {
            return Err(Error::input(format!("token {token:?} has the id {id}, ids end at {}", MAX_IDS - 1)));
        }
        let id = id as usize;
        if id >= self.bytes.len() {
            self.resize(id + 1);
        }
        Ok(id)
    }

    fn set(&mut self, id: usize, bytes: u32, leading_space: bool) {
        (self.bytes[id], self.leading_space[id], self.boundary[id]) = (bytes, leading_space, false);
    }

    fn special(&mut self, id: usize) {
        (self.bytes[id], self.leading_space[id], self.boundary[id]) = (0, false, true);
    }

    fn put(&mut self, token: &str, id: u64, kind: VocabularyKind, byte_fallback: bool) -> Result<()> {
        let id = self.reach(id, token)?;
        match kind {
            // Tokens that were added with a text of their own have characters that stand for no byte.
            VocabularyKind::ByteLevel if token.chars().all(stands_for_a_byte) => {
                self.set(id, token.chars().count() as u32, false)
            }
            VocabularyKind::ByteLevel => self.set(id, token.len() as u32, false),
            VocabularyKind::Metaspace if byte_fallback && is_byte(token) => self.set(id, 1, false),
            VocabularyKind::Metaspace => {
                let rest = token.strip_prefix(SPACE);
                let text = rest.unwrap_or(token);
                let inner = text.matches(SPACE).count() * (SPACE.len_utf8() - 1);
                self.set(id, (text.len() - inner) as u32, rest.is_some());
            }
        }
        Ok(())
    }
}

/// Whether a character stands for a byte in GPT-2's alphabet: printable Latin-1 for itself, the 68 others from U+0100.
fn stands_for_a_byte(c: char) -> bool {
    matches!(c, '!'..='~' | '\u{a1}'..='\u{ac}' | '\u{ae}'..='\u{ff}' | '\u{100}'..='\u{143}')
}

/// `<0x00>` to `<0xFF>`.
fn is_byte(token: &str) -> bool {
    let digits = token.strip_prefix("<0x").and_then(|rest| rest.strip_suffix('>'));
    digits.is_some_and(|digits| digits.len() == 2 && digits.bytes().all(|b| b.is_ascii_hexdigit()))
}
