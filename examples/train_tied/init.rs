//! The first weights: fresh, or from an untied model.

use std::path::Path;

use faer::Mat;
use tiepack::error::{Error, Result};
use tiepack::ingest::{self, Overrides, folder};
use tiepack::model::{Model, build};
use tiepack::nets::{self, Form, Net, TensorSpec};
use tiepack::random::Random;

/// Weights of every tensor: small embeddings, matrices that start a branch uniform with the variance of a linear layer's,
/// those that end one zero, so that every block begins as nothing.
pub fn fresh(specs: &[TensorSpec], seed: u64) -> Vec<Vec<f32>> {
    let mut random = Random::of(seed, 1);
    let mut tensor = |spec: &TensorSpec| -> Vec<f32> {
        let count: usize = spec.shape.iter().product();
        let ends = spec.role.ends_with("proj.weight") && spec.layer.is_some() || spec.role.ends_with(".up.weight");
        let bound = 1.0 / (spec.shape.last().copied().unwrap_or(1) as f64).sqrt();
        match (spec.form, spec.role.as_str()) {
            (Form::Embedding, _) => (0..count).map(|_| (0.005 * random.gaussian()) as f32).collect(),
            (Form::Matrix, _) if ends => vec![0.0; count],
            (Form::Matrix, _) => (0..count).map(|_| (bound * (2.0 * random.uniform() - 1.0)) as f32).collect(),
            (Form::Vector, "attn.q_gain") => vec![1.5; count],
            (Form::Vector, "depth_embedding") => vec![0.0; count],
            // All of the stream, nothing of the embedding.
            (Form::Vector, "resid_mix") => (0..count).map(|i| if i < count / 2 { 1.0 } else { 0.0 }).collect(),
            (Form::Vector, _) => vec![1.0; count],
        }
    };
    specs.iter().map(&mut tensor).collect()
}

/// Replaces fresh weights by those of an untied model with as many layers as `net` runs: a stored block becomes the mean of
/// the layers that it stands for, low-rank terms the largest singular values of what the mean leaves.
///
/// # Errors
/// Input, if the model cannot be read or has another width or depth.
pub fn from_untied(tensors: &mut [Vec<f32>], net: &dyn Net, path: &Path) -> Result<()> {
    let source = ingest::read(&folder::locate(path, &Overrides::default())?)?;
    let model = build(source.clone(), nets::build(&source.config)?, None)?;
    let (order, specs) = (net.order(), net.tensors());
    let wrong = |why: String| Error::input(format!("{}: {why}", path.display()));
    if model.network()?.order() != (0..order.len()).collect::<Vec<_>>() {
        return Err(wrong(format!("--from wants an untied model of {} layers that run once each", order.len())));
    }
    for (at, spec) in specs.iter().enumerate() {
        let given = match spec.layer {
            Some(block) => {
                let layers = (0..order.len()).filter(|step| order[*step] == block);
                let each = layers.map(|layer| named(&model, &format!("blocks.{layer}.{}", spec.role)));
                mean(&each.flatten().collect::<Vec<_>>())
            }
            None => named(&model, &spec.name).map(<[f32]>::to_vec),
        };
        // Low-rank terms and depth embeddings stay fresh.
        let Some(given) = given else { continue };
        if given.len() != tensors[at].len() {
            return Err(wrong(format!("{} has {} values, wanted {:?}", spec.name, given.len(), spec.shape)));
        }
        tensors[at] = given;
    }
    let place = |name: &str| specs.iter().position(|spec| spec.name == name);
    for (down, spec) in specs.iter().enumerate().filter(|(_, spec)| spec.name.ends_with(".down.weight")) {
        let parts: Vec<&str> = spec.name.split('.').collect();
        let (Ok(step), Some(up)) = (parts[1].parse::<usize>(), place(&spec.name.replace(".down.", ".up."))) else {
            continue;
        };
        let role = format!("attn.{}.weight", parts[2]);
        let block = place(&format!("blocks.{}.{role}", order[step]));
        let (Some(block), Some(own)) = (block, named(&model, &format!("blocks.{step}.{role}"))) else { continue };
        let rest: Vec<f32> = own.iter().zip(&tensors[block]).map(|(w, mean)| w - mean).collect();
        (tensors[down], tensors[up]) = factors(&rest, spec.shape[1], spec.shape[0])?;
    }
    Ok(())
}

fn named<'a>(model: &'a Model, name: &str) -> Option<&'a [f32]> {
    let spec = model.specs.iter().position(|spec| spec.name == name)?;
    Some(model.stored[model.source[spec]].data.as_slice())
}

fn mean(each: &[&[f32]]) -> Option<Vec<f32>> {
    let first = each.first()?;
    let at = |i: usize| each.iter().map(|x| f64::from(x[i])).sum::<f64>() / each.len() as f64;
    Some((0..first.len()).map(|i| at(i) as f32).collect())
}

/// (√Σ Vᵀ, U √Σ) of a matrix, cut to `rank`.
fn factors(w: &[f32], cols: usize, rank: usize) -> Result<(Vec<f32>, Vec<f32>)> {
    let rows = w.len() / cols;
    let matrix = Mat::<f64>::from_fn(rows, cols, |i, j| f64::from(w[i * cols + j]));
    let svd = matrix.thin_svd().map_err(|e| Error::compute(format!("no singular values: {e:?}")))?;
    let root = |k: usize| svd.S()[k].sqrt();
    let down = (0..rank * cols).map(|at| (root(at / cols) * svd.V()[(at % cols, at / cols)]) as f32).collect();
    let up = (0..rows * rank).map(|at| (root(at % rank) * svd.U()[(at / rank, at % rank)]) as f32).collect();
    Ok((down, up))
}
