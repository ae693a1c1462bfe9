use insta::assert_snapshot;
use tiepack::model::build;

use crate::{source, tensors, told, toy};

#[test]
fn a_model_without_ties_stores_every_tensor_in_canonical_order() {
    let model = build(source(tensors(), None), toy(), None).unwrap();
    assert_eq!(model.source, (0..11).collect::<Vec<_>>());
    assert_eq!(model.stored.iter().map(|s| s.spec).collect::<Vec<_>>(), (0..11).collect::<Vec<_>>());
    assert_eq!(model.ties.copies, [0, 1, 2]);
    assert!(model.ties.declared.is_empty() && model.ties.found.is_empty());
    // Two of 4 × 2 and six of 3 × 2; gains are not quantized weights.
    assert_eq!(model.weights(), 2 * 8 + 6 * 6);
    assert_eq!(model.shape(2), [2, 3]);
    assert_eq!(format!("{model:?}"), "Model(toy, 11 stored tensors for 11 names)");
}

#[test]
fn missing_foreign_and_misshapen_tensors_are_named() {
    let mut found = tensors();
    found.remove("blocks.1.in");
    let mut turned = found.remove("blocks.2.out").unwrap();
    turned.shape = vec![3, 2];
    found.insert("blocks.2.out".to_string(), turned.clone());
    found.insert("blocks.3.out".to_string(), turned);
    assert_snapshot!(told(&build(source(found, None), toy(), None).unwrap_err()), @"
    error: model.safetensors: the tensors are not those of toy with this configuration: blocks.1.in [3, 2] is missing; blocks.2.out has shape [3, 2], wanted [2, 3]; blocks.3.out [3, 2] is not expected
    hint: does config.json belong to these weights?
    ");
}

#[test]
fn of_many_faults_the_first_few_are_listed() {
    assert_snapshot!(told(&build(source(Default::default(), None), toy(), None).unwrap_err()), @"
    error: model.safetensors: the tensors are not those of toy with this configuration: emb [4, 2] is missing; blocks.0.in [3, 2] is missing; blocks.0.out [2, 3] is missing; blocks.0.gain [2] is missing; blocks.1.in [3, 2] is missing; and 6 more
    hint: does config.json belong to these weights?
    ");
}
