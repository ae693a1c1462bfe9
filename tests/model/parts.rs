use std::sync::Arc;

use insta::assert_snapshot;
use tiepack::ingest::Dtype;
use tiepack::model::{Model, build};

use crate::{config, source, tensors, told, toy};

type Parts = Vec<(Dtype, Arc<Vec<f32>>)>;

/// The toy's parts when layer 2 copies layer 0 and the gains of all layers are one.
fn parts() -> (Parts, Vec<usize>) {
    let lengths = [8, 6, 6, 2, 6, 6, 8];
    let parts = lengths.map(|length| (Dtype::Bf16, Arc::new(vec![length as f32; length]))).to_vec();
    (parts, vec![0, 1, 2, 3, 4, 5, 3, 1, 2, 3, 6])
}

#[test]
fn decoded_parts_make_a_model() {
    let (parts, source) = parts();
    let model = Model::from_parts(config(), toy(), parts, source).unwrap();
    assert_eq!(model.ties.copies, [0, 1, 0]);
    assert_eq!(model.ties.declared.len(), 2);
    assert_eq!(model.ties.declared[1], ("blocks.2.out".to_string(), "blocks.0.out".to_string()));
    assert_eq!(model.weights(), 8 + 4 * 6 + 8);
    assert_eq!(model.uses(3), [3, 6, 9]);
}

#[test]
fn a_built_model_survives_the_way_through_its_parts() {
    let built = build(source(tensors(), None), toy(), None).unwrap();
    let parts = built.stored.iter().map(|s| (s.dtype, s.data.clone())).collect();
    let again = Model::from_parts(built.config.clone(), toy(), parts, built.source.clone()).unwrap();
    assert_eq!(again.source, built.source);
    assert_eq!(again.ties, built.ties);
}

#[test]
fn parts_that_do_not_fit_are_refused() {
    let with = |change: &dyn Fn(&mut Parts, &mut Vec<usize>)| {
        let (mut parts, mut source) = parts();
        change(&mut parts, &mut source);
        told(&Model::from_parts(config(), toy(), parts, source).unwrap_err())
    };
    let errors = [
        with(&|_, source| source.truncate(10)),
        with(&|parts, _| parts.truncate(6)),
        with(&|parts, _| parts.push((Dtype::F32, Arc::default()))),
        with(&|parts, _| parts[4].1 = Arc::new(vec![0.0; 5])),
        with(&|_, source| source[1] = 2),
        with(&|_, source| source[10] = usize::MAX),
        with(&|_, source| source[8] = 1),
    ];
    assert_snapshot!(errors.join("\n"), @"
    error: 10 tensors are described, the model has 11
    error: head uses part 6, but there are only 6
    error: of 8 parts only 7 are used
    error: blocks.1.in has 5 weights, [3, 2] has 6
    error: blocks.0.in uses part 2 before part 1 is used
    error: head uses part 18446744073709551615, but there are only 7
    error: blocks.2.out [2, 3] cannot share blocks.0.in [3, 2]
    ");
}

#[test]
fn other_data_keeps_the_ties() {
    let (parts, source) = parts();
    let model = Model::from_parts(config(), toy(), parts, source).unwrap();
    let data = model.stored.iter().map(|s| Arc::new(s.data.iter().map(|x| x + 1.0).collect())).collect();
    let other = model.with_data(data);
    let params = other.params().unwrap();
    assert_eq!(params["blocks.2.in"].to_vec2::<f32>().unwrap(), vec![vec![7.0; 2]; 3]);
    assert_eq!(params["blocks.2.in"].id(), params["blocks.0.in"].id());
    assert_eq!(model.stored[0].data[0], 8.0);
}
