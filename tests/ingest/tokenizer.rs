use insta::assert_snapshot;
use proptest::prelude::*;
use serde_json::Value;
use tiepack::ingest::TokenBytes;

use crate::{Folder, told};

const NORMAL: u64 = 1;
const UNKNOWN: u64 = 2;
const CONTROL: u64 = 3;
const USER_DEFINED: u64 = 4;
const UNUSED: u64 = 5;
const BYTE: u64 = 6;

fn varint(mut value: u64, out: &mut Vec<u8>) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// A length-delimited field.
fn field(number: u64, bytes: &[u8], out: &mut Vec<u8>) {
    varint(number << 3 | 2, out);
    varint(bytes.len() as u64, out);
    out.extend_from_slice(bytes);
}

/// A SentencePiece message with a score, as the real ones have.
fn piece(text: &[u8], kind: u64) -> Vec<u8> {
    let mut message = Vec::new();
    field(1, text, &mut message);
    message.push(2 << 3 | 5);
    message.extend_from_slice(&(-3.5f32).to_le_bytes());
    message.push(3 << 3);
    varint(kind, &mut message);
    message
}

fn model(pieces: &[(&str, u64)]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (text, kind) in pieces {
        field(1, &piece(text.as_bytes(), *kind), &mut bytes);
    }
    // trainer_spec and normalizer_spec, which nobody reads, and a field of a later version.
    field(2, &[8, 1], &mut bytes);
    field(3, b"\x0a\x04nmt_", &mut bytes);
    bytes.extend_from_slice(&[99 << 3 & 0x7f | 0x80 | 1, 6, 0, 0, 0, 0, 0, 0, 0, 0]);
    bytes
}

const PIECES: [(&str, u64); 12] = [
    ("<pad>", CONTROL),
    ("<s>", CONTROL),
    ("<unk>", UNKNOWN),
    ("\n", USER_DEFINED),
    ("<0x0A>", BYTE),
    ("▁the", NORMAL),
    ("ing", NORMAL),
    ("▁", NORMAL),
    ("é", NORMAL),
    ("▁▁a", NORMAL),
    ("▁gone", UNUSED),
    ("▁(", USER_DEFINED),
];

#[test]
fn bytes_are_counted_as_the_challenge_counts_them() {
    let table = TokenBytes::parse(&model(&PIECES)).unwrap();
    // After a word, after a user-defined newline and after a byte, a leading space is a byte.
    for previous in [6, 3, 4, 5] {
        let counted: Vec<u32> = (0..12).map(|target| table.bytes_of(previous, target)).collect();
        assert_eq!(counted, [0, 0, 0, 1, 1, 4, 3, 1, 2, 5, 0, 2]);
    }
    // After a boundary (padding, begin of text, unknown, unused) none is written.
    for previous in [0, 1, 2, 10] {
        let counted: Vec<u32> = (0..12).map(|target| table.bytes_of(previous, target)).collect();
        assert_eq!(counted, [0, 0, 0, 1, 1, 3, 3, 0, 2, 4, 0, 1]);
    }
}

#[test]
fn absent_fields_have_their_defaults() {
    let mut bytes = Vec::new();
    let mut bare = Vec::new();
    field(1, "▁no type".as_bytes(), &mut bare);
    field(1, &bare, &mut bytes);
    field(1, &[], &mut bytes);
    let table = TokenBytes::parse(&bytes).unwrap();
    assert_eq!((table.bytes_of(0, 0), table.bytes_of(0, 1)), (8, 0));
    assert_eq!(table.boundary, [false, false]);
}

#[test]
fn a_tokenizer_of_another_size_is_refused() {
    let table = TokenBytes::parse(&model(&PIECES)).unwrap();
    assert!(table.check_vocab(12).is_ok());
    assert_snapshot!(told(&table.check_vocab(1024).unwrap_err()), @"
    error: the tokenizer has 12 pieces, but the model knows 1024 token ids
    hint: give the tokenizer the model was trained with: --tokenizer
    ");
}

#[test]
fn what_is_no_tokenizer_is_refused() {
    let one = |message: &[u8]| {
        let mut bytes = Vec::new();
        field(1, message, &mut bytes);
        bytes
    };
    let all = [
        vec![],
        b"{\"model\": {}}".to_vec(),
        one(&piece(b"\xff\xfe", NORMAL)),
        one(&piece(b"x", 7)),
        one(&[10]),
        // A length of nearly 2^64, a number without end, field 0, a group.
        vec![10, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1],
        vec![8, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1],
        vec![2, 0],
        vec![11],
        model(&vec![("x", NORMAL); (1 << 20) + 1]),
    ];
    let errors = all.map(|bytes| told(&TokenBytes::parse(&bytes).unwrap_err()));
    assert_snapshot!(errors.join("\n"), @r#"
    error: not a SentencePiece model: no pieces
    error: a tokenizer.json of model unknown that is neither byte-level nor metaspace
    hint: give a JSON array with the bytes of every token instead: --tokenizer
    error: piece 0 is not UTF-8: invalid utf-8 sequence of 1 bytes from index 0
    error: piece 0 ("x") has the unknown type 7
    error: piece 0 is damaged: a number that is cut off
    error: not a SentencePiece model: a field that is cut off at byte 11 of 11
    error: not a SentencePiece model: a number of more than 64 bits at byte 11 of 12
    error: not a SentencePiece model: field number 0 at byte 2 of 2
    error: not a SentencePiece model: unknown wire type at byte 1 of 1
    error: more than 1048576 pieces: no known vocabulary is larger
    "#);
}

#[test]
fn tokens_of_a_tokenizer_json_add_up_to_the_text() {
    let folder = std::path::Path::new("fixtures/tokenizers");
    let texts: Value = serde_json::from_str(&std::fs::read_to_string(folder.join("texts.json")).unwrap()).unwrap();
    let mut compared = 0;
    for (file, texts) in texts.as_object().unwrap() {
        let table = TokenBytes::read(&folder.join(file)).unwrap();
        for case in texts.as_array().unwrap() {
            let text = case["text"].as_str().unwrap();
            let ids: Vec<u32> = case["ids"].as_array().unwrap().iter().map(|id| id.as_u64().unwrap() as u32).collect();
            // Unigram without bytes has one unknown token for whatever it does not know, and this one takes the text's
            // own first space for the one that it puts in front.
            if file == "unigram.json" && (ids.contains(&0) || text.starts_with(' ')) {
                continue;
            }
            // The first is special, after which no space is written: the one that metaspace puts in front.
            let ids = [&[0], &ids[..]].concat();
            let bytes: u32 = ids.windows(2).map(|pair| table.bytes_of(pair[0], pair[1])).sum();
            assert_eq!(bytes as usize, text.len(), "{file}: {text:?}");
            compared += 1;
        }
    }
    assert!(compared >= 12, "{compared}");
}

#[test]
fn an_embedding_may_be_padded_beyond_a_tokenizer_json() {
    let path = std::path::Path::new("fixtures/tokenizers/byte_level.json");
    let known = TokenBytes::read(path).unwrap().bytes.len();
    let padded = TokenBytes::of_model(path, known + 8).unwrap();
    assert_eq!((padded.bytes.len(), padded.bytes_of(1, known as u32 + 7)), (known + 8, 0));
    assert!(TokenBytes::of_model(path, known - 1).is_err());
}

#[test]
fn tables_and_raw_bytes() {
    let folder = Folder::new(&[("bytes.json", b"[0, 1, 3]"), ("short.json", b"[1]")]);
    let table = TokenBytes::of_model(&folder.path("bytes.json"), 3).unwrap();
    assert_eq!((0..3).map(|id| table.bytes_of(2, id)).collect::<Vec<_>>(), [0, 1, 3]);
    let raw = TokenBytes::of_model("bytes".as_ref(), 260).unwrap();
    assert_eq!((0..260).map(|id| raw.bytes_of(0, id)).sum::<u32>(), 260);
    let parse = |text: &str| told(&TokenBytes::parse(text.as_bytes()).unwrap_err());
    let errors = [
        told(&TokenBytes::of_model("bytes".as_ref(), 255).unwrap_err()),
        folder.told(&TokenBytes::of_model(&folder.path("short.json"), 3).unwrap_err()),
        parse("[1, -1]"),
        parse("[1, 2.5]"),
        parse("[]"),
        parse("[1"),
        parse(r#"{"version": "1.0"}"#),
        parse(r#"{"model": {"type": "WordPiece", "vocab": {"a": 0}}, "decoder": {"type": "WordPiece"}}"#),
        parse(r#"{"model": {"vocab": {"a": 4000000000}}, "decoder": {"type": "ByteLevel"}}"#),
        parse(r#"{"model": {"vocab": {"a": "b"}}, "decoder": {"type": "ByteLevel"}}"#),
        parse(r#"{"model": {"vocab": [["a", 0], 7]}, "decoder": {"type": "Metaspace"}}"#),
        parse(r#"{"model": {"vocab": {}}, "decoder": {"type": "Metaspace"}}"#),
        parse(r#"{"model": {"vocab": {"a": 0}}, "decoder": {"type": "ByteLevel"}, "added_tokens": [{"id": 1}]}"#),
    ];
    assert_snapshot!(errors.join("\n"));
}

#[test]
fn a_file_that_cannot_be_read_is_named() {
    let folder = Folder::new(&[("tokenizer.model", b"\x0a")]);
    assert_snapshot!(folder.told(&TokenBytes::read(&folder.path("tokenizer.model")).unwrap_err()), @"
    error: FOLDER/tokenizer.model: not a SentencePiece model: a number that is cut off at byte 1 of 1
    ");
    assert_snapshot!(folder.told(&TokenBytes::read(&folder.path("none.model")).unwrap_err()), @"
    error: cannot read FOLDER/none.model: No such file or directory (os error 2)
    ");
}

#[test]
fn a_model_cut_anywhere_gives_pieces_or_an_error() {
    let bytes = model(&PIECES);
    for length in 0..bytes.len() {
        let _ = TokenBytes::parse(&bytes[..length]);
    }
}

proptest! {
    #[test]
    fn any_bytes_give_pieces_or_an_error(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        let _ = TokenBytes::parse(&bytes);
    }

    #[test]
    fn any_flipped_byte_gives_pieces_or_an_error(at in 0usize..180, value: u8) {
        let mut bytes = model(&PIECES);
        let at = at % bytes.len();
        bytes[at] = value;
        let _ = TokenBytes::parse(&bytes);
    }
}
