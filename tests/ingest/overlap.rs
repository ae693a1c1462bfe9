use std::path::Path;

use insta::assert_snapshot;
use tiepack::ingest::overlap::{find, refuse};

use crate::told;

/// Tokens that repeat nothing: a 64-bit congruential generator.
fn text(seed: u64, length: usize) -> Vec<u16> {
    let mut state = seed;
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as u16 % 1024
    };
    (0..length).map(|_| next()).collect()
}

fn join(parts: &[&[u16]]) -> Vec<u16> {
    parts.concat()
}

#[test]
fn different_texts_do_not_overlap() {
    assert_eq!(find(&text(1, 200_000), &text(2, 50_000)), None);
    assert_eq!(find(&[], &[]), None);
    assert_eq!(find(&text(1, 63), &text(1, 63)), None);
}

#[test]
fn a_document_in_both_is_found_at_any_offset() {
    let document = text(3, 700);
    for offset in [0, 1, 17, 63, 64, 65, 1000] {
        let calib = join(&[&text(1, 30_000), &document, &text(4, 100)]);
        let val = join(&[&text(2, offset), &document, &text(5, 50_000)]);
        let overlap = find(&calib, &val).unwrap();
        assert_eq!((overlap.calib_at, overlap.val_at, overlap.tokens), (30_000, offset, 700));
    }
}

#[test]
fn a_validation_text_cut_out_of_the_calibration_text_is_found() {
    let calib = text(1, 100_000);
    for (start, length) in [(0, 100_000), (12_345, 20_000), (99_000, 1_000), (5_000, 200)] {
        let overlap = find(&calib, &calib[start..start + length]).unwrap();
        assert_eq!((overlap.calib_at, overlap.val_at, overlap.tokens), (start, 0, length));
        assert_eq!((overlap.windows, overlap.of), (length / 64, length / 64));
    }
}

#[test]
fn a_shared_licence_is_no_overlap() {
    let licence = text(3, 400);
    let calib = join(&[&text(1, 30_000), &licence, &text(4, 9_000), &licence]);
    let val = join(&[&text(2, 10_000), &licence, &text(5, 20_000)]);
    assert_eq!(find(&calib, &val), None);
}

#[test]
fn many_short_documents_in_both_are_an_overlap() {
    // No run reaches 512 tokens, but every second validation document is a calibration document.
    let documents: Vec<Vec<u16>> = (0..100).map(|i| text(100 + i, 200)).collect();
    let calib = documents.concat();
    let mixed: Vec<Vec<u16>> =
        (0..100).map(|i| if i % 2 == 0 { documents[99 - i].clone() } else { text(900 + i as u64, 200) }).collect();
    let overlap = find(&calib, &mixed.concat()).unwrap();
    assert_eq!(overlap.tokens, 200);
    assert!(overlap.windows * 4 > overlap.of, "{overlap:?}");
}

#[test]
fn rules_and_padding_are_no_overlap() {
    let rule = [vec![7u16; 5_000], [1u16, 2, 3].repeat(2_000)].concat();
    assert_eq!(find(&rule, &rule), None);
}

#[test]
fn periodic_texts_are_found_without_quadratic_work() {
    let period: Vec<u16> = (0..16).collect();
    let table = period.repeat(60_000);
    assert_eq!(find(&table, &table).unwrap().tokens, table.len());
}

#[test]
fn the_refusal_names_both_files_and_the_way_out() {
    let document = text(3, 5_000);
    let calib = join(&[&text(1, 777), &document]);
    let val = join(&[&text(2, 20_000), &document]);
    let error = refuse((Path::new("train_000.bin"), &calib), (Path::new("val_000.bin"), &val)).unwrap_err();
    assert_snapshot!(told(&error), @"
    error: calibration and validation share text: the 5000 tokens from 20000 of val_000.bin are those from 777 of train_000.bin; 77 of 390 validation windows (19.7 %) stand in both
    hint: a loss on tokens the packer has seen proves nothing: give other tokens, or pass --allow-overlap
    ");
    assert!(refuse((Path::new("a"), &calib), (Path::new("b"), &text(9, 5_000))).is_ok());
}
