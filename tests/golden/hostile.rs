//! Damage that a checksum does not show: whoever makes a hostile file makes its checksum fit.

use std::sync::atomic::Ordering;

use rayon::prelude::*;
use serde_json::Value;
use tiepack::artifact::read::Parsed;
use tiepack_format::varint::put;

use crate::{ALL, LARGEST, QUANTIZED, decoded, expected, golden, hashes};

/// No single piece of memory may be larger, for files of a few thousand bytes.
const MEMORY: usize = 64 << 20;

/// The file with a fitting checksum; `bytes` are all before it.
fn sealed(mut bytes: Vec<u8>) -> Vec<u8> {
    let check = blake3::hash(&bytes);
    bytes.extend_from_slice(&check.as_bytes()[..8]);
    bytes
}

/// An error, or, where the changed bits did not matter (the last few of a stream, a longer spelling), the same tensors.
#[track_caller]
fn error_or_same(bytes: Vec<u8>, name: &str, place: &str) {
    if let Ok(opened) = decoded(&sealed(bytes), place) {
        assert_eq!(expected(name)["tensors"], Value::from(hashes(&opened.model)), "{place}");
    }
}

fn in_bounds() {
    let largest = LARGEST.load(Ordering::Relaxed);
    assert!(largest < MEMORY, "{largest} bytes were asked for at once");
}

/// The unpacked header.
fn header(bytes: &[u8], parsed: &Parsed) -> Vec<u8> {
    let stored = &bytes[parsed.header_range.clone()];
    // Whether it is packed shows in its first bytes: those of a zstd frame.
    match stored.starts_with(&[0x28, 0xb5, 0x2f, 0xfd]) {
        true => zstd::bulk::decompress(stored, 1 << 20).unwrap(),
        false => stored.to_vec(),
    }
}

/// A file with this header, not packed, and the streams and the root of `bytes`; without the checksum.
fn with_header(header: &[u8], bytes: &[u8], parsed: &Parsed) -> Vec<u8> {
    let mut out = b"TPK1".to_vec();
    put(&mut out, header.len() as u64);
    put(&mut out, 0);
    out.extend_from_slice(header);
    out.extend_from_slice(&bytes[parsed.header_range.end..bytes.len() - 8]);
    out
}

#[test]
fn changed_streams_give_an_error_or_the_same_tensors() {
    for name in ALL {
        let (bytes, parsed) = golden(name);
        let body = bytes.len() - 8;
        // Each of these is decoded to its end: all bytes of the denser format, one in four of the other.
        let stride = if name == QUANTIZED { 1 } else { 4 };
        (parsed.header_range.end..body).into_par_iter().step_by(stride).for_each(|at| {
            for flip in [0xff, 1 << (at / stride % 8)] {
                let mut bad = bytes[..body].to_vec();
                bad[at] ^= flip;
                error_or_same(bad, name, &format!("{name}: byte {at} flipped by {flip:#x}"));
            }
        });
    }
    in_bounds();
}

#[test]
fn changed_headers_give_an_error_or_the_same_tensors() {
    for name in ALL {
        let (bytes, parsed) = golden(name);
        let header = header(&bytes, &parsed);
        // The unpacked header is as good as the packed one.
        let plain = with_header(&header, &bytes, &parsed);
        assert_eq!(expected(name)["tensors"], Value::from(hashes(&decoded(&sealed(plain), name).unwrap().model)));
        (0..header.len()).into_par_iter().for_each(|at| {
            let changes = [1, 2, 4, 0x80, 0xff].map(|flip| header[at] ^ flip).into_iter().chain([0, 0x7f]);
            for byte in changes {
                let mut bad = header.clone();
                bad[at] = byte;
                let place = format!("{name}: byte {at} of the header is {byte:#x}");
                error_or_same(with_header(&bad, &bytes, &parsed), name, &place);
            }
            let mut short = header.clone();
            short.remove(at);
            error_or_same(
                with_header(&short, &bytes, &parsed),
                name,
                &format!("{name}: byte {at} of the header is gone"),
            );
        });
        // As it is stored, packed or not.
        for at in 3..parsed.header_range.end {
            let mut bad = bytes[..bytes.len() - 8].to_vec();
            bad[at] ^= 0xff;
            error_or_same(bad, name, &format!("{name}: byte {at} flipped"));
        }
    }
    in_bounds();
}

#[test]
fn cut_files_with_a_fitting_checksum_are_refused() {
    for name in ALL {
        let (bytes, parsed) = golden(name);
        let front = parsed.header_range.end;
        for cut in (4..front).chain((0..100).map(|k| front + k * (bytes.len() - 9 - front) / 100)) {
            assert!(decoded(&sealed(bytes[..cut].to_vec()), name).is_err(), "{name}: cut to {cut} bytes");
        }
    }
}

#[test]
fn a_foreign_root_is_refused() {
    for name in ALL {
        let (bytes, _) = golden(name);
        let mut bad = bytes[..bytes.len() - 8].to_vec();
        let last = bad.len() - 1;
        bad[last] ^= 1;
        let error = decoded(&sealed(bad), name).map(|_| ()).unwrap_err();
        assert!(error.message.contains("do not match the hash"), "{error}");
    }
}

/// The first bytes of a matrix stream are not coded but plain numbers: all machines, and the ends of the base step.
#[test]
fn fields_of_matrix_streams_are_checked() {
    let (bytes, parsed) = golden(QUANTIZED);
    for (entry, range) in parsed.header.streams.iter().zip(&parsed.streams) {
        if entry.codec != tiepack::artifact::layout::codec::MATRIX {
            continue;
        }
        let with = |at: usize, new: &[u8]| {
            let mut bad = bytes[..bytes.len() - 8].to_vec();
            bad[range.start + at..][..new.len()].copy_from_slice(new);
            bad
        };
        for kind in 0..=255u8 {
            error_or_same(with(0, &[kind]), QUANTIZED, &format!("trellis {kind} at {range:?}"));
        }
        for base in [i16::MIN, i16::MIN + 1, -6401, -6400, 6400, 6401, i16::MAX] {
            error_or_same(with(1, &base.to_le_bytes()), QUANTIZED, &format!("base {base} at {range:?}"));
        }
        for length in
            [&[0u8][..], &[0x7f], &[0xff, 0x7f], &[0xff, 0xff, 0xff, 0xff, 0xff], &[0x80, 0x80, 0x80, 0x80, 0x7f]]
        {
            error_or_same(with(3, length), QUANTIZED, &format!("length {length:?} at {range:?}"));
        }
    }
    in_bounds();
}
