use insta::assert_snapshot;
use tiepack::error::Error;
use tiepack::ingest::{Dtype, Remark, Source};
use tiepack::model::{build, build_as_it_is};

use crate::{source, tensor, tensors, told, toy};

/// The toy's tensors, all names behind a prefix.
fn wrapped(prefix: &str, ties: Option<&str>) -> Source {
    let bare = source(tensors(), ties);
    let names = bare.tensors.into_iter().map(|(name, tensor)| (format!("{prefix}{name}"), tensor));
    Source { tensors: names.collect(), ..bare }
}

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

#[test]
fn a_prefix_that_the_network_does_not_know_is_taken_off() {
    let plain = build(source(tensors(), None), toy(), None).unwrap();
    for prefix in ["model.", "base_model.model.", "net.0.transformer."] {
        let mut source = wrapped(prefix, None);
        source.remarks.push(Remark::Dropped([(format!("{prefix}mask"), "a mask".to_string())].into()));
        let model = build(source, toy(), None).unwrap();
        assert!(model.specs.iter().zip(&plain.specs).all(|(a, b)| a.name == b.name));
        assert!(model.stored.iter().zip(&plain.stored).all(|(a, b)| a.data == b.data));
        assert_eq!(model.remarks[0].dropped("mask"), Some("a mask"));
        assert_eq!(model.remarks[1], Remark::Stripped([(prefix.to_string(), 11)].into()));
    }
    // A tie map speaks of the names that the file has.
    let mut source = wrapped("net.", Some(r#"{"aliases": {"net.head": "net.emb"}}"#));
    source.tensors.remove("net.head");
    assert_eq!(build(source, toy(), None).unwrap().ties.declared, [("head".to_string(), "emb".to_string())]);
    // One name without it, and it is no prefix.
    let mut source = wrapped("net.", None);
    source.tensors.insert("other".into(), tensor(Dtype::F32, &[1], vec![1.0]));
    let error = build(source, toy(), None).unwrap_err();
    assert!(error.message.contains("emb [4, 2] is missing"), "{error}");
}

#[test]
fn ties_that_the_file_states_are_declared_where_the_network_has_both_names() {
    let of = |name: &str, kept: &str| {
        let mut source = source(tensors(), None);
        source.tensors.insert(name.to_string(), source.tensors[kept].clone());
        source.remarks.push(Remark::Tied([(name.to_string(), kept.to_string())].into()));
        build(source, toy(), None).unwrap().ties.declared
    };
    assert_eq!(of("head", "emb"), [("head".to_string(), "emb".to_string())]);
    // A second name of the module's own is none of the network's.
    assert_eq!(of("lm.weight", "emb"), []);
}

#[test]
fn weights_that_were_quantized_already_are_not_run() {
    let mut source = source(tensors(), None);
    source.remarks.push(Remark::Quantized { scheme: "GPTQ or AWQ", first: "q.qweight".into(), tensors: 28 });
    assert_snapshot!(told(&build(source, toy(), None).unwrap_err()), @"
    error: model.safetensors: the weights were quantized already, as GPTQ or AWQ does: q.qweight and 27 more
    hint: give the model that they were made from, or dequantize it first
    ");
}

#[test]
fn a_model_that_its_network_does_not_explain_is_taken_for_its_tensors() {
    let mut found = tensors();
    found.insert("probe.weight".into(), tensor(Dtype::F32, &[2], vec![1.0, 2.0]));
    let model = build_as_it_is(source(found, None), Ok(toy()), None).unwrap();
    assert_eq!(model.specs.len(), 12);
    assert_snapshot!(model.remarks[0].message(), @"a model of tensors that no network runs: model.safetensors: the tensors are not those of toy with this configuration: probe.weight [2] is not expected");
    assert_eq!(model.network().err().unwrap().message, model.remarks[0].message().split_once(": ").unwrap().1);
    // What is wrong either way is said of the network.
    let error =
        build_as_it_is(source(tensors(), Some(r#"{"aliases": {"head": "emb"}}"#)), Ok(toy()), None).unwrap_err();
    assert!(error.message.contains("declared tied"), "{error}");
    let whole = build_as_it_is(source(tensors(), None), Ok(toy()), None).unwrap();
    assert!(whole.network().is_ok() && whole.remarks.is_empty());
}
