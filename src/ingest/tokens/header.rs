//! Shards with a header of 256 little-endian int32: a magic number, a version, the number of tokens, zeros.

use super::numbers::{Element, U16, U32};
use crate::error::{Error, Result};

pub const BYTES: usize = 256 * 4;

/// (magic, version, what follows): the challenge's and modded-nanogpt's, which llm.c writes for GPT-2, and llm.c's for Llama 3.
const KNOWN: [(i32, i32, Element); 2] = [(20_240_520, 1, U16), (20_240_801, 7, U32)];

fn field(header: &[u8], i: usize) -> i32 {
    i32::from_le_bytes([header[4 * i], header[4 * i + 1], header[4 * i + 2], header[4 * i + 3]])
}

/// Whether a file begins as shards do: with a magic number that is known, or one that is not and nothing after three numbers.
pub fn begins(head: &[u8]) -> bool {
    let known = head.len() >= 4 && KNOWN.iter().any(|(magic, ..)| *magic == field(head, 0));
    known || head.len() >= BYTES && head[..12].iter().any(|b| *b != 0) && head[12..BYTES].iter().all(|b| *b == 0)
}

/// How the tokens are written that follow a header, and how many they are; `size` is the file's.
///
/// # Errors
/// Shorter than its header, wrong magic or version, or another length than the count says.
pub fn parse(head: &[u8], size: u64) -> Result<(Element, usize)> {
    let Some(header) = head.get(..BYTES) else {
        return Err(Error::input(format!("not a token shard: {size} bytes, the header alone is {BYTES}")));
    };
    let (magic, version, count) = (field(header, 0), field(header, 1), field(header, 2));
    let Some((_, wanted, element)) = KNOWN.iter().find(|(known, ..)| *known == magic) else {
        let known = KNOWN.map(|(magic, ..)| magic.to_string()).join(" or ");
        return Err(Error::input(format!("not a token shard: magic {magic}, wanted {known}"))
            .hint("numbers without a header are read with --tokens u16 or u32"));
    };
    if version != *wanted {
        return Err(Error::input(format!("token shard of version {version}, only version {wanted} is known")));
    }
    let (body, width) = (size - BYTES as u64, element.width as u64);
    // Compared in 64 bits, where neither a negative count nor its double can wrap.
    if i64::try_from(body).ok() != Some(width as i64 * i64::from(count)) {
        let part = match body % width {
            0 => "",
            rest if 2 * rest == width => " and a half",
            _ => " and a part",
        };
        return Err(Error::input(format!("the header counts {count} tokens, the file holds {}{part}", body / width))
            .hint("the shard is truncated or was written by another tool"));
    }
    Ok((*element, count as usize))
}

/// The header of a shard of so many tokens with ids below `vocab`, and the bits of a token: the challenge's where ids have 16.
///
/// # Errors
/// A shard cannot count so many tokens.
pub fn of(vocab: usize, tokens: usize) -> Result<(Vec<u8>, usize)> {
    let count = i32::try_from(tokens).map_err(|_| {
        Error::input(format!("a shard holds {} tokens at most, here are {tokens}", i32::MAX))
            .hint("make several shards, each of some of the files")
    })?;
    let (magic, version, element) = KNOWN[usize::from(vocab > 1 << 16)];
    let mut header = [0i32; BYTES / 4];
    header[..3].copy_from_slice(&[magic, version, count]);
    Ok((header.iter().flat_map(|x| x.to_le_bytes()).collect(), 8 * element.width))
}
