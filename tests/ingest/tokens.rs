//! Every kind of file that tokens come from.

use std::fs;
use std::io::Write;
use std::path::Path;

use flate2::Compression;
use flate2::write::GzEncoder;
use insta::assert_snapshot;
use serde_json::{Value, json};
use tiepack::ingest::tokenizer::Lengths;
use tiepack::ingest::tokenizer::sentencepiece::SentencePiece;
use tiepack::ingest::tokens::TokenFormat;
use tiepack::ingest::{Reading, TokenBytes, TokenStream};

use crate::{Folder, good_shard, shard_bytes};

const TOKENIZERS: &str = "fixtures/tokenizers";
/// Ids that a model with 1,024 of them knows.
const IDS: [u32; 5] = [3, 1, 1023, 0, 7];

fn read(folder: &Folder, name: &str, reading: &Reading, vocab: usize) -> tiepack::error::Result<Vec<u32>> {
    TokenStream::open(&[folder.path(name)], reading, vocab)?.rest()
}

fn words<const N: usize>(of: impl Fn(u32) -> [u8; N]) -> Vec<u8> {
    IDS.into_iter().flat_map(of).collect()
}

/// An array as numpy.save writes it.
fn npy(descr: &str, shape: &str, body: &[u8]) -> Vec<u8> {
    let header = format!("{{'descr': '{descr}', 'fortran_order': False, 'shape': {shape}, }}");
    let header = format!("{header:<117}\n");
    [b"\x93NUMPY\x01\x00", &(header.len() as u16).to_le_bytes()[..], header.as_bytes(), body].concat()
}

fn gzip(text: &[u8]) -> Vec<u8> {
    let mut file = GzEncoder::new(Vec::new(), Compression::default());
    file.write_all(text).unwrap();
    file.finish().unwrap()
}

fn with(tokenizer: &str) -> Reading {
    Reading { tokenizer: Some(Path::new(TOKENIZERS).join(tokenizer)), ..Reading::default() }
}

#[test]
fn numbers_are_the_same_however_they_are_written() {
    let long: Vec<u32> = (0..4_000).map(|i| i * i % 1024).collect();
    let wide = [&[20_240_801i32, 7, 5], &[0; 253][..]].concat();
    let wide: Vec<u8> = wide.iter().flat_map(|x| x.to_le_bytes()).chain(words(u32::to_le_bytes)).collect();
    let folder = Folder::new(&[
        ("challenge.bin", &good_shard(&IDS.map(|id| id as u16))),
        ("llama3.bin", &wide),
        ("row.npy", &npy("<u2", "(5,)", &words(|id| (id as u16).to_le_bytes()))),
        ("big.npy", &npy(">i4", "(5,)", &words(|id| (id as i32).to_be_bytes()))),
        ("rows.npy", &npy("<i8", "(1, 5)", &words(|id| i64::from(id).to_le_bytes()))),
    ]);
    for name in ["challenge.bin", "llama3.bin", "row.npy", "big.npy", "rows.npy"] {
        assert_eq!(read(&folder, name, &Reading::default(), 1024).unwrap(), IDS, "{name}");
    }
    // Without a header the width is seen, or said.
    fs::write(folder.path("train.bin"), long.iter().flat_map(|id| (*id as u16).to_le_bytes()).collect::<Vec<_>>())
        .unwrap();
    fs::write(folder.path("val.bin"), long.iter().flat_map(|id| id.to_le_bytes()).collect::<Vec<_>>()).unwrap();
    for vocab in [1024, 50_257, 151_936] {
        for (name, kind) in [("train.bin", TokenFormat::U16), ("val.bin", TokenFormat::U32)] {
            assert_eq!(read(&folder, name, &Reading::default(), vocab).unwrap(), long, "{name}, {vocab} ids");
            let said = Reading { kind: Some(kind), ..Reading::default() };
            assert_eq!(read(&folder, name, &said, vocab).unwrap(), long);
        }
    }
}

#[test]
fn ids_go_beyond_sixteen_bits() {
    let ids: Vec<u32> = (0..1_000).map(|i| i * 150).collect();
    let folder = Folder::new(&[(
        "a.npy",
        &npy("<u4", "(1000,)", &ids.iter().flat_map(|id| id.to_le_bytes()).collect::<Vec<_>>()),
    )]);
    assert_eq!(read(&folder, "a.npy", &Reading::default(), 150_000).unwrap(), ids);
    assert!(read(&folder, "a.npy", &Reading::default(), 149_850).unwrap_err().message.contains("token 999 is 149850"));
}

#[test]
fn a_stream_goes_on_from_file_to_file_and_begins_anew() {
    let folder = Folder::new(&[("a.bin", &good_shard(&[1, 2])), ("b.txt", b"xy"), ("c.bin", &good_shard(&[3]))]);
    let reading = with("byte_level.json");
    let paths = ["a.bin", "b.txt", "c.bin"].map(|name| folder.path(name));
    let mut stream = TokenStream::open(&paths, &reading, 320).unwrap();
    let text = read(&folder, "b.txt", &reading, 320).unwrap();
    let all = [&[1, 2], &text[..], &[3]].concat();
    assert_eq!((stream.tokens(), stream.text_bytes()), (all.len(), None));
    let mut some = Vec::new();
    while stream.read(&mut some, 1).unwrap() > 0 {}
    assert_eq!(some, all);
    stream.rewind();
    assert_eq!(stream.rest().unwrap(), all);
}

#[test]
fn text_becomes_the_tokens_of_its_tokenizer() {
    let cases: Value = serde_json::from_slice(&fs::read(format!("{TOKENIZERS}/texts.json")).unwrap()).unwrap();
    let mut compared = 0;
    for (file, cases) in cases.as_object().unwrap() {
        for case in cases.as_array().unwrap() {
            let (text, ids) = (case["text"].as_str().unwrap(), &case["ids"]);
            let lines = format!("{{\"other\": 1, \"text\": {}}}\n", case["text"]);
            let folder = Folder::new(&[
                ("a.txt", text.as_bytes()),
                ("a.txt.gz", &gzip(text.as_bytes())),
                ("a.zst", &zstd::encode_all(text.as_bytes(), 3).unwrap()),
                ("a.jsonl", lines.as_bytes()),
                ("a.json.gz", &gzip(lines.as_bytes())),
            ]);
            for name in ["a.txt", "a.txt.gz", "a.zst", "a.jsonl", "a.json.gz"] {
                let mut stream = TokenStream::open(&[folder.path(name)], &with(file), 1024).unwrap();
                assert_eq!(stream.text_bytes(), Some(text.len() as u64));
                assert_eq!(json!(stream.rest().unwrap()), *ids, "{file}: {name}: {text:?}");
                compared += 1;
            }
        }
    }
    assert!(compared >= 60, "{compared}");
}

#[test]
fn sentencepiece_models_cut_text_as_their_own_library_does() {
    let cases: Value = serde_json::from_slice(&fs::read(format!("{TOKENIZERS}/sentencepiece.json")).unwrap()).unwrap();
    for (file, cases) in cases.as_object().unwrap() {
        let model = SentencePiece::parse(&fs::read(Path::new(TOKENIZERS).join(file)).unwrap()).unwrap();
        for case in cases.as_array().unwrap() {
            let text = case["text"].as_str().unwrap();
            assert_eq!(json!(model.encode(text, true)), case["ids"], "{file}: {text:?}");
        }
    }
}

#[test]
fn bytes_are_counted_as_the_challenge_does_and_rebuilt_as_they_are() {
    let cases: Value = serde_json::from_slice(&fs::read(format!("{TOKENIZERS}/sentencepiece.json")).unwrap()).unwrap();
    let mut differ = Vec::new();
    for (file, cases) in cases.as_object().unwrap() {
        let path = Path::new(TOKENIZERS).join(file);
        let model = TokenBytes::read(&path).unwrap();
        // Rows of an embedding beyond the pieces.
        let table = TokenBytes::of_model(&path, model.bytes.len() + 64).unwrap();
        for case in cases.as_array().unwrap() {
            let ids: Vec<u32> = serde_json::from_value(case["ids"].clone()).unwrap();
            let mut lengths = Lengths::of(&table);
            lengths.push(&ids);
            lengths.push(&[model.bytes.len() as u32]);
            let (counted, text) = lengths.end(None).unzip();
            assert_eq!((json!(text), counted.is_some()), (case["decoded"].clone(), text.is_some()), "{file}: {case}");
            if let Some(counted) = counted {
                assert_eq!(counted, case["challenge"], "{file}: {case}");
                differ.extend((case["decoded"] != counted).then_some(file.clone()));
            }
        }
    }
    differ.dedup();
    // A space at the beginning of a text, several words in a piece, spaces as suffixes.
    let all = ["../pep-tiny/tokenizer.model", "sp_bpe_phrases.model", "sp_unigram_bytes.model", "sp_suffix.model"];
    assert_eq!(differ, all);
}

#[test]
fn documents_are_told_apart() {
    let lines = b"{\"text\": \"x\"}\n\n{\"text\": \"x\"}\n{\"text\": \"\"}\n";
    let folder = Folder::new(&[("a.jsonl", lines), ("b.txt", b"x")]);
    // Between documents stands the tokenizer's own end of text, also between files.
    let cut = |text: &[u8], name: &str| {
        let mut tokenizer: Value =
            serde_json::from_slice(&fs::read(format!("{TOKENIZERS}/byte_level.json")).unwrap()).unwrap();
        serde_json::from_slice::<Value>(text)
            .unwrap()
            .as_object()
            .unwrap()
            .iter()
            .for_each(|(k, v)| tokenizer[k] = v.clone());
        fs::write(folder.path("tokenizer.json"), tokenizer.to_string().replace("<|end|>", name)).unwrap();
        let reading = Reading { tokenizer: Some(folder.path("tokenizer.json")), ..Reading::default() };
        let mut stream = TokenStream::open(&[folder.path("a.jsonl"), folder.path("b.txt")], &reading, 320)?;
        stream.rest()
    };
    let x = cut(b"{}", "<|endoftext|>").unwrap()[0];
    assert_eq!(cut(b"{}", "<|endoftext|>").unwrap(), [x, 0, x, 0, x]);
    assert!(cut(b"{}", "<|end|>").unwrap_err().message.contains("no token that could stand between two documents"));
    fs::write(folder.path("tokenizer_config.json"), "{\"eos_token\": {\"content\": \"<|end|>\"}}").unwrap();
    assert_eq!(cut(b"{}", "<|end|>").unwrap(), [x, 0, x, 0, x]);
    // A token that its post-processor puts before every text is there once.
    let adds = |token: &str| {
        format!(
            "{{\"post_processor\": {{\"type\": \"TemplateProcessing\", \"single\": [{{\"SpecialToken\": {{\"id\": \"{token}\", \"type_id\": 0}}}}, \
             {{\"Sequence\": {{\"id\": \"A\", \"type_id\": 0}}}}], \"pair\": [{{\"Sequence\": {{\"id\": \"A\", \"type_id\": 0}}}}, \
             {{\"Sequence\": {{\"id\": \"B\", \"type_id\": 1}}}}], \"special_tokens\": {{\"{token}\": {{\"id\": \"{token}\", \"ids\": [0], \
             \"tokens\": [\"{token}\"]}}}}}}}}"
        )
    };
    assert_eq!(cut(adds("<|endoftext|>").as_bytes(), "<|endoftext|>").unwrap(), [0, x, 0, x, 0, x]);
    // SentencePiece's documents begin as the challenge's do.
    let reading = Reading { tokenizer: Some("fixtures/pep-tiny/tokenizer.model".into()), ..Reading::default() };
    let tokens = read(&folder, "a.jsonl", &reading, 1024).unwrap();
    assert_eq!((tokens[0], tokens.iter().filter(|id| **id == 1).count()), (1, 2));
}

#[test]
fn a_long_text_has_the_tokens_that_it_has_in_one() {
    // Longer than what is read at once, with places where it must not be cut.
    let text: String = (0..90_000).map(|i| format!("{i} words  of a\n\n  line\n")).collect();
    let folder = Folder::new(&[("a.txt", text.as_bytes())]);
    for (file, vocab) in [("byte_level.json", 320), ("../pep-tiny/tokenizer.model", 1024)] {
        let whole = json!({ "text": text }).to_string();
        fs::write(folder.path("a.jsonl"), whole).unwrap();
        let (cut, whole) = (
            read(&folder, "a.txt", &with(file), vocab).unwrap(),
            read(&folder, "a.jsonl", &with(file), vocab).unwrap(),
        );
        assert!(cut == whole, "{file}: {} and {} tokens", cut.len(), whole.len());
    }
}

#[test]
fn what_is_read_is_refused_by_name_where_it_is_wrong() {
    let text = "A text that is long enough to be cut off somewhere. ".repeat(100);
    let packed = gzip(text.as_bytes());
    let bomb = gzip(&vec![b'a'; 200 << 20]);
    let short: Vec<u8> = [1u16, 0, 2, 0].iter().flat_map(|id| id.to_le_bytes()).collect();
    let files: [(&str, Vec<u8>); 21] = [
        ("empty.txt", vec![]),
        ("latin.txt", b"caf\xe9 and more".to_vec()),
        ("cut.txt", "café".as_bytes()[..4].to_vec()),
        ("blank.jsonl", b"\n\n".to_vec()),
        ("broken.jsonl", b"{\"text\": \"a\"}\n{\"text\": ".to_vec()),
        ("other.jsonl", b"{\"content\": \"a\", \"id\": 1}\n".to_vec()),
        ("number.jsonl", b"{\"text\": 1}\n".to_vec()),
        ("cut.txt.gz", packed[..packed.len() / 2].to_vec()),
        ("cut.txt.zst", zstd::encode_all(text.as_bytes(), 3).unwrap()[..20].to_vec()),
        ("bomb.txt.gz", bomb),
        ("tokens.parquet", b"PAR1....".to_vec()),
        ("tokens.npz", b"PK\x03\x04....".to_vec()),
        ("prose.bin", text.clone().into_bytes()),
        ("short.bin", short),
        ("beyond.bin", vec![0xff; 64]),
        ("unknown", vec![0, 1, 2, 0xff]),
        ("float.npy", npy("<f4", "(5,)", &[0; 20])),
        ("object.npy", npy("|O", "(5,)", &[0; 20])),
        ("cut.npy", npy("<u4", "(5,)", &[0; 16])),
        ("cube.npy", npy("<u4", "(1, 1, 5)", &[0; 20])),
        ("negative.npy", npy("<i2", "(2,)", &[1, 0, 0xff, 0xff])),
    ];
    let folder = Folder::new(&files.iter().map(|(name, bytes)| (*name, &bytes[..])).collect::<Vec<_>>());
    let told =
        |name: &str, reading: &Reading| format!("{}\n", folder.told(&read(&folder, name, reading, 1024).unwrap_err()));
    let mut all: String = files.iter().map(|(name, _)| told(name, &with("byte_level.json"))).collect();
    fs::write(folder.path("good.txt"), text).unwrap();
    all += &told("good.txt", &Reading::default());
    all += &told("good.txt", &Reading { kind: Some(TokenFormat::Shard), ..Reading::default() });
    all += &told("good.txt", &Reading { kind: Some(TokenFormat::Npy), ..Reading::default() });
    all += &told("unknown", &Reading { kind: Some(TokenFormat::U32), ..Reading::default() });
    all += &told("negative.npy", &Reading { kind: Some(TokenFormat::U16), ..Reading::default() });
    fs::write(folder.path("counts.json"), json!(vec![1; 1024]).to_string()).unwrap();
    all += &told("good.txt", &Reading { tokenizer: Some(folder.path("counts.json")), ..Reading::default() });
    all += &folder.told(&read(&folder, "good.txt", &with("byte_level.json"), 100).unwrap_err());
    all += &format!(
        "\n{}",
        folder.told(&TokenStream::open(&[folder.root().to_path_buf()], &Reading::default(), 9).unwrap_err())
    );
    assert_snapshot!(all);
}

#[test]
fn shards_are_refused_with_the_figures() {
    const MAGIC: i32 = 20_240_520;
    let odd = {
        let mut bytes = good_shard(&[1, 2]);
        bytes.pop();
        bytes
    };
    let all = [
        good_shard(&[])[..1023].to_vec(),
        shard_bytes(20_240_521, 1, 2, &[1, 2]),
        shard_bytes(MAGIC, 2, 2, &[1, 2]),
        shard_bytes(MAGIC, 1, 3, &[1, 2]),
        shard_bytes(MAGIC, 1, 1, &[1, 2]),
        shard_bytes(MAGIC, 1, -1, &[1, 2]),
        shard_bytes(MAGIC, 1, i32::MAX, &[1, 2]),
        odd,
        shard_bytes(20_240_801, 7, 1, &[1, 2, 3]),
        good_shard(&[5, 1023, 1024, 2000]),
    ];
    let folder = Folder::new(&[]);
    let told = all.map(|bytes| {
        fs::write(folder.path("a.bin"), bytes).unwrap();
        folder.told(&read(&folder, "a.bin", &Reading::default(), 1024).unwrap_err())
    });
    assert_snapshot!(told.join("\n"));
}
