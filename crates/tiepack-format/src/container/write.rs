//! An artifact's bytes from its parts, and its size before there are any streams.

use zstd::bulk::Compressor;
use zstd::zstd_safe::CParameter;

use super::header::Header;
use super::{CHECK_BYTES, MAGIC, ROOT_BYTES, checksum};
use crate::error::{Error, Result};
use crate::varint::put;

/// The whole file: `streams` one after the other between the header and the hashes, those of tensors that are no weights last.
/// `root` is from [`super::root::root`].
///
/// # Errors
/// Compute, when a stream is not as long as the header says, the header breaks a rule of the format, or tensors that are no weights
/// take more bytes than a reader believes of so small a file.
pub fn assemble<S: AsRef<[u8]>>(header: &Header, streams: &[S], root: &[u8; ROOT_BYTES]) -> Result<Vec<u8>> {
    let lengths = streams.iter().map(|s| s.as_ref().len() as u64);
    if !lengths.eq(all_lengths(header)) {
        return Err(Error::compute("the streams are not those of the header: their number or lengths differ"));
    }
    let mut out = front(header)?;
    for stream in streams {
        out.extend_from_slice(stream.as_ref());
    }
    out.extend_from_slice(root);
    let check = checksum(&out);
    out.extend_from_slice(&check);
    header.extra.check(out.len())?;
    Ok(out)
}

/// Bytes of the file that [`assemble`] will write for this header, streams and hashes included.
///
/// # Errors
/// Compute, when the header breaks a rule of the format.
pub fn size_of(header: &Header) -> Result<u64> {
    let fixed = front(header)?.len() as u64 + (ROOT_BYTES + CHECK_BYTES) as u64;
    all_lengths(header)
        .try_fold(fixed, u64::checked_add)
        .ok_or_else(|| Error::compute("the streams' lengths add up to more than 64 bits hold"))
}

/// Bytes of every stream, those of tensors that are no weights last.
fn all_lengths(header: &Header) -> impl Iterator<Item = u64> {
    header.streams.iter().map(|stream| stream.len).chain(header.extra.lengths.iter().copied())
}

/// Magic, lengths and header: all that comes before the streams.
fn front(header: &Header) -> Result<Vec<u8>> {
    let raw = header.to_bytes()?;
    let packed = pack(&raw).map_err(|e| Error::compute(format!("cannot pack the header: {e}")))?;
    let mut out = MAGIC.to_vec();
    put(&mut out, raw.len() as u64);
    if packed.len() < raw.len() {
        put(&mut out, packed.len() as u64);
        out.extend_from_slice(&packed);
    } else {
        // 0 says that the header is stored as it is.
        put(&mut out, 0);
        out.extend_from_slice(&raw);
    }
    Ok(out)
}

/// One zstd frame without what the container says already: no checksum, no content size.
fn pack(raw: &[u8]) -> std::io::Result<Vec<u8>> {
    let mut zstd = Compressor::new(19)?;
    zstd.set_parameter(CParameter::ContentSizeFlag(false))?;
    zstd.set_parameter(CParameter::ChecksumFlag(false))?;
    zstd.compress(raw)
}
