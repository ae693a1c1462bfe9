//! Integers of any width as token ids, and raw ones that no header describes.

use crate::error::{Error, Result};

/// The binary form of one integer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Element {
    /// Bytes: 1, 2, 4 or 8.
    pub width: usize,
    pub signed: bool,
    pub big_endian: bool,
}

pub const U16: Element = Element { width: 2, signed: false, big_endian: false };
pub const U32: Element = Element { width: 4, signed: false, big_endian: false };

impl Element {
    /// Appends the ids in `bytes`, the first of which is token `start` of its file.
    ///
    /// # Errors
    /// One of them is no id: negative, or 2³² and more.
    pub fn decode(self, bytes: &[u8], start: usize, into: &mut Vec<u32>) -> Result<()> {
        into.reserve(bytes.len() / self.width);
        for (at, bytes) in bytes.chunks_exact(self.width).enumerate() {
            let value = self.value(bytes);
            into.push(
                u32::try_from(value)
                    .map_err(|_| Error::input(format!("token {} is {value}, ids are 0 to {}", start + at, u32::MAX)))?,
            );
        }
        Ok(())
    }

    fn value(self, bytes: &[u8]) -> i128 {
        let push = |value: u64, byte: &u8| value << 8 | u64::from(*byte);
        let value = if self.big_endian { bytes.iter().fold(0, push) } else { bytes.iter().rev().fold(0, push) };
        let unused = 64 - 8 * self.width as u32;
        if self.signed { i128::from((value << unused) as i64 >> unused) } else { i128::from(value) }
    }
}

/// Whether raw numbers are of 16 or 32 bits, by the beginning of their file and the ids that the model knows.
///
/// # Errors
/// They can be neither, or both; the message goes on after the file's name.
pub fn width(head: &[u8], size: u64, vocab: usize) -> std::result::Result<Element, String> {
    let fits = |element: Element| {
        size.is_multiple_of(element.width as u64)
            && head.chunks_exact(element.width).all(|bytes| element.value(bytes) < vocab as i128)
    };
    // Of 32-bit ids every second half is the high one: nearly nothing. Of 16-bit ones no half is like that.
    let halves = |from: usize| head.chunks_exact(2).skip(from).step_by(2).map(|b| U16.value(b));
    let high = (vocab - 1) >> 16;
    let wide = halves(1).all(|half| half <= high as i128) && halves(0).any(|half| half > high as i128);
    match (fits(U16), fits(U32)) {
        (true, true) if wide && head.len() >= 64 => Ok(U32),
        (true, false) => Ok(U16),
        (false, true) => Ok(U32),
        (true, true) => Err("could be uint16 tokens and uint32 tokens".into()),
        (false, false) => {
            let first =
                |element: Element| head.chunks_exact(element.width).map(|b| element.value(b)).max().unwrap_or(0);
            Err(format!(
                "holds no tokens of this model, which knows ids below {vocab}: read as uint16 they go up to {}, as uint32 \
                 to {}",
                first(U16),
                first(U32)
            ))
        }
    }
}
