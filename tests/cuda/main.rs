//! A GPU computes what the CPU computes. Only in a build with the feature `cuda`, on a machine with a GPU:
//! `cargo test --release --features cuda --test cuda`.

use std::path::{Path, PathBuf};

use candle_core::Device;
use tiepack::compile::{Effort, Options, compile};
use tiepack::eval::compare::losses;
use tiepack::eval::windows::Windows;
use tiepack::ingest::{self, Overrides, Reading, Shard, folder};
use tiepack::measure::curvature::{Curvature, measure};
use tiepack::model::{Model, build};
use tiepack::nets;
use tiepack::progress::Silent;
use tiepack::train::gradient::gradient;
use tiepack::train::objective::Objective;
use tiepack::train::teacher::Teacher;

fn gpu() -> Device {
    Device::new_cuda(0).expect("these tests need a GPU")
}

fn load(folder: &Path) -> Model {
    let source = ingest::read(&folder::locate(folder, &Overrides::default()).unwrap()).unwrap();
    let net = nets::build(&source.config).unwrap();
    build(source, net, None).unwrap()
}

fn folders() -> Vec<PathBuf> {
    let mut found: Vec<PathBuf> =
        std::fs::read_dir("fixtures/parity").unwrap().map(|entry| entry.unwrap().path()).collect();
    found.sort();
    found
}

/// Tokens with as much structure as a random network shows: none.
fn noise(vocab: usize, n: usize) -> Vec<u32> {
    let mut signs = tiepack::random::Random::new(11);
    (0..n).map(|_| ((signs.bits() >> 33) as usize % vocab) as u32).collect()
}

/// Largest difference over the largest element.
fn off(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    let largest = a.iter().fold(f32::MIN_POSITIVE, |m, v| m.max(v.abs()));
    a.iter().zip(b).fold(0f32, |m, (a, b)| m.max((a - b).abs())) / largest
}

#[test]
fn losses_gradients_and_curvature_of_every_family() {
    let device = gpu();
    for folder in folders() {
        let name = folder.display();
        let here = load(&folder);
        let there = here.clone().on(&device);
        let net = here.network().unwrap();
        let tokens = noise(net.vocab_size(), 8 * net.context() + 1);
        let windows = Windows::new(&tokens, net.context(), None);
        let loss = |model: &Model| losses(net, &model.params().unwrap(), &windows, &|_| {}).unwrap().rows;
        for (a, b) in loss(&here).iter().zip(loss(&there)) {
            assert!((a - b).abs() < 1e-4 * a, "{name}: a row loses {a} on the CPU and {b} on the GPU");
        }
        let weights: Vec<Vec<f32>> = here.stored.iter().map(|stored| stored.data.to_vec()).collect();
        // A teacher that is not the student.
        let other = here.stored.iter().map(|stored| stored.data.iter().map(|v| v * 1.1).collect::<Vec<f32>>().into());
        let teacher = here.with_data(other.collect());
        for objective in [Objective::Kl, Objective::Data, Objective::Both] {
            let on = |model: &Model, teacher: Model| {
                let teacher = Teacher::new(net, teacher.params().unwrap());
                gradient(model, &weights, Some(&teacher), &vec![windows; 2], objective).unwrap()
            };
            let (a, b) = (on(&here, teacher.clone()), on(&there, teacher.clone().on(&device)));
            let (x, y) = (a.totals.mean(objective), b.totals.mean(objective));
            assert!((x - y).abs() < 1e-4 * x.abs().max(0.01), "{name}, {objective:?}: {x} and {y}");
            for (i, (a, b)) in a.tensors.iter().zip(&b.tensors).enumerate() {
                assert!(off(a, b) < 2e-3, "{name}, {objective:?}, {}: off by {}", here.spec(i).name, off(a, b));
            }
        }
        let of = |model: &Model| measure(model, &windows, 1, &|_| Ok(())).unwrap();
        for (i, pair) in of(&here).into_iter().zip(of(&there)).enumerate() {
            let off = match &pair {
                (Curvature::Matrix(a), Curvature::Matrix(b)) => off(&a.input, &b.input).max(off(&a.output, &b.output)),
                (Curvature::Vector(a), Curvature::Vector(b)) => off(a, b),
                other => panic!("{name}: {other:?}"),
            };
            assert!(off < 5e-3, "{name}: the curvature of {} is off by {off}", here.spec(i).name);
        }
    }
}

#[test]
fn packing_is_repeatable_and_as_good_as_on_the_cpu() {
    let here = load(Path::new("fixtures/pep-tiny"));
    let there = here.clone().on(&gpu());
    let calib = Shard::read(Path::new("fixtures/pep-tiny/train_000.bin"), &Reading::default(), 1024).unwrap().tokens;
    let val = Shard::read(Path::new("fixtures/pep-tiny/val_000.bin"), &Reading::default(), 1024).unwrap().tokens;
    let net = here.network().unwrap();
    let windows = Windows::new(&val, net.context(), Some(64));
    let pack = |model: &Model| {
        let mut options = Options::new(100_000, Effort::Normal);
        options.heal = tiepack::compile::Heal::For(tiepack::heal::Length::Steps(12));
        compile(model, Some(&calib), &options, &Silent).unwrap().bytes
    };
    let loss = |bytes: &[u8]| {
        let packed = tiepack::artifact::open::decode(bytes).unwrap().model;
        losses(net, &packed.params().unwrap(), &windows, &|_| {}).unwrap().mean()
    };
    let (a, b, again) = (pack(&here), pack(&there), pack(&there));
    assert!(a.len() <= 100_000 && b.len() <= 100_000);
    assert_eq!(b, again, "the same GPU and the same flags gave other bytes");
    let (a, b) = (loss(&a), loss(&b));
    assert!((a - b).abs() < 0.005, "loss {a} packed on the CPU, {b} on the GPU");
}
