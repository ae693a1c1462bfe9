use insta::assert_snapshot;
use proptest::prelude::*;
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
        model(&vec![("x", NORMAL); 65_537]),
    ];
    let errors = all.map(|bytes| told(&TokenBytes::parse(&bytes).unwrap_err()));
    assert_snapshot!(errors.join("\n"), @r#"
    error: not a SentencePiece model: no pieces
    error: not a SentencePiece model: unknown wire type at byte 1 of 13
    error: piece 0 is not UTF-8: invalid utf-8 sequence of 1 bytes from index 0
    error: piece 0 ("x") has the unknown type 7
    error: piece 0 is damaged: a number that is cut off
    error: not a SentencePiece model: a field that is cut off at byte 11 of 11
    error: not a SentencePiece model: a number of more than 64 bits at byte 11 of 12
    error: not a SentencePiece model: field number 0 at byte 2 of 2
    error: not a SentencePiece model: unknown wire type at byte 1 of 1
    error: more than 65536 pieces, but token ids are 16 bits
    "#);
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
