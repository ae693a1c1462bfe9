//! The ledger of an artifact accounts for every byte of it.

use proptest::prelude::*;
use tiepack::inspect::{By, Depth, of_bytes};
use tiepack_format::container::codec;
use tiepack_format::container::write::assemble;
use tiepack_format::{Dtype, Form, Header, Named, StreamEntry};

/// Tensors of layers, some tied to the first, each stored one in a stream of its own length.
fn header(tensors: &[(bool, u64)]) -> Header {
    let mut header =
        Header { config: String::new(), names: vec![], source: vec![], streams: vec![], extra: Default::default() };
    for (i, (tied, len)) in tensors.iter().enumerate() {
        let name = if i % 5 == 4 { format!("norm{i}") } else { format!("h.{}.part{}", i / 6, i % 6) };
        header.names.push(Named { name, shape: vec![i % 4, 7], form: Form::Matrix });
        let stored = header.streams.len() as u32;
        header.source.push(if *tied && stored > 0 { 0 } else { stored });
        if header.source[i] == stored {
            // What a stream says of itself is another matter.
            let codec = if i % 3 == 0 { codec::ZERO } else { codec::LOSSLESS };
            let entry =
                StreamEntry { codec, tensors: vec![stored], dtypes: vec![Dtype::F32], needs: vec![], len: *len };
            header.streams.push(entry);
        }
    }
    header
}

proptest! {
    // Nothing is written into the source tree.
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_ledger_adds_up_to_its_file(tensors in prop::collection::vec((any::<bool>(), 0u64..300), 0..60)) {
        let header = header(&tensors);
        let bodies: Vec<Vec<u8>> = header.streams.iter().map(|s| (0..s.len).map(|k| ((k * 73) >> 2) as u8).collect()).collect();
        let bytes = assemble(&header, &bodies, &[0; 32]).unwrap();
        let inventory = of_bytes("a.tiepack".as_ref(), &bytes, Depth::Container).unwrap();
        let size = bytes.len() as u64;
        prop_assert_eq!((inventory.bytes, inventory.rows.iter().map(|row| row.bytes).sum::<u64>()), (size, size));
        for by in [By::Stream, By::Layer, By::Role, By::Kind] {
            let groups = inventory.groups(by);
            prop_assert_eq!(groups.iter().map(|group| group.bytes).sum::<u64>(), size, "{:?}", by);
            prop_assert!(groups.is_sorted_by(|a, b| a.bytes >= b.bytes));
        }
    }
}
