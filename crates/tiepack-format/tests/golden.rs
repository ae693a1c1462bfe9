//! Artifacts that were written once and for all decode to the same bits, and what is made of them with intent gives an error
//! or the same tensors.

use std::panic::catch_unwind;

use serde_json::Value;
use tiepack_format::container::root::{Decoded, tensor_hash};
use tiepack_format::container::{CHECK_BYTES, codec};
use tiepack_format::error::Kind;
use tiepack_format::varint::put;
use tiepack_format::{Artifact, Error, Limits, decode, decode_within, parse};

const FOLDER: &str = "../../fixtures/golden";
const SMALLEST: &str = "v1-foreign.tiepack";

fn golden(name: &str) -> Vec<u8> {
    std::fs::read(format!("{FOLDER}/{name}")).unwrap()
}

fn expected() -> serde_json::Map<String, Value> {
    let text = std::fs::read_to_string(format!("{FOLDER}/expected.json")).unwrap();
    serde_json::from_str(&text).unwrap()
}

fn hex(hash: [u8; 32]) -> String {
    blake3::Hash::from_bytes(hash).to_hex().to_string()
}

/// Hashes of the stored tensors, as they go into the root.
fn hashes(artifact: &Artifact) -> Vec<String> {
    let header = artifact.header();
    let shape = |stored: usize| {
        let first = header.source.iter().position(|s| *s as usize == stored).unwrap();
        &header.names[first].shape
    };
    let hash = |(i, data): (usize, &Vec<f32>)| hex(tensor_hash(Decoded { shape: shape(i), data }));
    artifact.tensors.iter().enumerate().map(hash).collect()
}

/// The file with a fitting checksum; `bytes` are all before it.
fn sealed(mut bytes: Vec<u8>) -> Vec<u8> {
    let check = blake3::hash(&bytes);
    bytes.extend_from_slice(&check.as_bytes()[..CHECK_BYTES]);
    bytes
}

/// Decodes, and turns a panic into a failure that says where.
#[track_caller]
fn decoded(bytes: &[u8], place: &str) -> Result<Artifact, Error> {
    let outcome = catch_unwind(|| decode(bytes)).unwrap_or_else(|_| panic!("{place}: decoding panicked"));
    if let Err(e) = &outcome {
        assert_eq!(e.kind, Kind::Verification, "{place}: {e}");
    }
    outcome
}

#[test]
fn old_artifacts_decode_to_the_same_bits() {
    let expected = expected();
    assert!(expected.len() >= 3);
    for (name, wanted) in expected {
        let artifact = decode(&golden(&name)).unwrap();
        assert_eq!(wanted["root"], hex(artifact.parsed.root), "{name}");
        assert_eq!(wanted["tensors"], Value::from(hashes(&artifact)), "{name}");
    }
}

#[test]
fn tensors_are_found_by_name() {
    let artifact = decode(&golden(SMALLEST)).unwrap();
    let header = artifact.header();
    for (named, source) in header.names.iter().zip(&header.source) {
        let (shape, data) = artifact.tensor(&named.name).unwrap();
        assert_eq!((shape, data), (&named.shape[..], &artifact.tensors[*source as usize][..]));
        assert_eq!(shape.iter().product::<usize>(), data.len());
    }
    assert!(artifact.tensor("no such tensor").is_none());
}

/// Values are those that `formats/reader.py` decodes.
#[test]
fn labels_and_kept_tensors_come_under_the_names_of_the_file() {
    let artifact = decode(&golden("v1-beside.tiepack")).unwrap();
    let names: Vec<&str> = artifact.names().collect();
    assert_eq!(names.len(), artifact.header().names.len() + 1, "one tensor has two names: {names:?}");
    assert!(names.iter().all(|name| artifact.tensor(name).is_some()));
    assert_eq!(artifact.tensor("bank"), artifact.tensor("store"));
    assert_eq!(artifact.tensor("left.alone").unwrap().0, [3, 5]);
    // A name that only the network knows, and one of no weights.
    assert!(artifact.tensor("kept").is_none());
    assert!(artifact.tensor("nothing").is_none());

    let kept = |name: &str| artifact.kept_tensors().find(|(kept, _)| kept.name == name).unwrap();
    let (entry, bytes) = kept("buffers.0.table");
    assert_eq!((entry.element_name(), &entry.shape[..]), ("i64", &[][..]));
    assert_eq!(bytes, (-1_776_274_744_588_319_978i64).to_le_bytes());
    let (entry, bytes) = kept("buffers.6.table");
    assert_eq!((entry.element_name(), &entry.shape[..]), ("i32", &[6, 3][..]));
    assert_eq!(bytes[..4], (-1_440_562_120i32).to_le_bytes());
    let (entry, bytes) = kept("nothing");
    assert_eq!((entry.element_name(), &entry.shape[..], bytes), ("f64", &[0, 2][..], &[][..]));
    assert_eq!(artifact.kept_tensors().count(), 16);
}

/// Whoever makes a hostile file makes its checksum fit.
#[test]
fn every_flipped_bit_under_a_fitting_checksum_is_an_error_or_does_not_matter() {
    let bytes = golden(SMALLEST);
    let wanted = hashes(&decode(&bytes).unwrap());
    let body = bytes.len() - CHECK_BYTES;
    let mut same = 0;
    for bit in 0..8 * body {
        let mut bad = bytes[..body].to_vec();
        bad[bit / 8] ^= 1 << (bit % 8);
        let place = format!("bit {bit}");
        if let Ok(artifact) = decoded(&sealed(bad), &place) {
            assert_eq!(hashes(&artifact), wanted, "{place}");
            same += 1;
        }
    }
    // The last bits of a stream may be anything; more than a few in a hundred would show that nothing is checked.
    assert!(same * 20 < 8 * body, "{same} of {} bits do not matter", 8 * body);
}

#[test]
fn every_cut_under_a_fitting_checksum_is_an_error() {
    let bytes = golden(SMALLEST);
    for cut in 0..bytes.len() - CHECK_BYTES {
        assert!(decoded(&sealed(bytes[..cut].to_vec()), "cut").is_err(), "cut to {cut} bytes");
    }
}

/// A header as a hostile writer makes it, whatever the rules: one kind of tensor, one tensor in one stream of no bytes.
fn with_shape(codec: u8, shape: &[u64]) -> Vec<u8> {
    // No flags, no config, one kind: a control tensor that belongs to no layer.
    let mut header = vec![0, 0, 1, 0, 1, b'a'];
    put(&mut header, shape.len() as u64);
    shape.iter().for_each(|d| put(&mut header, *d));
    // One tensor, new; stored by itself; one stream, plain run of one; one run of f32; nobody needs others; no bytes.
    header.extend([1, 1, 0, 1, 1, 2 * codec, 1, 0, 1, 0, 0]);
    let mut out = b"TPK1".to_vec();
    put(&mut out, header.len() as u64);
    put(&mut out, 0);
    out.extend(header);
    out.extend([0; 32]);
    sealed(out)
}

#[test]
fn empty_tensors_of_enormous_sides_are_refused() {
    for codec in [codec::LOSSLESS, codec::MATRIX, codec::VECTORS, codec::ZERO, codec::SUM] {
        let most = 1u64 << 31;
        for shape in [
            &[1 << 28, 0][..],
            &[0, 1 << 28],
            &[most, 0],
            &[most, most, 0],
            &[0, most, most],
            &[most; 8],
            &[0, most, most, most, most, most, most, most],
        ] {
            let error = decoded(&with_shape(codec, shape), "sides").unwrap_err();
            let says = ["cannot hold the tensors", "larger than allowed"];
            assert!(says.iter().any(|text| error.message.contains(text)), "codec {codec}, {shape:?}: {error}");
        }
    }
    // The file is well formed: with sides that its few bytes can hold it gets as far as the hash.
    let error = decoded(&with_shape(codec::ZERO, &[300, 0]), "sides").unwrap_err();
    assert!(error.message.contains("do not match the hash"), "{error}");
}

#[test]
fn a_tensor_has_one_shape() {
    // Two kinds, [1] and [2], of which each has a tensor; both are the same stored one.
    let header =
        [&[0, 0, 2, 0, 1, b'a', 1, 1, 0, 1, b'b', 1, 2][..], &[2, 2, 0, 1], &[1, 1, 1], &[1, 6, 1, 0, 1, 0, 0]]
            .concat();
    let file = [&b"TPK1"[..], &[header.len() as u8, 0], &header, &[0; 32]].concat();
    let error = decoded(&sealed(file), "shapes").unwrap_err();
    assert!(error.message.contains("cannot share"), "{error}");
}

#[test]
fn a_file_beyond_the_limits_is_refused() {
    let bytes = golden(SMALLEST);
    let all = Limits::default();
    let header = parse(&bytes).unwrap().header;
    assert!(decode_within(&bytes, &Limits { tensors: header.names.len(), ..all }).is_ok());
    let weights: usize = decode(&bytes).unwrap().tensors.iter().map(Vec::len).sum();
    assert!(decode_within(&bytes, &Limits { weights, ..all }).is_ok());
    for limits in [
        Limits { header: 20, ..all },
        Limits { tensors: header.names.len() - 1, ..all },
        Limits { names: 10, ..all },
        Limits { weights: weights - 1, ..all },
        Limits { weights_per_byte: 0, weights_of_any: 0, ..all },
    ] {
        assert_eq!(decode_within(&bytes, &limits).unwrap_err().kind, Kind::Verification, "{limits:?}");
    }
}
