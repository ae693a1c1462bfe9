use std::path::Path;

use insta::assert_snapshot;
use tiepack::ingest::overlap::{Overlap, enough, find, refuse, without};

use crate::told;

/// Tokens that repeat nothing: a 64-bit congruential generator.
fn text(seed: u64, length: usize) -> Vec<u32> {
    let mut state = seed;
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as u32 % 1024
    };
    (0..length).map(|_| next()).collect()
}

fn join(parts: &[&[u32]]) -> Vec<u32> {
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
        assert_eq!((overlap.runs.len(), &overlap.runs[0]), (1, &(30_000..30_700)));
    }
}

#[test]
fn a_validation_text_cut_out_of_the_calibration_text_is_found() {
    let calib = text(1, 100_000);
    for (start, length) in [(0, 100_000), (12_345, 20_000), (99_000, 1_000), (5_000, 200)] {
        let overlap = find(&calib, &calib[start..start + length]).unwrap();
        assert_eq!((overlap.calib_at, overlap.val_at, overlap.tokens), (start, 0, length));
        assert_eq!((overlap.windows, overlap.of), (length / 64, length / 64));
        assert!(told_of(&overlap, &calib).is_some());
    }
}

/// What a pack says of these texts, if it refuses them.
fn told_of(overlap: &Overlap, calib: &[u32]) -> Option<String> {
    let refused = refuse(overlap, (Path::new("train_000.bin"), calib), Path::new("val_000.bin"));
    refused.err().map(|error| told(&error))
}

#[test]
fn rows_with_a_shared_licence_are_left_out() {
    let licence = text(3, 400);
    let calib = join(&[&text(1, 30_000), &licence, &text(4, 9_000), &licence, &text(6, 50)]);
    let val = join(&[&text(2, 10_000), &licence, &text(5, 20_000)]);
    let overlap = find(&calib, &val).unwrap();
    assert_eq!(overlap.runs, [30_000..30_400, 39_400..39_800]);
    assert_eq!(told_of(&overlap, &calib), None);
    // Rows of 100: four of each licence, and the text around them stays as it was.
    let (kept, rows) = without(&calib, &overlap.runs, 100);
    assert_eq!(rows, 8);
    assert_eq!(kept, join(&[&calib[..30_000], &calib[30_400..39_400], &calib[39_800..]]));
    assert_eq!(find(&kept, &val), None);
    // A passage that ends within a row takes the whole row, also the last one, which is shorter.
    let (kept, rows) = without(&calib, &[99..101, 39_849..39_850], 100);
    assert_eq!((kept.len(), rows), (39_850 - 250, 3));
    assert_eq!(kept[..], calib[200..39_800]);
}

#[test]
fn many_short_documents_in_both_are_left_out() {
    // Every fourth calibration document is a validation document.
    let documents: Vec<Vec<u32>> = (0..400).map(|i| text(100 + i, 200)).collect();
    let calib = documents.concat();
    let val: Vec<u32> =
        (0..400).flat_map(|i| if i % 4 == 0 { text(100 + i, 200) } else { text(9_000 + i, 200) }).collect();
    let overlap = find(&calib, &val).unwrap();
    assert_eq!((overlap.tokens, overlap.runs.len()), (200, 100));
    assert_eq!(told_of(&overlap, &calib), None);
    let (kept, rows) = without(&calib, &overlap.runs, 200);
    assert_eq!((kept.len(), rows), (60_000, 100));
    assert_eq!(find(&kept, &val), None);
}

#[test]
fn what_remains_must_be_enough() {
    for (given, kept, good) in
        [(10_000_000, 40_000, true), (1_000, 500, true), (10_000_000, 30_000, false), (1_000, 499, false)]
    {
        assert_eq!(enough(given, kept).is_ok(), good, "{kept} of {given}");
    }
    assert_snapshot!(told(&enough(1_000, 499).unwrap_err()), @"
    error: 499 of 1000 calibration tokens remain without the rows that share text with validation: too few
    hint: give other tokens with --calib or --val, or pass --allow-overlap
    ");
}

#[test]
fn rules_and_padding_are_no_overlap() {
    let rule = [vec![7u32; 5_000], [1u32, 2, 3].repeat(2_000)].concat();
    assert_eq!(find(&rule, &rule), None);
}

#[test]
fn periodic_texts_are_found_without_quadratic_work() {
    let period: Vec<u32> = (0..16).collect();
    let table = period.repeat(60_000);
    assert_eq!(find(&table, &table).unwrap().tokens, table.len());
}

#[test]
fn the_refusal_names_both_files_and_the_way_out() {
    let document = text(3, 5_000);
    let calib = join(&[&text(1, 777), &document]);
    let val = join(&[&text(2, 20_000), &document]);
    assert_snapshot!(told_of(&find(&calib, &val).unwrap(), &calib).unwrap(), @"
    error: calibration and validation share text: the 5000 tokens from 20000 of val_000.bin are those from 777 of train_000.bin; 19.7 % of the validation windows and 86.6 % of the calibration tokens stand in both
    hint: a loss on tokens the packer has seen proves nothing: give other tokens, or pass --allow-overlap
    ");
}
