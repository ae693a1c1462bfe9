//! What measuring sees of a network, against PyTorch's autograd, and that it sees the same on any number of threads.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex};

use candle_core::{Tensor, Var};
use tiepack::error::Result;
use tiepack::eval::windows::Windows;
use tiepack::ingest::{Reading, Shard};
use tiepack::measure::curvature::measure;
use tiepack::measure::fisher::seed;
use tiepack::nets::ops::linear::{Recorder, linear};
use tiepack::nets::{Layers, PlainLayers};

use crate::{FOLDER, golden, model, numbers};

/// Largest relative difference of an energy or a trace.
const RELATIVE: f64 = 1e-3;

/// Sums over the positions of one use of a matrix.
#[derive(Default)]
struct Sums {
    /// Squares of the output gradient, by output.
    output: Vec<f64>,
    /// Squares of the input, by input.
    input: Vec<f64>,
}

struct Use(Mutex<Sums>);

impl Recorder for Use {
    fn record(&self, x: &Tensor, g: &Tensor) -> candle_core::Result<()> {
        let mut sums = self.0.lock().unwrap();
        let Sums { output, input } = &mut *sums;
        for (sums, values) in [(output, g), (input, x)] {
            let (width, values) = (sums.len(), values.flatten_all()?.to_vec1::<f32>()?);
            for row in values.chunks_exact(width) {
                sums.iter_mut().zip(row).for_each(|(s, v)| *s += f64::from(*v).powi(2));
            }
        }
        Ok(())
    }
}

/// Applies every matrix as it is and records each use apart: tied ones by all their names.
#[derive(Default)]
struct Tap {
    uses: Mutex<BTreeMap<String, Arc<Use>>>,
}

impl Layers for Tap {
    fn linear(&self, name: &str, x: &Tensor, w: &Tensor) -> Result<Tensor> {
        let (rows, cols) = w.dims2()?;
        let fresh = || Arc::new(Use(Mutex::new(Sums { output: vec![0.0; rows], input: vec![0.0; cols] })));
        let recorder = self.uses.lock().unwrap().entry(name.into()).or_insert_with(fresh).clone();
        Ok(linear(x, w, Some(recorder))?)
    }

    fn linear_transposed(&self, _: &str, _: &Tensor, _: &Tensor) -> Result<Tensor> {
        unreachable!("the baseline has no transposed matrices")
    }

    fn embed(&self, name: &str, table: &Tensor, tokens: &Tensor) -> Result<Tensor> {
        // A variable, without which nothing would be differentiated.
        Ok(Var::from_tensor(&PlainLayers.embed(name, table, tokens)?)?.as_tensor().clone())
    }
}

fn calibration() -> Vec<u32> {
    Shard::read(&Path::new(FOLDER).join("train_000.bin"), &Reading::default(), 1024).unwrap().tokens
}

/// The gradient of the summed loss at the logits: softmax minus the real next token.
fn cotangent(logits: &Tensor, targets: &[u32]) -> Tensor {
    let vocab = logits.dim(candle_core::D::Minus1).unwrap();
    let mut data: Vec<f32> = logits.flatten_all().unwrap().to_vec1().unwrap();
    for (row, target) in data.chunks_exact_mut(vocab).zip(targets) {
        let total: f64 = row.iter().map(|x| f64::from(*x).exp()).sum();
        row.iter_mut().for_each(|x| *x = (f64::from(*x).exp() / total) as f32);
        row[*target as usize] -= 1.0;
    }
    Tensor::from_vec(data, logits.shape(), logits.device()).unwrap()
}

#[test]
fn gradients_are_those_of_pytorch() {
    let (golden, (_, model)) = (golden(), model());
    let golden = &golden["curvature"];
    let rows = golden["calibration_rows"].as_u64().unwrap() as usize;
    let tokens = calibration();
    let windows = Windows::new(&tokens, model.network().unwrap().context(), Some(rows));
    assert_eq!(windows.rows(), rows);
    let (params, tap) = (model.params().unwrap(), Tap::default());
    for row in 0..rows {
        let ids: Vec<u32> = windows.input(row).to_vec();
        let ids = Tensor::from_vec(ids, (1, windows.length()), &candle_core::Device::Cpu).unwrap();
        let logits = model.network().unwrap().logits(&params, &ids, &tap).unwrap();
        let cotangent = cotangent(&logits, windows.target(row));
        seed(&logits, cotangent).unwrap().backward().unwrap();
    }

    let uses = tap.uses.into_inner().unwrap();
    let per_token = 1.0 / windows.tokens() as f64;
    let close = |found: f64, wanted: f64, what: &str| {
        assert!((found - wanted).abs() <= RELATIVE * wanted.abs() + 1e-12, "{what}: {found:e} instead of {wanted:e}");
    };
    let matrices = golden["matrices"].as_object().unwrap();
    assert_eq!(matrices.len(), 19);
    for (name, wanted) in matrices {
        let first = model.specs.iter().position(|spec| spec.name == *name).unwrap();
        // All uses of the same stored matrix: energies add up, inputs are averaged by the energy of their use.
        let (mut energy, mut trace, mut output, mut input) = (0.0, 0.0, Vec::new(), Vec::new());
        for spec in model.uses(model.source[first]) {
            let sums = uses[&model.specs[spec].name].0.lock().unwrap();
            let mine = sums.output.iter().sum::<f64>() * per_token;
            energy += mine;
            trace += mine * sums.input.iter().sum::<f64>() * per_token;
            output.resize(sums.output.len(), 0.0);
            output.iter_mut().zip(&sums.output).for_each(|(o, s)| *o += s * per_token);
            input.resize(sums.input.len(), 0.0);
            input.iter_mut().zip(&sums.input).for_each(|(i, s)| *i += mine * s * per_token);
        }
        close(energy, wanted["output_energy"].as_f64().unwrap(), &format!("{name}: output energy"));
        close(trace / energy, wanted["input_trace"].as_f64().unwrap(), &format!("{name}: input trace"));
        for (i, wanted) in numbers(&wanted["output_energy_head"]).into_iter().enumerate() {
            close(output[i], wanted, &format!("{name}: energy of output {i}"));
        }
        for (i, wanted) in numbers(&wanted["input_diagonal_head"]).into_iter().enumerate() {
            close(input[i] / energy, wanted, &format!("{name}: energy of input {i}"));
        }
    }
}

#[test]
fn curvature_does_not_depend_on_the_number_of_threads() {
    let (_, model) = model();
    let tokens = calibration();
    // Five batches: more than threads, and not a multiple of them.
    let windows = Windows::new(&tokens, model.network().unwrap().context(), Some(18));
    let on = |threads: usize| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| measure(&model, &windows, 7, &|_| Ok(()))).unwrap().curvature
    };
    let (one, two) = (on(1), on(2));
    assert_eq!(one.len(), model.stored.len());
    for (i, (a, b)) in one.iter().zip(&two).enumerate() {
        // All values are finite, so that equality is equality of bits up to the sign of zero.
        assert!(a == b, "{} differs", model.spec(i).name);
    }
}
