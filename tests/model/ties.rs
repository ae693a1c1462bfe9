use std::collections::BTreeMap;

use insta::assert_snapshot;
use tiepack::ingest::{Dtype, RawTensor};
use tiepack::model::{Retie, build};

use crate::{source, stored_as, tensor, tensors, told, toy};

/// Layer 2 uses the matrices of layer 0, the head those of the embedding.
const TIED: &str = r#"{"layers": 3, "copies": [0, 1, 0], "aliases": {"head": "emb"}}"#;

fn owned(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
    pairs.iter().map(|(a, b)| (a.to_string(), b.to_string())).collect()
}

/// Tensors for which [`TIED`] holds.
fn tied() -> BTreeMap<String, RawTensor> {
    let mut tensors = tensors();
    for (name, source) in [("blocks.2.in", "blocks.0.in"), ("blocks.2.out", "blocks.0.out"), ("head", "emb")] {
        tensors.insert(name.to_string(), tensors[source].clone());
    }
    tensors
}

#[test]
fn declared_ties_are_stored_once() {
    let model = build(source(tied(), Some(TIED)), toy(), None).unwrap();
    assert_eq!(model.stored.len(), 8);
    assert_eq!(model.ties.copies, [0, 1, 0]);
    let declared = [("blocks.2.in", "blocks.0.in"), ("blocks.2.out", "blocks.0.out"), ("head", "emb")];
    assert_eq!(model.ties.declared, owned(&declared));
    assert!(model.ties.found.is_empty() && model.ties.retied.is_empty());
    // The gain of layer 2 stays its own.
    assert_eq!(stored_as(&model, "blocks.2.gain"), "blocks.2.gain");
    let stored = model.source[10];
    assert_eq!((stored, model.uses(stored)), (0, vec![0, 10]));
    let params = model.params().unwrap();
    assert_eq!(params.len(), 11);
    assert_eq!(params["head"].id(), params["emb"].id());
    assert_eq!(params["blocks.2.gain"].to_vec1::<f32>().unwrap(), [144.0, 145.0]);
}

#[test]
fn tied_tensors_may_be_left_out_on_either_side() {
    let whole = build(source(tied(), Some(TIED)), toy(), None).unwrap();
    for gone in [["blocks.2.in", "head"], ["blocks.0.in", "emb"]] {
        let mut tensors = tied();
        tensors.retain(|name, _| !gone.contains(&name.as_str()));
        let model = build(source(tensors, Some(TIED)), toy(), None).unwrap();
        assert_eq!(model.source, whole.source);
        assert_eq!(model.stored[0].data, whole.stored[0].data);
    }
    let mut tensors = tied();
    tensors.retain(|name, _| name != "emb" && name != "head");
    assert_snapshot!(told(&build(source(tensors, Some(TIED)), toy(), None).unwrap_err()), @"
    error: model.safetensors: the tensors are not those of toy with this configuration: emb [4, 2] is missing; head [4, 2] is missing
    hint: does config.json belong to these weights?
    ");
}

#[test]
fn ties_that_do_not_hold_are_refused_one_by_one() {
    let mut tensors = tied();
    let mut changed = (*tensors["blocks.2.out"].data).clone();
    changed[3] += 0.5;
    changed[5] -= 0.25;
    tensors.insert("blocks.2.out".to_string(), tensor(Dtype::Bf16, &[2, 3], changed));
    let mut changed = (*tensors["head"].data).clone();
    changed[0] += 0.125;
    tensors.insert("head".to_string(), tensor(Dtype::Bf16, &[4, 2], changed));
    assert_snapshot!(told(&build(source(tensors.clone(), Some(TIED)), toy(), None).unwrap_err()), @"
    error: model.safetensors: tensors that are declared tied are not equal: head differs from emb by up to 1.25e-1; blocks.2.out differs from blocks.0.out by up to 5.00e-1
    hint: make them equal with --retie first or --retie mean, or correct the tie map
    ");

    let first = build(source(tensors.clone(), Some(TIED)), toy(), Some(Retie::First)).unwrap();
    assert_eq!(first.stored[0].data, tensors["emb"].data);
    assert_eq!(first.ties.retied, [("head".to_string(), 0.125), ("blocks.2.out".to_string(), 0.5)]);

    let mean = build(source(tensors.clone(), Some(TIED)), toy(), Some(Retie::Mean)).unwrap();
    assert_eq!(mean.stored[0].data[..2], [0.0625, 1.0]);
    // The mean of 37 and 36.75 has 9 significant bits, one more than bf16 holds: it goes to the even neighbour.
    assert_eq!(mean.stored[2].data[3], 35.25);
    assert_eq!(mean.stored[2].data[5], 37.0);
    assert_eq!(mean.ties.retied.len(), 4);
}

#[test]
fn identical_matrices_that_nobody_declared_are_found() {
    let model = build(source(tied(), None), toy(), None).unwrap();
    assert_eq!(model.stored.len(), 8);
    assert!(model.ties.declared.is_empty());
    let found = [("blocks.2.in", "blocks.0.in"), ("blocks.2.out", "blocks.0.out"), ("head", "emb")];
    assert_eq!(model.ties.found, owned(&found));
    assert_eq!(model.ties.copies, [0, 1, 0]);
}

#[test]
fn a_layer_that_shares_only_some_roles_is_no_copy() {
    let mut tensors = tensors();
    tensors.insert("blocks.2.in".to_string(), tensors["blocks.0.in"].clone());
    let model = build(source(tensors, None), toy(), None).unwrap();
    assert_eq!(model.ties.copies, [0, 1, 2]);
}

#[test]
fn equal_vectors_are_stored_once_without_being_news() {
    let mut tensors = tensors();
    for layer in 0..3 {
        tensors.insert(format!("blocks.{layer}.gain"), tensor(Dtype::F32, &[2], vec![1.0; 2]));
    }
    let model = build(source(tensors, None), toy(), None).unwrap();
    assert_eq!(stored_as(&model, "blocks.2.gain"), "blocks.0.gain");
    assert!(model.ties.found.is_empty());
}

#[test]
fn what_differs_in_a_bit_or_in_type_is_not_the_same() {
    let mut tensors = tensors();
    tensors.insert("blocks.0.in".to_string(), tensor(Dtype::Bf16, &[3, 2], vec![0.0; 6]));
    tensors.insert("blocks.1.in".to_string(), tensor(Dtype::Bf16, &[3, 2], vec![-0.0; 6]));
    tensors.insert("blocks.2.in".to_string(), tensor(Dtype::F32, &[3, 2], vec![0.0; 6]));
    assert_eq!(build(source(tensors, None), toy(), None).unwrap().stored.len(), 11);
}

#[test]
fn overlapping_declarations_make_one_group() {
    let mut tensors = tied();
    tensors.insert("blocks.1.in".to_string(), tensors["blocks.0.in"].clone());
    let ties = r#"{"copies": [0, 1, 0], "aliases": {"blocks.0.in": "blocks.1.in", "blocks.2.in": "blocks.1.in"}}"#;
    let model = build(source(tensors, Some(ties)), toy(), None).unwrap();
    assert_eq!(model.uses(model.source[1]), [1, 4, 7]);
}

#[test]
fn tie_maps_that_do_not_fit_the_architecture_are_refused() {
    let maps = [
        r#"{"layers": 2, "copies": [0, 0]}"#,
        r#"{"aliases": {"lm_head": "emb"}}"#,
        r#"{"aliases": {"head": "tok_emb"}}"#,
        r#"{"aliases": {"blocks.0.in": "blocks.0.out"}}"#,
    ];
    let errors = maps.map(|map| told(&build(source(tied(), Some(map)), toy(), None).unwrap_err()));
    assert_snapshot!(errors.join("\n"), @"
    error: model.safetensors: the tie map speaks of 2 layers, the model has 3
    hint: does ties.json belong to these weights?
    error: model.safetensors: the tie map ties lm_head to emb, but the model has no lm_head
    error: model.safetensors: the tie map ties head to tok_emb, but the model has no tok_emb
    error: model.safetensors: blocks.0.in [3, 2] is declared tied to blocks.0.out [2, 3], which has another shape
    ");
}
