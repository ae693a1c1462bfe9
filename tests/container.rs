//! The container: what is written is read back, and nothing else is accepted.

use std::fs;

use proptest::prelude::*;
use tiepack::artifact::layout::{Header, StreamEntry, codec};
use tiepack::artifact::read::parse;
use tiepack::artifact::root::{Decoded, root};
use tiepack::artifact::save::{check, save};
use tiepack::artifact::write::{assemble, size_of};
use tiepack::error::Kind;
use tiepack::ingest::weights::Dtype;
use tiepack::varint::{Reader, put};

const CONFIG: &str = r#"{"arch":"parameter-golf-baseline","vocab_size":1024,"num_layers":9,"model_dim":256,"num_heads":4,"num_kv_heads":2,"mlp_mult":2,"tie_embeddings":true,"logit_softcap":30.0,"rope_base":10000.0,"train_seq_len":256}"#;

/// The header of a model of nine layers, five of them stored: 92 tensors, 31 matrices, 46 vectors in one stream, with
/// `params` bytes of parameters for every matrix.
fn nine_layers(params: usize) -> Header {
    let copies = [0usize, 1, 2, 3, 2, 0, 6, 0, 2];
    let (mut source, mut vectors, mut matrices) = (vec![0, 1], vec![1], vec![0]);
    let mut first = vec![vec![]; copies.len()];
    let mut next = 2;
    for (layer, &copy) in copies.iter().enumerate() {
        // As a layer's tensors follow each other: gains, four matrices, scale, two matrices, scale, mix.
        let mut mine = Vec::new();
        for is_vector in [false, false, false, false, true, true, false, false, true, true] {
            if is_vector || copy == layer {
                if is_vector {
                    vectors.push(next)
                } else {
                    matrices.push(next)
                }
                mine.push(next);
                next += 1;
            } else {
                let tied: &Vec<u32> = &first[copy];
                mine.push(tied[mine.len()]);
            }
        }
        source.extend(&mine);
        first[layer] = mine;
    }
    let entry = |codec, dtype, tensors: Vec<u32>, params: Vec<u8>, len| StreamEntry {
        codec,
        params,
        dtypes: vec![dtype; tensors.len()],
        tensors,
        len,
    };
    let mut streams = vec![entry(codec::VECTORS, Dtype::F32, vectors, vec![7; 4], 9_100)];
    for (i, t) in matrices.into_iter().enumerate() {
        let noise = (0..params).map(|k| (((i * 31 + k) * 40_503) >> 4) as u8).collect();
        streams.push(entry(codec::MATRIX, Dtype::Bf16, vec![t], noise, 20_000 + 1_713 * i as u64));
    }
    Header { config: CONFIG.into(), source, streams }
}

fn bodies(header: &Header) -> Vec<Vec<u8>> {
    header.streams.iter().map(|s| (0..s.len).map(|k| ((k * 73) >> 2) as u8).collect()).collect()
}

/// A small artifact, so that every byte of it can be tried.
fn small() -> Vec<u8> {
    let mut header = nine_layers(3);
    for (i, stream) in header.streams.iter_mut().enumerate() {
        stream.len = i as u64 % 5;
    }
    assemble(&header, &bodies(&header), &[9; 32]).unwrap()
}

#[test]
fn parts_come_back_and_every_byte_is_accounted_for() {
    let header = nine_layers(6);
    let bodies = bodies(&header);
    let bytes = assemble(&header, &bodies, &[9; 32]).unwrap();
    assert_eq!(bytes.len() as u64, size_of(&header).unwrap());
    let parsed = parse(&bytes).unwrap();
    assert_eq!(parsed.header, header);
    assert_eq!(parsed.root, [9; 32]);
    let mut at = parsed.header_range.end;
    for (range, body) in parsed.streams.iter().zip(&bodies) {
        assert_eq!(range.start, at);
        assert_eq!(&bytes[range.clone()], &body[..]);
        at = range.end;
    }
    assert_eq!(at + 40, bytes.len());
}

#[test]
fn a_nine_layer_model_stays_under_600_bytes() {
    for params in [0, 2, 4, 6] {
        let header = nine_layers(params);
        let streams: u64 = header.streams.iter().map(|s| s.len).sum();
        let rest = size_of(&header).unwrap() - streams;
        assert!(rest < 600, "{rest} bytes beside the streams, with {params} bytes of parameters a matrix");
        println!("{params} bytes of parameters: {rest} bytes beside the streams");
    }
}

#[test]
fn a_file_cut_anywhere_is_refused() {
    let bytes = small();
    for n in 0..bytes.len() {
        assert_eq!(parse(&bytes[..n]).unwrap_err().kind, Kind::Verification, "cut to {n} bytes");
    }
    assert!(parse(&[&bytes[..], &[0]].concat()).is_err());
}

#[test]
fn a_changed_byte_is_refused() {
    let bytes = small();
    for at in 0..bytes.len() {
        for flip in [1, 0x80, 0xff] {
            let mut bad = bytes.clone();
            bad[at] ^= flip;
            assert_eq!(parse(&bad).unwrap_err().kind, Kind::Verification, "byte {at}");
        }
    }
}

/// Puts a fitting checksum under bytes, so that the checks behind it are reached.
fn seal(mut bytes: Vec<u8>) -> Vec<u8> {
    let check = blake3::hash(&bytes);
    bytes.extend_from_slice(&check.as_bytes()[..8]);
    bytes
}

#[test]
fn lengths_beyond_the_file_and_bytes_between_streams_are_refused() {
    let bytes = small();
    let body = &bytes[..bytes.len() - 8];
    assert!(parse(&seal(body.to_vec())).is_ok());
    let error = parse(&seal([body, &[0]].concat())).unwrap_err();
    assert!(error.message.contains("left over"), "{error}");
    assert!(parse(&seal(body[..body.len() - 1].to_vec())).is_err());
    let huge = seal([&b"TPK1\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01\x00"[..], &[0; 32]].concat());
    assert!(parse(&huge).unwrap_err().message.contains("length of the header"));
}

#[test]
fn other_files_and_versions_are_told_apart() {
    assert!(parse(b"PK\x03\x04").unwrap_err().message.contains("not a tiepack artifact"));
    let mut newer = small();
    newer[3] = b'2';
    assert!(parse(&newer).unwrap_err().message.contains("version '2'"));
}

#[test]
fn headers_that_break_a_rule_are_not_written() {
    let good = nine_layers(1);
    let broken: [fn(&mut Header); 6] = [
        |h| h.source[5] = 90,
        |h| h.source.swap(0, 1),
        |h| h.streams.truncate(31),
        |h| h.streams[1].tensors = h.streams[2].tensors.clone(),
        |h| h.streams[0].tensors.reverse(),
        |h| h.streams[0].dtypes.truncate(1),
    ];
    for (i, break_it) in broken.iter().enumerate() {
        let mut header = good.clone();
        break_it(&mut header);
        assert_eq!(size_of(&header).unwrap_err().kind, Kind::Compute, "rule {i}");
    }
    assert!(assemble(&good, &[[0u8; 1]], &[0; 32]).is_err());
}

#[test]
fn the_root_sees_shape_values_map_and_config() {
    let (data, shape) = ([1.0, 2.0], [2usize]);
    let base = root(&[Decoded { shape: &shape, data: &data }], &[0], "{}");
    let others = [
        root(&[Decoded { shape: &[2, 1], data: &data }], &[0], "{}"),
        root(&[Decoded { shape: &shape, data: &[1.0, -2.0] }], &[0], "{}"),
        root(&[Decoded { shape: &shape, data: &data }], &[0, 0], "{}"),
        root(&[Decoded { shape: &shape, data: &data }], &[0], "{ }"),
    ];
    assert!(others.iter().all(|o| *o != base));
    let zero = |z: f32| root(&[Decoded { shape: &[1], data: &[z] }], &[0], "");
    assert_ne!(zero(0.0), zero(-0.0));
}

#[test]
fn saving_replaces_whole_files_only() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.tiepack");
    check(&path).unwrap();
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0, "a check leaves no trace");
    save(&path, b"old").unwrap();
    check(&path).unwrap();
    assert_eq!(fs::read(&path).unwrap(), b"old");
    save(&path, b"new").unwrap();
    assert_eq!(fs::read(&path).unwrap(), b"new");
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
}

#[cfg(unix)]
#[test]
fn saving_follows_links_and_leaves_an_ordinary_file() {
    use std::os::unix::fs::{PermissionsExt, symlink};
    let folder = tempfile::tempdir().unwrap();
    let (path, link) = (folder.path().join("a"), folder.path().join("b"));
    save(&path, b"old").unwrap();
    symlink(&path, &link).unwrap();
    save(&link, b"new").unwrap();
    assert_eq!(fs::read(&path).unwrap(), b"new");
    assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
    // What the umask leaves of an ordinary file: as for a file made in the ordinary way.
    let ordinary = folder.path().join("c");
    fs::write(&ordinary, b"").unwrap();
    let mode = |p| fs::metadata(p).unwrap().permissions().mode();
    assert_eq!(mode(&path), mode(&ordinary));
}

/// Not a test of its own: what the next test kills.
#[test]
fn child_saving_a_megabyte() {
    if let Some(path) = std::env::var_os("TIEPACK_TEST_SAVE") {
        let _ = save(path.as_ref(), &[1; 1 << 20]);
    }
}

#[cfg(unix)]
#[test]
fn a_kill_in_the_middle_leaves_the_old_file() {
    use std::os::unix::process::ExitStatusExt;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.tiepack");
    save(&path, b"old").unwrap();
    // The kernel kills a process that writes a file beyond its limit: here in the middle of the megabyte.
    let status = std::process::Command::new("sh")
        .args(["-c", r#"ulimit -c 0; ulimit -f 64; exec "$0" --exact child_saving_a_megabyte"#])
        .arg(std::env::current_exe().unwrap())
        .env("TIEPACK_TEST_SAVE", &path)
        .stdout(std::process::Stdio::null())
        .status()
        .unwrap();
    assert!(status.signal().is_some(), "{status}");
    assert_eq!(fs::read(&path).unwrap(), b"old");
}

#[test]
fn places_that_cannot_be_written_are_named() {
    let folder = tempfile::tempdir().unwrap();
    let error = save(&folder.path().join("none/model.tiepack"), b"").unwrap_err();
    assert!(error.message.contains("does not exist") && error.hint.is_some(), "{error}");
    assert!(save(folder.path(), b"").unwrap_err().message.contains("is a folder"));
    #[cfg(unix)]
    assert!(save("/dev/null".as_ref(), b"").unwrap_err().message.contains("not an ordinary file"));
}

/// Any valid header: a tie map by first use, streams that share out the stored tensors.
fn headers() -> impl Strategy<Value = Header> {
    let tensor = (any::<prop::sample::Index>(), any::<bool>());
    let stream = (any::<u8>(), prop::collection::vec(any::<u8>(), 0..4), 0u64..1 << 40, 0usize..3);
    (".{0,40}", prop::collection::vec(tensor, 0..60), prop::collection::vec((any::<u8>(), stream), 60)).prop_map(
        |(config, tensors, picks)| {
            let (mut source, mut stored) = (vec![], 0u32);
            for (pick, tied) in tensors {
                if tied && stored > 0 {
                    source.push(pick.index(stored as usize) as u32);
                } else {
                    source.push(stored);
                    stored += 1;
                }
            }
            let mut streams: Vec<StreamEntry> = vec![];
            for t in 0..stored {
                let (join, (codec, params, len, dtype)) = &picks[t as usize];
                let dtype = [Dtype::F32, Dtype::F16, Dtype::Bf16][*dtype];
                if *join >= 128 && !streams.is_empty() {
                    let i = usize::from(*join) % streams.len();
                    streams[i].tensors.push(t);
                    streams[i].dtypes.push(dtype);
                } else {
                    let (codec, params, len) = (codec % 3, params.clone(), *len);
                    streams.push(StreamEntry { codec, params, tensors: vec![t], dtypes: vec![dtype], len });
                }
            }
            if stored % 2 == 0 {
                streams.reverse();
            }
            Header { config, source, streams }
        },
    )
}

proptest! {
    // Nothing is written into the source tree.
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_header_survives(header in headers()) {
        let bytes = header.to_bytes().unwrap();
        prop_assert_eq!(Header::from_bytes(&bytes).unwrap(), header);
        for n in 0..bytes.len() {
            prop_assert!(Header::from_bytes(&bytes[..n]).is_err());
        }
    }

    #[test]
    fn damaged_headers_never_panic(header in headers(), at in any::<prop::sample::Index>(), byte in any::<u8>()) {
        let mut bytes = header.to_bytes().unwrap();
        let n = bytes.len();
        bytes[at.index(n)] = byte;
        let _ = Header::from_bytes(&bytes);
    }

    #[test]
    fn any_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = Header::from_bytes(&bytes);
        prop_assert!(parse(&bytes).is_err());
        let _ = parse(&seal([b"TPK1", &bytes[..]].concat()));
    }

    #[test]
    fn integers_survive_in_their_shortest_form(value in any::<u64>()) {
        let mut out = vec![];
        put(&mut out, value);
        let mut reader = Reader::new(&out);
        prop_assert_eq!(reader.varint("value").unwrap(), value);
        reader.finish("value").unwrap();
        *out.last_mut().unwrap() |= 0x80;
        out.push(0);
        prop_assert!(Reader::new(&out).varint("value").is_err());
    }
}
