//! Makes tokens of text as the model's own tokenizer does: a `tokenizer.json`, a SentencePiece model, or bytes.

use std::path::Path;

use serde_json::Value;
use tokenizers::Tokenizer;

use crate::error::{Error, Result};
use crate::ingest::tokenizer::sentencepiece::SentencePiece;
use crate::ingest::tokenizer::{BYTES, TokenBytes, is_json};

/// What the token after a document is called in the tokenizers that people use.
const ENDS: [&str; 6] = ["<|endoftext|>", "<|end_of_text|>", "</s>", "<eos>", "<|document|>", "[SEP]"];

/// A tokenizer that is ready to work.
pub struct Encoder {
    kind: TokenizerKind,
    /// What its post-processor puts before the tokens of every text.
    prefix: Vec<u32>,
    /// What it puts after them.
    pub after: Vec<u32>,
    /// What stands between two documents.
    separator: Option<u32>,
}

enum TokenizerKind {
    HuggingFace(Box<Tokenizer>),
    SentencePiece(Box<SentencePiece>),
    Bytes,
}

impl Encoder {
    /// The tokenizer of a model that knows `vocab` ids, for the text at `text`.
    ///
    /// # Errors
    /// There is none, it is a table of lengths only, it is of another vocabulary, or its file is unusable.
    pub fn of_model(path: Option<&Path>, text: &Path, vocab: usize) -> Result<Encoder> {
        let Some(path) = path else {
            return Err(Error::input(format!(
                "{} is text, and there is no tokenizer to make tokens of it",
                text.display()
            ))
            .hint("name the model's tokenizer.json or tokenizer.model with --tokenizer"));
        };
        TokenBytes::of_model(path, vocab)?;
        Encoder::read(path)
    }

    /// # Errors
    /// The file cannot be read, or is no tokenizer that can make tokens of text.
    pub fn read(path: &Path) -> Result<Encoder> {
        if path == Path::new(BYTES) {
            return Ok(Encoder { kind: TokenizerKind::Bytes, prefix: Vec::new(), after: Vec::new(), separator: None });
        }
        let bytes = std::fs::read(path).map_err(|e| Error::io("read", path, e))?;
        let encoder = match is_json(&bytes) {
            true => Encoder::hugging_face(&bytes, path),
            false => Encoder::sentencepiece(&bytes),
        };
        encoder.map_err(|e| e.at(path.display()))
    }

    fn hugging_face(bytes: &[u8], path: &Path) -> Result<Encoder> {
        if bytes.starts_with(b"[") {
            return Err(Error::input("a table of byte counts makes no tokens of text")
                .hint("name a tokenizer.json or a SentencePiece model with --tokenizer"));
        }
        let mut tokenizer =
            Tokenizer::from_bytes(bytes).map_err(|e| Error::input(format!("not a tokenizer.json: {e}")))?;
        tokenizer.with_padding(None);
        tokenizer.with_truncation(None).map_err(failed)?;
        // Where the text goes among what the post-processor adds.
        let encode =
            |add| -> Result<Vec<u32>> { Ok(tokenizer.encode_fast("a", add).map_err(failed)?.get_ids().to_vec()) };
        let (bare, whole) = (encode(false)?, encode(true)?);
        let at = whole.windows(bare.len().max(1)).position(|part| part == bare);
        let (prefix, after) = match at {
            Some(at) => (whole[..at].to_vec(), whole[at + bare.len()..].to_vec()),
            None => {
                return Err(Error::input("its post-processor changes the tokens of a text, which is not known here"));
            }
        };
        let named = ENDS.into_iter().find_map(|name| tokenizer.token_to_id(name));
        let separator = named.or_else(|| tokenizer.token_to_id(&configured(path)?));
        Ok(Encoder { kind: TokenizerKind::HuggingFace(Box::new(tokenizer)), prefix, after, separator })
    }

    fn sentencepiece(bytes: &[u8]) -> Result<Encoder> {
        let model = SentencePiece::parse(bytes)?;
        // A document begins as the challenge's do; where a model has no such piece, it ends instead.
        let (prefix, separator) = (model.begin.into_iter().collect(), model.end);
        Ok(Encoder { kind: TokenizerKind::SentencePiece(Box::new(model)), prefix, after: Vec::new(), separator })
    }

    /// The tokens of a text, or of part of one that does not stand at its beginning.
    ///
    /// # Errors
    /// The tokenizer fails.
    pub fn encode(&self, text: &str, begins: bool) -> Result<Vec<u32>> {
        match &self.kind {
            TokenizerKind::HuggingFace(tokenizer) => {
                Ok(tokenizer.encode_fast(text, false).map_err(failed)?.get_ids().to_vec())
            }
            TokenizerKind::SentencePiece(model) => Ok(model.encode(text, begins)),
            TokenizerKind::Bytes => Ok(text.bytes().map(u32::from).collect()),
        }
    }

    /// What comes before the tokens of a document, `follows` where another stands before it.
    ///
    /// # Errors
    /// Nothing would tell that a document begins.
    pub fn before(&self, follows: bool) -> Result<Vec<u32>> {
        let told = match self.kind {
            TokenizerKind::SentencePiece(_) => !self.prefix.is_empty(),
            TokenizerKind::HuggingFace(_) => {
                let ends = |token: Option<&u32>| token.is_some() && token == self.separator.as_ref();
                ends(self.prefix.first()) || ends(self.after.last())
            }
            TokenizerKind::Bytes => true,
        };
        let separator = self.separator.filter(|_| follows && !told);
        if follows && !told && separator.is_none() && self.prefix.is_empty() && self.after.is_empty() {
            return Err(Error::input("the tokenizer has no token that could stand between two documents")
                .hint("name it as eos_token in a tokenizer_config.json beside the tokenizer.json"));
        }
        Ok(separator.into_iter().chain(self.prefix.iter().copied()).collect())
    }

    /// The token that a text begins with, or else the one that stands before it where another came first.
    pub fn start(&self) -> Option<u32> {
        self.prefix.first().copied().or(self.separator)
    }
}

fn failed(e: tokenizers::Error) -> Error {
    Error::input(format!("the tokenizer fails: {e}"))
}

/// What the configuration beside a tokenizer calls the token that ends a text.
fn configured(path: &Path) -> Option<String> {
    let text = std::fs::read(path.with_file_name("tokenizer_config.json")).ok()?;
    let config: Value = serde_json::from_slice(&text).ok()?;
    let end = &config["eos_token"];
    end.as_str().or_else(|| end["content"].as_str()).map(String::from)
}
