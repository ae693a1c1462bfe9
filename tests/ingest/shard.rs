use proptest::prelude::*;
use tiepack::ingest::{Reading, Shard, TokenStream};

use crate::{Folder, good_shard, shard_bytes};

#[test]
fn shards_are_joined_in_the_order_given() {
    let folder = Folder::new(&[
        ("a.bin", &good_shard(&[1, 2, 65_535])),
        ("b.bin", &good_shard(&[3])),
        ("c.bin", &good_shard(&[])),
    ]);
    let paths = ["b.bin", "c.bin", "a.bin"].map(|name| folder.path(name));
    let tokens = TokenStream::open(&paths, &Reading::default(), 65_536).unwrap().rest().unwrap();
    assert_eq!(tokens, [3, 1, 2, 65_535]);
}

proptest! {
    #[test]
    fn any_bytes_give_tokens_or_an_error(bytes in prop::collection::vec(any::<u8>(), 0..2000), name in "a\\.(bin|npy|txt|jsonl|gz)") {
        let folder = Folder::new(&[(&name, &bytes)]);
        let reading = Reading { tokenizer: Some("bytes".into()), ..Reading::default() };
        let _ = Shard::read(&folder.path(&name), &reading, 1024);
    }

    #[test]
    fn any_header_gives_the_tokens_it_counts(count in -3i32..40, tokens in prop::collection::vec(any::<u16>(), 0..40)) {
        let folder = Folder::new(&[("a.bin", &shard_bytes(20_240_520, 1, count, &tokens))]);
        match Shard::read(&folder.path("a.bin"), &Reading::default(), 65_536) {
            Ok(read) => prop_assert_eq!(read.tokens, tokens.iter().map(|t| u32::from(*t)).collect::<Vec<_>>()),
            Err(_) => prop_assert_ne!(count as usize, tokens.len()),
        }
    }
}
