use std::collections::BTreeMap;

use insta::assert_snapshot;
use proptest::prelude::*;
use tiepack::ingest::TieMap;

use crate::{Folder, told};

fn copies(text: &str) -> Vec<usize> {
    TieMap::from_json(text).unwrap().copies.unwrap()
}

#[test]
fn chains_resolve_to_their_end_in_both_directions() {
    assert_eq!(copies(r#"{"layers": 4, "copies": [0, 0, 1, 3]}"#), [0, 0, 0, 3]);
    assert_eq!(copies(r#"{"copies": [2, 0, 2]}"#), [2, 2, 2]);
    assert_eq!(copies(r#"{"layers": 0, "copies": []}"#), [0usize; 0]);
}

#[test]
fn both_forms_stand_together_and_other_keys_are_ignored() {
    let text = r#"{"layers": 2, "copies": [0, 0], "learned_by": "x", "aliases": {"c": "b", "b": "a"}}"#;
    let ties = TieMap::from_json(text).unwrap();
    assert_eq!(ties.copies, Some(vec![0, 0]));
    let aliases = [("b", "a"), ("c", "a")].map(|(k, v)| (k.to_string(), v.to_string()));
    assert_eq!(ties.aliases, BTreeMap::from(aliases));
}

#[test]
fn null_says_nothing_and_a_byte_order_mark_is_read_past() {
    let ties = TieMap::from_json("\u{feff}{\"copies\": null, \"layers\": null, \"aliases\": {\"b\": \"a\"}}").unwrap();
    assert_eq!((ties.copies, ties.aliases.len()), (None, 1));
}

#[test]
fn unusable_tie_maps_are_refused_by_layer_and_name() {
    let texts = [
        r#"{"layers": 3, "copies": [0, 1, 3]}"#,
        r#"{"layers": 3, "copies": [0, -1, 2]}"#,
        r#"{"layers": 3, "copies": [0, 1.0, 2]}"#,
        r#"{"layers": 3, "copies": [0, 1]}"#,
        r#"{"layers": "3", "copies": [0, 1, 2]}"#,
        r#"{"copies": [0, 3, 2, 4, 1]}"#,
        r#"{"copies": {"1": 0}}"#,
        r#"{"aliases": {"a": "b", "b": "c", "c": "b"}}"#,
        r#"{"aliases": {"a": "a"}}"#,
        r#"{"aliases": {"a": 1}}"#,
        r#"{"aliases": []}"#,
        r#"{"ties": [0, 0]}"#,
        r#"[0, 0]"#,
        r#"{"copies": [0,"#,
    ];
    let errors = texts.map(|text| told(&TieMap::from_json(text).unwrap_err()));
    assert_snapshot!(errors.join("\n"), @r#"
    error: layer 2 copies 3, but the layers are 0 to 2
    error: layer 1 copies -1, but the layers are 0 to 2
    error: layer 1 copies 1.0, but the layers are 0 to 2
    error: the tie map says 3 layers, but `copies` has 2 entries
    error: the tie map says "3" layers, but `copies` has 3 entries
    error: layers copy each other in a circle: 1 -> 3 -> 4 -> 1
    error: the tie map's `copies` is not an array
    error: aliases name each other in a circle: b -> c -> b
    error: aliases name each other in a circle: a -> a
    error: the tie map's alias a is 1, wanted a tensor name
    error: the tie map's `aliases` is not an object
    error: the tie map has neither `copies` nor `aliases`
    hint: write {"layers": 3, "copies": [0, 0, 2]} or {"aliases": {"name": "name"}}
    error: the tie map is not a JSON object
    error: not valid JSON: EOF while parsing a value at line 1 column 14
    "#);
}

#[test]
fn a_missing_file_declares_nothing() {
    let folder = Folder::new(&[("ties.json", b"nonsense")]);
    assert_eq!(TieMap::read(&folder.path("none.json")).unwrap(), None);
    assert_snapshot!(folder.told(&TieMap::read(&folder.path("ties.json")).unwrap_err()), @"
    error: FOLDER/ties.json: not valid JSON: expected ident at line 1 column 2
    ");
}

#[test]
fn a_chain_of_many_layers_is_followed_in_linear_time() {
    let chain: Vec<usize> = (0..200_000usize).map(|i| i.saturating_sub(1)).collect();
    assert!(copies(&format!(r#"{{"copies": {chain:?}}}"#)).iter().all(|&root| root == 0));
}

proptest! {
    #[test]
    fn resolved_layers_copy_nothing_themselves(raw in prop::collection::vec(0usize..12, 1..12)) {
        if let Ok(ties) = TieMap::from_json(&format!(r#"{{"copies": {raw:?}}}"#)) {
            let copies = ties.copies.unwrap();
            for (layer, &root) in copies.iter().enumerate() {
                prop_assert_eq!(copies[root], root);
                prop_assert_eq!(copies[raw[layer]], root);
            }
        }
    }
}
