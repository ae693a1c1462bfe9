use insta::assert_snapshot;
use tiepack::error::Error;
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

#[test]
fn a_full_gpu_is_told_what_the_model_takes() {
    let model = build(source(tensors(), None), toy(), None).unwrap();
    let full = || Error::from(candle_core::Error::Msg("CUDA_ERROR_OUT_OF_MEMORY".into()));
    // 58 weights and 100 MB, and three times the 42 inputs and outputs of a million tokens.
    assert_snapshot!(told(&model.full(full(), 100_000_000, 1_000_000)), @"
    error: tensor computation failed: CUDA_ERROR_OUT_OF_MEMORY
    hint: the memory of the GPU is full: this model takes about 605 MB of it, 353 with --precision bf16; free as much, or use --device cpu
    ");
    let half = model.at(candle_core::DType::BF16).full(full(), 0, 1_000_000);
    assert!(half.hint.unwrap().contains("about 253 MB of it; free"));
    // Other errors are left as they are.
    let other = Error::compute("a NaN").hint("try again");
    assert_eq!(build(source(tensors(), None), toy(), None).unwrap().full(other, 1, 1).hint.unwrap(), "try again");
}
