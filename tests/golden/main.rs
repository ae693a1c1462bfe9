//! Artifacts of version 1 that were written once and for all: every later reader must decode them to the same bits, and
//! refuse what becomes of them when they are damaged, by accident or with intent.

mod hostile;
mod make;
mod schemas;

use std::alloc::{GlobalAlloc, Layout, System};
use std::panic::catch_unwind;
use std::sync::atomic::{AtomicUsize, Ordering};

use serde_json::Value;
use tiepack::artifact::open::{Opened, decode};
use tiepack::artifact::read::{Parsed, parse};
use tiepack::artifact::root::{Decoded, tensor_hash};
use tiepack::error::{Error, Kind};
use tiepack::model::Model;

const FOLDER: &str = "fixtures/golden";
const QUANTIZED: &str = "v1-quantized.tiepack";
const LOSSLESS: &str = "v1-lossless.tiepack";
/// Of a model that no network explains: a plan of zeros, sums and what else there is.
const FOREIGN: &str = "v1-foreign.tiepack";
/// The same with labels of all kinds, and tensors that are no weights.
const BESIDE: &str = "v1-beside.tiepack";
const ALL: [&str; 4] = [QUANTIZED, LOSSLESS, FOREIGN, BESIDE];

/// The system's allocator, remembering the largest request: what a hostile file would show in.
struct Watched;

static LARGEST: AtomicUsize = AtomicUsize::new(0);

// SAFETY: every call is handed to the system's allocator as it is.
unsafe impl GlobalAlloc for Watched {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        LARGEST.fetch_max(layout.size(), Ordering::Relaxed);
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        LARGEST.fetch_max(layout.size(), Ordering::Relaxed);
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, place: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        LARGEST.fetch_max(size, Ordering::Relaxed);
        unsafe { System.realloc(place, layout, size) }
    }

    unsafe fn dealloc(&self, place: *mut u8, layout: Layout) {
        unsafe { System.dealloc(place, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Watched = Watched;

fn golden(name: &str) -> (Vec<u8>, Parsed) {
    let bytes = std::fs::read(format!("{FOLDER}/{name}")).unwrap();
    let parsed = parse(&bytes).unwrap();
    (bytes, parsed)
}

fn expected(name: &str) -> Value {
    let text = std::fs::read_to_string(format!("{FOLDER}/expected.json")).unwrap();
    serde_json::from_str::<Value>(&text).unwrap()[name].clone()
}

/// Hashes of the stored tensors, as they go into the root.
fn hashes(model: &Model) -> Vec<String> {
    let hash = |(i, s): (usize, &tiepack::model::Stored)| {
        let decoded = Decoded { shape: model.shape(i), data: &s.data };
        blake3::Hash::from_bytes(tensor_hash(decoded)).to_hex().to_string()
    };
    model.stored.iter().enumerate().map(hash).collect()
}

/// Decodes, and turns a panic into a failure that says where.
#[track_caller]
fn decoded(bytes: &[u8], place: &str) -> Result<Opened, Error> {
    let outcome = catch_unwind(|| decode(bytes)).unwrap_or_else(|_| panic!("{place}: decoding panicked"));
    if let Err(e) = &outcome {
        assert_eq!(e.kind, Kind::Verification, "{place}: {e}");
    }
    outcome
}

#[test]
fn old_artifacts_decode_to_the_same_bits() {
    for name in ALL {
        let (bytes, parsed) = golden(name);
        let wanted = expected(name);
        assert_eq!(wanted["root"], blake3::Hash::from_bytes(parsed.root).to_hex().as_str(), "{name}");
        let model = decode(&bytes).unwrap().model;
        assert_eq!(wanted["tensors"], Value::from(hashes(&model)), "{name}");
        // One of three layers is tied, and all codecs and types of the format are there between the files.
        assert_eq!(model.ties.copies, if matches!(name, FOREIGN | BESIDE) { vec![0, 1, 2, 0] } else { vec![0, 1, 0] });
        assert_eq!(model.network().is_err(), matches!(name, FOREIGN | BESIDE));
        let mut codecs: Vec<u8> = parsed.header.streams.iter().map(|s| s.codec).collect();
        codecs.dedup();
        let wanted = match name {
            QUANTIZED => vec![1, 2],
            LOSSLESS => vec![0],
            _ => vec![1, 4, 3, 0, 2],
        };
        assert_eq!(codecs, wanted);
    }
}

#[test]
fn labels_and_tensors_that_are_no_weights_are_those_that_were_packed() {
    let (model, made) = (decode(&golden(BESIDE).0).unwrap().model, make::beside());
    assert_eq!(model.labels, made.labels);
    let by_name = |model: &Model| {
        let mut kept = model.kept.clone();
        kept.sort_by(|a, b| a.name.cmp(&b.name));
        kept
    };
    assert_eq!(by_name(&model), by_name(&made));
    assert!(made.kept.len() > 10);
}

/// The specification, as the reader written after it understands it.
#[test]
#[ignore = "needs python3 with numpy and zstandard"]
fn the_reader_in_python_agrees() {
    let python = std::env::var_os("PYTHON").unwrap_or_else(|| "python3".into());
    for name in ALL {
        let artifact = format!("{FOLDER}/{name}");
        let expected = format!("{FOLDER}/expected.json");
        let args = ["-B", "formats/reader.py", &artifact, "--expect", &expected];
        let output = std::process::Command::new(&python).args(args).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }
}

#[test]
fn the_exact_artifact_holds_the_model_it_was_made_of() {
    let (bytes, _) = golden(LOSSLESS);
    assert_eq!(hashes(&decode(&bytes).unwrap().model), hashes(&make::model()));
}

#[test]
fn every_flipped_byte_and_bit_is_an_error() {
    for name in ALL {
        let (mut bytes, _) = golden(name);
        let mut seed = 3u32;
        for at in 0..bytes.len() {
            seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            for flip in [0xff, 1 << (seed >> 29)] {
                bytes[at] ^= flip;
                assert!(decoded(&bytes, name).is_err(), "{name}: byte {at} flipped by {flip:#x}");
                bytes[at] ^= flip;
            }
        }
    }
}

#[test]
fn every_cut_is_an_error() {
    for name in ALL {
        let (bytes, parsed) = golden(name);
        let front = parsed.header_range.end;
        let body = (0..100).map(|k| front + k * (bytes.len() - front) / 100);
        for cut in (0..front).chain(body).chain([bytes.len() - 1]) {
            assert!(decoded(&bytes[..cut], name).is_err(), "{name}: cut to {cut} bytes");
        }
    }
}
