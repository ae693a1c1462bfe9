//! Executes a plan: from what each tensor is to be made of to streams.

use std::collections::BTreeMap;

use rayon::prelude::*;

use super::code::{Prices, code};
use super::metrics::Metrics;
use super::pieces::{Pieces, entry};
use super::target::{Target, target};
use crate::artifact::layout::StreamEntry;
use crate::code::codec::{lossless, vectors};
use crate::error::{Error, Result};
use crate::model::{Dtype, Model};
use crate::nets::TensorSpec;
use crate::plan::{Part, Plan};
use crate::progress::Progress;
use crate::recipe::{Recipe, Terms};

/// A part of a plan with its names resolved.
pub(super) struct Task<'a> {
    pub part: &'a Part,
    /// What it is made of, tensors by their stored index.
    pub recipe: Recipe<usize>,
    /// Stored tensors, ascending.
    pub tensors: Vec<usize>,
    /// The stored tensors whose mean it is coded as.
    pub mean_of: Vec<usize>,
    /// The stored tensors that are copies of it, and copies of those: they have no residual.
    pub serves: Vec<usize>,
}

impl Task<'_> {
    /// The stored tensor that it starts from.
    pub fn from(&self) -> Option<usize> {
        self.recipe.from().copied()
    }

    /// The target that its matrix is coded to.
    pub fn target<'a>(&self, model: &'a Model, metrics: &'a Metrics) -> Target<'a> {
        target(model, metrics, self.tensors[0], &self.mean_of, &self.serves)
    }
}

/// Codes `model` as `plan` says.
///
/// # Errors
/// Input, when the plan is not one of this model: names the part and the tensor.
pub(super) fn execute(plan: &Plan, model: &Model, metrics: &Metrics, progress: &dyn Progress) -> Result<Pieces> {
    let tasks = resolve(plan, model)?;
    progress.begin("coding", tasks.len() as u64);
    let mut pieces = Pieces::default();
    let mut decoded: Vec<Vec<f32>> = vec![Vec::new(); model.stored.len()];
    let mut done: Vec<Option<(StreamEntry, Vec<u8>)>> = tasks.iter().map(|_| None).collect();
    let mut left: Vec<usize> = (0..tasks.len()).collect();
    while !left.is_empty() {
        // All parts whose references are already coded.
        let waits =
            |i: &usize| tasks[*i].from().is_some_and(|from| left.iter().any(|k| tasks[*k].tensors.contains(&from)));
        let (waiting, ready): (Vec<usize>, Vec<usize>) = left.iter().partition(|i| waits(i));
        let coded: Vec<(StreamEntry, Vec<u8>, Vec<Vec<f32>>)> = ready
            .par_iter()
            .map(|&i| {
                let task = &tasks[i];
                let reference = task.from().map(|from| &decoded[from][..]);
                let bytes = encode(task, model, metrics, reference)?;
                let entry = entry(model, &task.recipe, &task.tensors, bytes.len());
                let needs: Vec<&[f32]> = reference.into_iter().collect();
                let back = crate::artifact::open::stream(&entry, &bytes, &model.shapes(), &needs)
                    .map_err(|e| Error::compute(format!("a stream just written cannot be read back: {e}")))?;
                progress.advance(1);
                Ok((entry, bytes, back))
            })
            .collect::<Result<_>>()?;
        for (i, (entry, bytes, back)) in ready.into_iter().zip(coded) {
            for (t, data) in tasks[i].tensors.iter().zip(back) {
                decoded[*t] = data;
            }
            done[i] = Some((entry, bytes));
        }
        left = waiting;
    }
    progress.end();
    (pieces.entries, pieces.streams) = done.into_iter().flatten().unzip();
    pieces.decoded = decoded;
    Ok(pieces)
}

/// Holds a plan against the model.
///
/// # Errors
/// As [`super::check`].
pub(super) fn resolve<'a>(plan: &'a Plan, model: &Model) -> Result<Vec<Task<'a>>> {
    let digest = model.digest().to_hex().to_string();
    if plan.model != digest {
        return Err(Error::input(format!("the plan was made for another model: {}, this one is {digest}", plan.model))
            .hint("names, shapes, ties and weights must be those of the model that the plan was written for"));
    }
    let index: BTreeMap<&str, usize> = (0..model.stored.len()).map(|i| (&model.spec(i).name[..], i)).collect();
    let find = |name: &String| {
        index.get(&name[..]).copied().ok_or_else(|| {
            let tied = model.specs.iter().position(|spec| spec.name == *name).map(|at| model.spec(model.source[at]));
            match tied {
                Some(first) => Error::input(format!("{name} is stored under the name {}", first.name)),
                None => Error::input(format!("the model has no tensor {name}")),
            }
        })
    };
    let mut taken = vec![false; model.stored.len()];
    let mut tasks = Vec::with_capacity(plan.parts.len());
    for (i, part) in plan.parts.iter().enumerate() {
        let place = |e: Error| e.at(format!("part {i} of the plan"));
        let mut tensors = part.tensors.iter().map(find).collect::<Result<Vec<_>>>().map_err(place)?;
        tensors.sort_unstable();
        let recipe = &part.made.recipe;
        let from = recipe.from().map(find).transpose().map_err(place)?;
        let mut mean_of = part.mean_of.iter().map(find).collect::<Result<Vec<_>>>().map_err(place)?;
        mean_of.sort_unstable();
        mean_of.dedup();
        fits(recipe, &tensors, from, &taken, model).map_err(place)?;
        for other in mean_of.iter().map(|t| model.spec(*t)) {
            let spec @ TensorSpec { name, shape, .. } = model.spec(tensors[0]);
            if other.shape != *shape || !other.is_matrix() || !spec.is_matrix() {
                let (theirs, first) = (&other.shape, &other.name);
                return Err(place(Error::input(format!("{name} {shape:?} cannot be a mean of {first} {theirs:?}"))));
            }
        }
        for t in &tensors {
            if std::mem::replace(&mut taken[*t], true) {
                return Err(place(Error::input(format!("{} is in the plan twice", model.spec(*t).name))));
            }
        }
        // A recipe that starts from no tensor has no name to look up.
        let recipe = recipe.clone().refer(|_| from.unwrap_or_default());
        tasks.push(Task { part, recipe, tensors, mean_of, serves: Vec::new() });
    }
    // From the last to the first, so that copies of copies count.
    for at in (0..tasks.len()).rev() {
        if let Some(from) = tasks[at].recipe.terms().and_then(Terms::copy_of).copied() {
            let copies: Vec<usize> = tasks[at].tensors.iter().chain(&tasks[at].serves).copied().collect();
            if let Some(task) = tasks.iter_mut().find(|task| task.tensors.contains(&from)) {
                task.serves.extend(copies);
                task.serves.sort_unstable();
            }
        }
    }
    match taken.iter().position(|taken| !taken) {
        None => Ok(tasks),
        Some(missing) => Err(Error::input(format!("the plan says nothing of {}", model.spec(missing).name))),
    }
}

/// Whether the tensors of a part can be made as it says.
fn fits(recipe: &Recipe<String>, tensors: &[usize], from: Option<usize>, before: &[bool], model: &Model) -> Result<()> {
    let spec = model.spec(tensors[0]);
    let name = &spec.name;
    let terms = match recipe {
        Recipe::Exact => {
            let types: Vec<Dtype> = tensors.iter().map(|t| model.stored[*t].dtype).collect();
            if types.iter().any(|dtype| *dtype != types[0]) {
                return Err(Error::input(format!(
                    "{name} and others of one exact part are of different element types"
                )));
            }
            return Ok(());
        }
        Recipe::Vectors => {
            if let Some(t) = tensors.iter().find(|t| model.is_matrix(**t)) {
                return Err(Error::input(format!("{} is a matrix, not a control tensor", model.spec(*t).name)));
            }
            return Ok(());
        }
        Recipe::Sum(terms) if terms.is_zero() => return Ok(()),
        Recipe::Sum(terms) => terms,
    };
    if !spec.is_matrix() {
        return Err(Error::input(format!("{name} is a control tensor, not a matrix")));
    }
    let (rows, cols) = model.sides(tensors[0]);
    if terms.rank > rows.min(cols) {
        let rank = terms.rank;
        return Err(Error::input(format!("rank {rank} for {name}, which has {rows} rows and {cols} columns")));
    }
    let Some(from) = from else { return Ok(()) };
    let other = model.spec(from);
    if other.shape != spec.shape {
        let (shape, theirs) = (&spec.shape, &other.shape);
        return Err(Error::input(format!("{name} {shape:?} cannot start from {} {theirs:?}", other.name)));
    }
    if !before[from] {
        return Err(Error::input(format!("{name} starts from {}, which comes later in the plan", other.name)));
    }
    Ok(())
}

fn encode(task: &Task, model: &Model, metrics: &Metrics, reference: Option<&[f32]>) -> Result<Vec<u8>> {
    let step = task.part.made.step;
    match &task.recipe {
        Recipe::Exact => {
            let tensors: Vec<(&[f32], &[usize])> =
                task.tensors.iter().map(|t| (&model.stored[*t].data[..], model.shape(*t))).collect();
            Ok(lossless::encode_group(&tensors, model.stored[task.tensors[0]].dtype)?)
        }
        Recipe::Vectors => Ok(vectors::encode(&metrics.control_tensors(model, &task.tensors), step).bytes),
        // Whatever the tensors are.
        Recipe::Sum(terms) if terms.is_zero() => Ok(Vec::new()),
        Recipe::Sum(terms) => Ok(code(terms, &task.target(model, metrics), reference, step, Prices::Converged).bytes),
    }
}
