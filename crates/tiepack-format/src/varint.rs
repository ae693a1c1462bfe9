//! Unsigned integers in as few bytes as they need (LEB128), and a reader that never runs past the end.

use crate::error::{Error, Result};

/// Appends `value`: seven bits a byte, lowest first, the top bit set on all bytes but the last.
pub fn put(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// Walks over bytes that may be anything. `what` in every method names the field for the error text.
pub struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    pub fn new(bytes: &'a [u8]) -> Self {
        Reader { bytes, at: 0 }
    }

    /// Bytes read so far.
    pub fn position(&self) -> usize {
        self.at
    }

    /// The next `n` bytes.
    ///
    /// # Errors
    /// Verification, when fewer are left.
    pub fn take(&mut self, n: usize, what: &str) -> Result<&'a [u8]> {
        let rest = &self.bytes[self.at..];
        let taken = rest.get(..n).ok_or_else(|| {
            Error::verification(format!("{what} should take {n} bytes, but only {} are left", rest.len()))
        })?;
        self.at += n;
        Ok(taken)
    }

    /// The next integer.
    ///
    /// # Errors
    /// Verification, when the bytes end inside it, it exceeds 64 bits, or it is longer than it needs to be (one value
    /// has one spelling).
    pub fn varint(&mut self, what: &str) -> Result<u64> {
        let mut value = 0u64;
        for shift in (0..64).step_by(7) {
            let byte = self.take(1, what)?[0];
            let bits = u64::from(byte & 0x7f);
            if shift == 63 && bits > 1 {
                break;
            }
            value |= bits << shift;
            if byte & 0x80 == 0 {
                if byte == 0 && shift > 0 {
                    return Err(Error::verification(format!("{what} is not written in its shortest form")));
                }
                return Ok(value);
            }
        }
        Err(Error::verification(format!("{what} does not fit 64 bits")))
    }

    /// The next integer, which must lie in `low..=high`.
    ///
    /// # Errors
    /// Verification, as [`Reader::varint`], and when the value lies outside.
    pub fn within(&mut self, low: usize, high: usize, what: &str) -> Result<usize> {
        let value = self.varint(what)?;
        match usize::try_from(value) {
            Ok(v) if (low..=high).contains(&v) => Ok(v),
            _ => Err(Error::verification(format!("{what} is {value}, allowed are {low} to {high}"))),
        }
    }

    /// # Errors
    /// Verification, when bytes are left over.
    pub fn finish(&self, what: &str) -> Result<()> {
        match self.bytes.len() - self.at {
            0 => Ok(()),
            n => Err(Error::verification(format!("{n} bytes are left over at the end of {what}"))),
        }
    }
}
