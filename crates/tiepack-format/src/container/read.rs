//! An artifact's parts from its bytes. The bytes may be anything: what comes out has been checked, or nothing comes
//! out.

use std::io::Read;
use std::ops::Range;

use ruzstd::decoding::StreamingDecoder;

use super::header::Header;
use super::{CHECK_BYTES, MAGIC, ROOT_BYTES, checksum};
use crate::error::{Error, Result};
use crate::limits::Limits;
use crate::varint::Reader;

/// Largest window of the frame of a packed header, which a reader may have to keep in memory: what every reader of zstd
/// should allow (RFC 8878, section 3.1.1.1.2).
const MAX_WINDOW: u64 = 8 << 20;

/// The layout of a file. All ranges are byte offsets; together with the magic and the two lengths before
/// the header and the checksum at the end they cover the file without a hole.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Parsed {
    pub header: Header,
    /// The header as it is stored, packed or not.
    pub header_range: Range<usize>,
    /// One for each of `header.streams`.
    pub streams: Vec<Range<usize>>,
    /// One for each of the streams of `header.extra`.
    pub kept: Vec<Range<usize>>,
    /// The hash that the decoded tensors must have, see [`super::root::root`].
    pub root: [u8; ROOT_BYTES],
}

/// Takes a whole file apart and checks all but the tensors: magic, version, checksum, header, and that the streams
/// fill the file exactly.
///
/// # Errors
/// Verification; the caller adds the path with [`Error::at`].
pub fn parse(bytes: &[u8]) -> Result<Parsed> {
    parse_within(bytes, &Limits::default())
}

/// Takes a file apart whose header keeps to `limits`.
///
/// # Errors
/// As [`parse`].
pub fn parse_within(bytes: &[u8], limits: &Limits) -> Result<Parsed> {
    if !bytes.starts_with(&MAGIC[..3]) {
        return Err(Error::verification("not a tiepack artifact: it does not start with TPK"));
    }
    if bytes.len() < MAGIC.len() + ROOT_BYTES + CHECK_BYTES {
        return Err(Error::verification(format!("the artifact is cut short: it has only {} bytes", bytes.len())));
    }
    if bytes[3] != MAGIC[3] {
        let version = char::from(bytes[3]).escape_default();
        return Err(Error::verification(format!(
            "the artifact is of format version '{version}', this tiepack reads '1'"
        ))
        .hint("a newer tiepack may read it; or its fourth byte is damaged"));
    }
    let (rest, check) = bytes.split_at(bytes.len() - CHECK_BYTES);
    if checksum(rest) != check {
        return Err(Error::verification("the artifact is damaged or cut short: its checksum does not match its bytes")
            .hint("copy it again from where it was made, and compare the number of bytes"));
    }
    let (body, root_bytes) = rest.split_at(rest.len() - ROOT_BYTES);
    let mut root = [0; ROOT_BYTES];
    root.copy_from_slice(root_bytes);

    let r = &mut Reader::new(body);
    r.take(MAGIC.len(), "magic")?;
    let raw_len = r.within(0, limits.header, "length of the header")?;
    let packed_len = r.within(0, limits.header, "length of the packed header")?;
    let start = r.position();
    let header = if packed_len == 0 {
        Header::from_bytes_within(r.take(raw_len, "header")?, limits)?
    } else {
        Header::from_bytes_within(&unpack(r.take(packed_len, "packed header")?, raw_len)?, limits)?
    };
    let header_range = start..r.position();
    let mut streams = Vec::with_capacity(header.streams.len());
    let lengths = header.streams.iter().map(|stream| stream.len).chain(header.extra.lengths.iter().copied());
    for (i, len) in lengths.enumerate() {
        let start = r.position();
        // A length beyond the address space is beyond the file as well.
        let len = usize::try_from(len).unwrap_or(usize::MAX);
        r.take(len, &format!("stream {i}"))?;
        streams.push(start..r.position());
    }
    r.finish("the streams")?;
    let kept = streams.split_off(header.streams.len());
    Ok(Parsed { header, header_range, streams, kept, root })
}

/// Unpacks a header that must come to exactly `raw_len` bytes.
fn unpack(packed: &[u8], raw_len: usize) -> Result<Vec<u8>> {
    let damaged = |what: String| Error::verification(format!("the packed header does not unpack: {what}"));
    let (mut rest, mut raw) = (packed, Vec::new());
    let mut frame =
        StreamingDecoder::new_with_max_window_size(&mut rest, MAX_WINDOW).map_err(|e| damaged(e.to_string()))?;
    // One byte more than there may be shows what is too long.
    frame.by_ref().take(raw_len as u64 + 1).read_to_end(&mut raw).map_err(|e| damaged(e.to_string()))?;
    drop(frame);
    if raw.len() != raw_len {
        let n = if raw.len() > raw_len { "more".into() } else { raw.len().to_string() };
        return Err(Error::verification(format!("the header unpacks to {n} bytes instead of {raw_len}")));
    }
    if !rest.is_empty() {
        return Err(Error::verification("the packed header is not one zstd frame"));
    }
    Ok(raw)
}
