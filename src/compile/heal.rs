//! Healing as packing wants it: from a plan to streams in training, from the best of these to the pieces of a file.

use std::borrow::Cow;

use rayon::prelude::*;

use super::code::{Parts, parts};
use super::execute::{Task, resolve};
use super::metrics::{Metrics, settings};
use super::pieces::{Pieces, header};
use crate::artifact::open;
use crate::artifact::write::size_of;
use crate::code::codec::sum;
use crate::error::{Error, Result};
use crate::eval::windows::token_bytes;
use crate::heal::freeze::Freezing;
use crate::heal::small::Small;
use crate::heal::sum::Sum;
use crate::heal::trainable::{Trainable, TrainedStream};
use crate::heal::{self, Course};
use crate::model::Model;
use crate::plan::Plan;
use crate::progress::Progress;
use crate::recipe::Recipe;
use crate::train::teacher::Teacher;

/// Teacher, text and options of a healing.
pub(super) struct HealingInput<'a> {
    /// The original.
    pub teacher: &'a Teacher<'a>,
    pub calib: &'a [u32],
    pub options: heal::Options<'a>,
}

/// Trains what `plan` made of `model`; pieces that fit the budget, not worse on held-out text than those given.
///
/// # Errors
/// As [`heal::heal`].
pub(super) fn heal(
    model: &Model,
    metrics: &Metrics,
    plan: &Plan,
    pieces: Pieces,
    healing: &HealingInput,
    progress: &dyn Progress,
) -> Result<(Pieces, Course)> {
    progress.begin("preparing to heal", plan.parts.len() as u64);
    let tasks = resolve(plan, model)?;
    let streams: Vec<TrainedStream> = tasks
        .par_iter()
        .zip(&pieces.streams)
        .map(|(task, bytes)| {
            let reference = task.from().map(|from| &pieces.decoded[from][..]);
            let trainable = training(task, &tasks, model, metrics, bytes, reference)?;
            progress.advance(1);
            Ok(TrainedStream { tensors: task.tensors.clone(), from: task.from(), trainable })
        })
        .collect::<Result<_>>()?;
    let entries = pieces.entries;
    let sized = |sizes: &[usize]| {
        let mut entries = entries.clone();
        entries.iter_mut().zip(sizes).for_each(|(entry, size)| entry.len = *size as u64);
        entries
    };
    let file_size = |sizes: &[usize]| Ok(size_of(&header(model, sized(sizes)))?);
    let (coded, decoded, key) = (pieces.streams, pieces.decoded, key(plan, healing));
    let packed = heal::Packed { streams, coded, decoded, key, file_size: &file_size };
    let healed = heal::heal(model, healing.teacher, packed, healing.calib, &healing.options, progress)?;
    let header = header(model, sized(&healed.streams.iter().map(Vec::len).collect::<Vec<_>>()));
    let decoded = open::streams(&header, &model.shapes(), |i| &healed.streams[i])
        .map_err(|e| Error::compute(format!("a healed stream cannot be read back: {e}")))?;
    Ok((Pieces { entries: header.streams, streams: healed.streams, decoded }, healed.course))
}

/// The order in which the columns of a residual are frozen: that of the matrix at the start of its chain. A column is frozen after
/// the columns that it is predicted from, and so compensates for their rounding.
fn order(task: &Task, tasks: &[Task], model: &Model, metrics: &Metrics) -> Option<Vec<usize>> {
    let before = |task: &Task| tasks.iter().find(|other| task.from().is_some_and(|from| other.tensors.contains(&from)));
    let first = std::iter::successors(before(task), |task| before(task)).last()?;
    Some(first.target(model, metrics).metric.order.clone())
}

/// A stream in training that starts from what its part of a plan made, of which the bytes are known; `tasks` are all of the plan.
fn training(
    task: &Task,
    tasks: &[Task],
    model: &Model,
    metrics: &Metrics,
    bytes: &[u8],
    reference: Option<&[f32]>,
) -> Result<Trainable> {
    let step = task.part.made.step;
    if task.recipe == Recipe::Vectors {
        return Ok(Trainable::Vectors(Small::new(metrics.control_tensors(model, &task.tensors), step)));
    }
    let Some(terms) = task.recipe.matrix() else { return Ok(Trainable::Fixed) };
    let target = task.target(model, metrics);
    let Parts { gain, low_rank, rest, indices } = parts(terms, &target, reference, bytes).ok_or_else(|| {
        Error::compute(format!("the stream of {} cannot be read back", model.spec(task.tensors[0]).name))
    })?;
    let coarse = terms.residual.is_some() && sum::is_coarse(&target.w, &target.metric, step);
    let residual = terms.residual.zip(indices).map(|(grid, indices)| {
        let metric = match order(task, tasks, model, metrics) {
            Some(order) => Cow::Owned(target.metric.in_order(&order)),
            None => Cow::Borrowed(&*target.metric),
        };
        Freezing::new(&rest, &metric, step, settings(grid), &indices)
    });
    let (rows, cols) = model.sides(task.tensors[0]);
    Ok(Trainable::Sum(Box::new(Sum::new([rows, cols], gain, low_rank, (residual, coarse)))))
}

/// Of all that a healing depends on: the plan knows its model.
fn key(plan: &Plan, HealingInput { calib, options, .. }: &HealingInput) -> String {
    let heal::Options { length, objective, seed, budget, .. } = options;
    let mut hash = blake3::Hasher::new();
    hash.update(plan.to_json().as_bytes());
    hash.update(format!("{length:?} {objective:?} {seed} {budget}").as_bytes());
    hash.update(&token_bytes(calib));
    hash.finalize().to_hex().to_string()
}
