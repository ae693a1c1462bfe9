//! Healing: that it gains, keeps to its bytes, and goes on after a break as if there had been none.

use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};

use tiepack::code::codec::matrix::{self, Settings};
use tiepack::code::codec::{sum, vectors};
use tiepack::code::grid::trellis::{Odd, Trellis};
use tiepack::code::quantize::metric::Metric;
use tiepack::code::quantize::step_rule::Powers;
use tiepack::error::{Error, Result};
use tiepack::heal::freeze::Freezing;
use tiepack::heal::small::Small;
use tiepack::heal::sum::Sum;
use tiepack::heal::trainable::{Trainable, TrainedStream};
use tiepack::heal::{Healed, Length, Options, Pace, Packed, heal};
use tiepack::ingest::{self, Overrides, folder};
use tiepack::model::{Model, build};
use tiepack::nets::{self, Form};
use tiepack::progress::Silent;
use tiepack::recipe::{AnyGrid, Prediction, Terms};
use tiepack::train::objective::Objective;
use tiepack::train::teacher::Teacher;

const STEP: f64 = 0.08;

fn model() -> Model {
    let located = folder::locate(Path::new("fixtures/parity/golf-untied"), &Overrides::default()).unwrap();
    let source = ingest::read(&located).unwrap();
    let net = nets::build(&source.config).unwrap();
    build(source, net, None).unwrap()
}

fn calib(model: &Model, tokens: usize) -> Vec<u32> {
    let vocab = model.network().unwrap().vocab_size() as u64;
    let mut state = 5u64;
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) % vocab
    };
    (0..tokens).map(|_| next() as u32).collect()
}

fn settings() -> Settings {
    let trellis = Trellis::eight().odd(Odd::Plain);
    Settings { trellis, powers: Powers { rows: 0.75, cols: 1.0 }, lambda: 0.3 }
}

/// What matrices of layer 2 are made of: themselves, or a multiple of those of layer 1 with a term of rank 2 or a residual.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Second {
    Alone,
    LowRank,
    Residual,
}

/// A model in training, the bytes of its streams, and what they decode to.
struct Start {
    streams: Vec<TrainedStream>,
    coded: Vec<Vec<u8>>,
    decoded: Vec<Vec<f32>>,
}

fn start(model: &Model, second: Second) -> Start {
    let mut out = Start { streams: Vec::new(), coded: Vec::new(), decoded: vec![Vec::new(); model.stored.len()] };
    let flat = |i: usize| {
        let (rows, cols) = model.sides(i);
        Metric::flat(rows, cols, 1.0)
    };
    let find = |name: &str| (0..model.stored.len()).find(|i| model.spec(*i).name == name).unwrap();
    let mut small = Vec::new();
    for i in 0..model.stored.len() {
        let (spec, w) = (model.spec(i), &model.stored[i].data);
        if spec.form == Form::Vector {
            small.push(i);
            continue;
        }
        let (rows, cols) = model.sides(i);
        let from = (second != Second::Alone && spec.layer == Some(2)).then(|| find(&format!("blocks.1.{}", spec.role)));
        let metric = flat(i);
        let (bytes, trainable) = match from {
            None => {
                let prices = matrix::converged(w, &metric, STEP, &settings());
                let bytes = matrix::encode(w, &metric, STEP, &settings(), &prices).bytes;
                let indices = matrix::integers(&bytes, rows, cols).unwrap();
                let freezing = Freezing::new(w, &metric, STEP, settings(), &indices);
                (bytes, Trainable::Sum(Box::new(Sum::new([rows, cols], None, None, (Some(freezing), false)))))
            }
            Some(from) => {
                let reference = Some(&out.decoded[from][..]);
                let (rank, residual) = match second {
                    Second::Residual => (0, Some(AnyGrid)),
                    _ => (2, None),
                };
                let terms = Terms { prediction: Some(Prediction { from, gain: None }), rank, residual };
                let sum::Start { mut bytes, rest } = sum::start(w, &metric, STEP, &terms, reference);
                let (gain, term, _) = sum::read_start(&bytes, rows, cols).unwrap();
                let residual = residual.map(|AnyGrid| {
                    let prices = matrix::converged(&rest, &metric, STEP, &settings());
                    let coded = matrix::encode(&rest, &metric, STEP, &settings(), &prices).bytes;
                    let indices = matrix::integers(&coded, rows, cols).unwrap();
                    bytes.extend(coded);
                    Freezing::new(&rest, &metric, STEP, settings(), &indices)
                });
                (bytes, Trainable::Sum(Box::new(Sum::new([rows, cols], gain, term, (residual, false)))))
            }
        };
        out.decoded[i] = match from {
            None => matrix::decode(&bytes, rows, cols).unwrap(),
            Some(from) => sum::decode(&bytes, rows, cols, Some(&out.decoded[from])).unwrap(),
        };
        out.coded.push(bytes);
        out.streams.push(TrainedStream { tensors: vec![i], from, trainable });
    }
    let tensors = || {
        let tensor = |i: &usize| {
            let (data, width) = (&model.stored[*i].data[..], model.sides(*i).1);
            vectors::Tensor { data, curvature: vec![1.0; data.len()].into(), width }
        };
        small.iter().map(tensor).collect::<Vec<_>>()
    };
    let bytes = vectors::encode(&tensors(), STEP).bytes;
    let shapes: Vec<(usize, usize)> = tensors().iter().map(|t| (t.data.len(), t.width)).collect();
    for (i, data) in small.iter().zip(vectors::decode(&bytes, &shapes).unwrap()) {
        out.decoded[*i] = data;
    }
    out.coded.push(bytes);
    out.streams.push(TrainedStream {
        tensors: small.clone(),
        from: None,
        trainable: Trainable::Vectors(Small::new(tensors(), STEP)),
    });
    out
}

fn size(sizes: &[usize]) -> Result<u64> {
    Ok(100 + sizes.iter().sum::<usize>() as u64)
}

/// Heals for `steps` steps, or until it is asked for the `stop`-th time whether to stop.
fn run(model: &Model, second: Second, steps: usize, stop: usize, checkpoint: Option<&Path>) -> Result<Healed> {
    let Start { streams, coded, decoded } = start(model, second);
    let budget = size(&coded.iter().map(Vec::len).collect::<Vec<_>>())?;
    let asked = AtomicUsize::new(0);
    let options = Options {
        length: Length::Steps(steps),
        pace: Pace::USUAL,
        objective: Objective::Kl,
        seed: 3,
        budget,
        checkpoint: checkpoint.map(Path::to_path_buf),
        resume: checkpoint.is_some(),
        stop: &|| asked.fetch_add(1, Ordering::Relaxed) == stop,
    };
    let packed = Packed { streams, coded, decoded, key: format!("{second:?} {steps}"), file_size: &size };
    let teacher = Teacher::new(model.network()?, model.params()?);
    let healed = heal(model, &teacher, packed, &calib(model, 40_000), &options, &Silent)?;
    let bytes = size(&healed.streams.iter().map(Vec::len).collect::<Vec<_>>())?;
    assert!(bytes <= budget, "{bytes} of {budget} bytes");
    Ok(healed)
}

#[test]
fn gains_and_keeps_to_its_bytes() {
    let model = model();
    for second in [Second::Alone, Second::LowRank, Second::Residual] {
        let course = run(&model, second, 40, usize::MAX, None).unwrap().course;
        let (first, best) = (&course.points[0], &course.points[course.best]);
        assert!(best.kl < 0.9 * first.kl, "{second:?}: KL {} after {}", best.kl, first.kl);
        assert_eq!((course.steps, course.step_tokens), (40, 3_696));
    }
}

#[test]
fn a_run_that_was_broken_off_goes_on_to_the_same_streams_on_any_number_of_threads() {
    let model = model();
    let folder = tempfile::tempdir().unwrap();
    let checkpoint = folder.path().join("state.safetensors");
    for second in [Second::Residual, Second::LowRank] {
        let _ = std::fs::remove_file(&checkpoint);
        let whole = run(&model, second, 28, usize::MAX, None).unwrap();
        let broken = run(&model, second, 28, 23, Some(&checkpoint)).unwrap();
        assert_eq!(broken.course.steps, 23);
        let one = rayon::ThreadPoolBuilder::new().num_threads(1).build().unwrap();
        let resumed = one.install(|| run(&model, second, 28, usize::MAX, Some(&checkpoint))).unwrap();
        assert!(resumed.streams == whole.streams, "{second:?}: the streams differ");
        assert_eq!(resumed.course.best, whole.course.best);
    }

    let told = |e: Error| format!("{e}\n{}", e.hint.clone().unwrap_or_default());
    let other = run(&model, Second::Alone, 28, usize::MAX, Some(&checkpoint)).map(|_| ()).unwrap_err();
    std::fs::write(&checkpoint, "nothing of the kind").unwrap();
    let nothing = run(&model, Second::LowRank, 28, usize::MAX, Some(&checkpoint)).map(|_| ()).unwrap_err();
    let words = [told(other), told(nothing)].join("\n").replace(&*folder.path().to_string_lossy(), "[dir]");
    insta::assert_snapshot!(words);
}

#[test]
fn too_little_text_is_refused() {
    let model = model();
    let Start { streams, coded, decoded } = start(&model, Second::Alone);
    let (length, pace, objective, stop) = (Length::Steps(5), Pace::USUAL, Objective::Both, &|| false);
    let options = Options { length, pace, objective, seed: 0, budget: 1 << 20, checkpoint: None, resume: false, stop };
    let packed = Packed { streams, coded, decoded, key: String::new(), file_size: &size };
    let teacher = Teacher::new(model.network().unwrap(), model.params().unwrap());
    let refused = heal(&model, &teacher, packed, &calib(&model, 4_000), &options, &Silent);
    let error = refused.map(|_| ()).unwrap_err();
    insta::assert_snapshot!(format!("{error}\n{}", error.hint.clone().unwrap_or_default()));
}
