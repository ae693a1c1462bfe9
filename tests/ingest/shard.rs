use insta::assert_snapshot;
use proptest::prelude::*;
use tiepack::ingest::Shard;
use tiepack::ingest::shard::{parse, read_all};

use crate::{Folder, good_shard, shard_bytes, told};

const MAGIC: i32 = 20_240_520;

#[test]
fn shards_are_joined_in_the_order_given() {
    let folder = Folder::new(&[
        ("a.bin", &good_shard(&[1, 2, 65_535])),
        ("b.bin", &good_shard(&[3])),
        ("c.bin", &good_shard(&[])),
    ]);
    let paths = ["b.bin", "c.bin", "a.bin"].map(|name| folder.path(name));
    assert_eq!(read_all(&paths, 65_536).unwrap(), [3, 1, 2, 65_535]);
}

#[test]
fn what_is_no_shard_is_refused_with_the_figures() {
    let odd = {
        let mut bytes = good_shard(&[1, 2]);
        bytes.pop();
        bytes
    };
    let all = [
        vec![],
        vec![0; 1023],
        shard_bytes(20_240_521, 1, 2, &[1, 2]),
        shard_bytes(MAGIC, 2, 2, &[1, 2]),
        shard_bytes(MAGIC, 1, 3, &[1, 2]),
        shard_bytes(MAGIC, 1, 1, &[1, 2]),
        shard_bytes(MAGIC, 1, -1, &[1, 2]),
        shard_bytes(MAGIC, 1, i32::MAX, &[1, 2]),
        odd,
    ];
    let errors = all.map(|bytes| told(&parse(&bytes).unwrap_err()));
    assert_snapshot!(errors.join("\n"), @"
    error: not a token shard: 0 bytes, the header alone is 1024
    error: not a token shard: 1023 bytes, the header alone is 1024
    error: not a token shard: magic 20240521, wanted 20240520
    error: token shard of version 2, only version 1 is known
    error: the header counts 3 tokens, the file holds 2
    hint: the shard is truncated or was written by another tool
    error: the header counts 1 tokens, the file holds 2
    hint: the shard is truncated or was written by another tool
    error: the header counts -1 tokens, the file holds 2
    hint: the shard is truncated or was written by another tool
    error: the header counts 2147483647 tokens, the file holds 2
    hint: the shard is truncated or was written by another tool
    error: the header counts 2 tokens, the file holds 1 and a half
    hint: the shard is truncated or was written by another tool
    ");
}

#[test]
fn a_token_beyond_the_vocabulary_is_named_with_its_file() {
    let folder = Folder::new(&[("train_000.bin", &good_shard(&[5, 1023, 1024, 2000]))]);
    let path = folder.path("train_000.bin");
    assert!(Shard::read(&path).unwrap().check_vocab(2001).is_ok());
    assert_snapshot!(folder.told(&read_all(&[path], 1024).unwrap_err()), @"
    error: FOLDER/train_000.bin: token 2 is 1024, but the model knows only ids below 1024
    hint: the shard was made with another tokenizer than the model's
    ");
    assert_snapshot!(folder.told(&read_all(&[folder.path("none.bin")], 1024).unwrap_err()), @"
    error: cannot read FOLDER/none.bin: No such file or directory (os error 2)
    ");
}

proptest! {
    #[test]
    fn any_bytes_give_tokens_or_an_error(bytes in prop::collection::vec(any::<u8>(), 0..2000)) {
        let _ = parse(&bytes);
    }

    #[test]
    fn any_header_gives_the_tokens_it_counts(count in -3i32..40, tokens in prop::collection::vec(any::<u16>(), 0..40)) {
        match parse(&shard_bytes(MAGIC, 1, count, &tokens)) {
            Ok(read) => prop_assert_eq!(read, tokens.iter().map(|t| u32::from(*t)).collect::<Vec<_>>()),
            Err(_) => prop_assert_ne!(count as usize, tokens.len()),
        }
    }
}
