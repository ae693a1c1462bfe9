//! The container: what is written is read back, and nothing else is accepted.

use proptest::prelude::*;
use tiepack_format::container::extra::{Extra, KeptEntry};
use tiepack_format::container::root::{Decoded, root};
use tiepack_format::container::write::{assemble, size_of};
use tiepack_format::container::{codec, parse};
use tiepack_format::error::Kind;
use tiepack_format::varint::{Reader, put};
use tiepack_format::{Dtype, Form, Header, Named, StreamEntry};

/// No tensors beside the weights.
const NONE: [&[u8]; 0] = [];

const CONFIG: &str = r#"{"arch":"parameter-golf-baseline","vocab_size":1024,"num_layers":9,"model_dim":256,"num_heads":4,"num_kv_heads":2,"mlp_mult":2,"tie_embeddings":true,"logit_softcap":30.0,"rope_base":10000.0,"train_seq_len":256}"#;

/// What a whole model is called: as a layer's tensors follow each other in the challenge's baseline.
fn names(layers: usize) -> Vec<Named> {
    let named = |name: String, form| Named { name, shape: vec![256, 256], form };
    let mut names = vec![named("tok_emb.weight".into(), Form::Embedding), named("skip_weights".into(), Form::Vector)];
    let roles = [
        ("attn.c_q.weight", Form::Matrix),
        ("attn.c_k.weight", Form::Matrix),
        ("attn.c_v.weight", Form::Matrix),
        ("attn.proj.weight", Form::Matrix),
        ("attn.q_gain", Form::Vector),
        ("attn_scale", Form::Vector),
        ("mlp.fc.weight", Form::Matrix),
        ("mlp.proj.weight", Form::Matrix),
        ("mlp_scale", Form::Vector),
        ("resid_mix", Form::Vector),
    ];
    for layer in 0..layers {
        names.extend(roles.iter().map(|(role, form)| named(format!("blocks.{layer}.{role}"), *form)));
    }
    names
}

/// The header of a model whose layers are copies of earlier ones as `copies` says: for the nine layers of [`COPIES`] 92
/// tensors, 31 matrices, 46 vectors in one stream.
fn header(copies: &[usize]) -> Header {
    let names = names(copies.len());
    let (mut source, mut vectors, mut matrices) = (vec![0, 1], vec![1], vec![0]);
    let mut first = vec![vec![]; copies.len()];
    let mut next = 2;
    for (layer, &copy) in copies.iter().enumerate() {
        let mut mine = Vec::new();
        for named in &names[2 + 10 * layer..12 + 10 * layer] {
            if named.form == Form::Vector || copy == layer {
                let kind = if named.form == Form::Vector { &mut vectors } else { &mut matrices };
                kind.push(next);
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
    let entry = |codec, dtype, tensors: Vec<u32>, needs: Vec<u32>, len| StreamEntry {
        codec,
        dtypes: vec![dtype; tensors.len()],
        tensors,
        needs,
        len,
    };
    let mut streams = vec![entry(codec::VECTORS, Dtype::F32, vectors, vec![], 9_100)];
    for (i, t) in matrices.iter().enumerate() {
        // The last matrix starts from the first.
        let needs = if i + 1 == matrices.len() { vec![matrices[0]] } else { vec![] };
        let codec = if needs.is_empty() { codec::MATRIX } else { codec::SUM };
        streams.push(entry(codec, Dtype::Bf16, vec![*t], needs, 20_000 + 1_713 * i as u64));
    }
    Header { config: CONFIG.into(), names, source, streams, extra: Extra::default() }
}

const COPIES: [usize; 9] = [0, 1, 2, 3, 2, 0, 6, 0, 2];

fn nine_layers() -> Header {
    header(&COPIES)
}

fn bodies(header: &Header) -> Vec<Vec<u8>> {
    header.streams.iter().map(|s| (0..s.len).map(|k| ((k * 73) >> 2) as u8).collect()).collect()
}

/// A small artifact, so that every byte of it can be tried.
fn small() -> Vec<u8> {
    let mut header = nine_layers();
    for (i, stream) in header.streams.iter_mut().enumerate() {
        stream.len = i as u64 % 5;
    }
    assemble(&header, &bodies(&header), &[9; 32]).unwrap()
}

#[test]
fn parts_come_back_and_every_byte_is_accounted_for() {
    let header = nine_layers();
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
fn names_and_metadata_take_few_bytes_and_further_layers_next_to_none() {
    let beside = |header: &Header| size_of(header).unwrap() - header.streams.iter().map(|s| s.len).sum::<u64>();
    let nine = nine_layers();
    // Names that are numbers take what no names would.
    let nameless = |header: &Header| {
        let names = (0..header.names.len()).map(|i| Named { name: i.to_string(), shape: vec![], form: Form::Vector });
        Header { names: names.collect(), ..header.clone() }
    };
    let copies: Vec<usize> = (0..36).map(|layer| if layer < 9 { COPIES[layer] } else { COPIES[layer % 9] }).collect();
    let many = header(&copies);
    assert!(beside(&nine) < 600, "{} bytes beside the streams of nine layers", beside(&nine));
    let costs = [&nine, &many].map(|header| beside(header) as i64 - beside(&nameless(header)) as i64);
    println!("names and shapes of 9 and 36 layers: {costs:?} bytes more than numbers for names");
    assert!(costs[1] - costs[0] < 16, "{costs:?}");
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
    let good = nine_layers();
    let broken: [fn(&mut Header); 11] = [
        |h| h.source[5] = 90,
        |h| h.source.swap(0, 1),
        |h| h.streams.truncate(31),
        |h| h.streams[1].tensors = h.streams[2].tensors.clone(),
        |h| h.streams[0].tensors.reverse(),
        |h| h.streams[0].dtypes.truncate(1),
        |h| h.streams[0].needs = vec![0],
        |h| h.streams[3].needs = vec![900],
        |h| h.names.truncate(5),
        |h| h.names[7].name = h.names[8].name.clone(),
        |h| h.names[7].shape = vec![1; 9],
    ];
    for (i, break_it) in broken.iter().enumerate() {
        let mut header = good.clone();
        break_it(&mut header);
        assert_eq!(size_of(&header).unwrap_err().kind, Kind::Compute, "rule {i}");
    }
    assert!(assemble(&good, &[[0u8; 1]], &[0; 32]).is_err());
}

#[test]
fn what_no_reader_would_take_is_not_written() {
    let named = Named { name: "a".into(), shape: vec![1 << 20, 0, 1 << 20], form: Form::Matrix };
    let entry = StreamEntry { codec: codec::ZERO, tensors: vec![0], dtypes: vec![Dtype::F32], needs: vec![], len: 0 };
    let header = Header {
        config: String::new(),
        names: vec![named],
        source: vec![0],
        streams: vec![entry],
        extra: Extra::default(),
    };
    let error = assemble(&header, &[[0u8; 0]], &[0; 32]).unwrap_err();
    assert!(error.kind == Kind::Compute && error.message.contains("larger than the format allows"), "{error}");
    let kept = |count| {
        let entry = KeptEntry { name: "steps".into(), shape: vec![count], element: 4 };
        let extra = Extra { kept: vec![entry], lengths: vec![0], ..Extra::default() };
        assemble(
            &Header { extra, streams: vec![], source: vec![], names: vec![], ..header.clone() },
            &[[0u8; 0]],
            &[0; 32],
        )
    };
    assert!(kept(16 << 20).is_ok());
    let error = kept((16 << 20) + 1).unwrap_err();
    assert!(error.kind == Kind::Compute && error.message.contains("the largest is steps"), "{error}");
}

#[test]
fn the_root_sees_shape_values_map_names_and_config() {
    let (data, shape) = ([1.0, 2.0], [2usize]);
    let header = |names: &[&str], config: &str| Header {
        config: config.into(),
        names: names.iter().map(|n| Named { name: n.to_string(), shape: vec![2], form: Form::Vector }).collect(),
        source: vec![0; names.len()],
        streams: vec![],
        extra: Extra::default(),
    };
    let base = root(&[Decoded { shape: &shape, data: &data }], &NONE, &header(&["a"], "{}"));
    let others = [
        root(&[Decoded { shape: &[2, 1], data: &data }], &NONE, &header(&["a"], "{}")),
        root(&[Decoded { shape: &shape, data: &[1.0, -2.0] }], &NONE, &header(&["a"], "{}")),
        root(&[Decoded { shape: &shape, data: &data }], &NONE, &header(&["a", "b"], "{}")),
        root(&[Decoded { shape: &shape, data: &data }], &NONE, &header(&["b"], "{}")),
        root(&[Decoded { shape: &shape, data: &data }], &NONE, &header(&["a"], "{ }")),
    ];
    assert!(others.iter().all(|o| *o != base));
    let zero = |z: f32| root(&[Decoded { shape: &[1], data: &[z] }], &NONE, &header(&["a"], ""));
    assert_ne!(zero(0.0), zero(-0.0));
}

/// Any valid header: a tie map by first use, streams that share out the stored tensors.
fn headers() -> impl Strategy<Value = Header> {
    let tensor = (any::<prop::sample::Index>(), any::<bool>());
    let stream = (any::<u8>(), prop::collection::vec(any::<prop::sample::Index>(), 0..3), 0u64..1 << 40, 0usize..3);
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
                let (join, (codec, _, len, dtype)) = &picks[t as usize];
                let dtype = [Dtype::F32, Dtype::F16, Dtype::Bf16][*dtype];
                if *join >= 128 && !streams.is_empty() {
                    let i = usize::from(*join) % streams.len();
                    streams[i].tensors.push(t);
                    streams[i].dtypes.push(dtype);
                } else {
                    let (codec, needs, len) = (codec % 5, vec![], *len);
                    streams.push(StreamEntry { codec, tensors: vec![t], dtypes: vec![dtype], needs, len });
                }
            }
            if stored % 2 == 0 {
                streams.reverse();
            }
            // Every stream may need tensors of those before it.
            let mut decoded: Vec<u32> = vec![];
            for (stream, (_, (_, needs, ..))) in streams.iter_mut().zip(&picks) {
                if !decoded.is_empty() {
                    stream.needs = needs.iter().map(|need| *need.get(&decoded)).collect();
                }
                decoded.extend(&stream.tensors);
            }
            let name = |i: usize| match i % 3 {
                0 => format!("h.{}.part{}", i / 6, i % 6),
                _ => format!("{i}"),
            };
            let named = |i: usize| Named { name: name(i), shape: vec![i % 4, 7], form: Form::Matrix };
            let names = (0..source.len()).map(named).collect();
            Header { config, names, source, streams, extra: Extra::default() }
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
