//! Healing as packing wants it: from a plan to streams in training, from the best of these to the pieces of a file.

use std::borrow::Cow;

use rayon::prelude::*;

use super::execute::{Task, resolve};
use super::metrics::{Metrics, settings};
use super::pieces::{Pieces, header};
use super::target::{Target, target};
use crate::artifact::open;
use crate::artifact::write::size_of;
use crate::code::codec::{matrix, sum};
use crate::code::quantize::metric::Metric;
use crate::error::{Error, Result};
use crate::heal::binding::Binding;
use crate::heal::part::{Part, Stream};
use crate::heal::small::Small;
use crate::heal::sum::Sum;
use crate::heal::{self, Course, Length, Pace};
use crate::model::Model;
use crate::plan::{Made, Plan};
use crate::progress::Progress;
use crate::train::objective::Objective;
use crate::train::teacher::Teacher;

/// How to heal.
pub struct Healing<'a> {
    /// The original.
    pub teacher: &'a Teacher<'a>,
    pub length: Length,
    pub pace: Pace,
    pub objective: Objective,
    pub seed: u64,
    pub budget: u64,
    pub checkpoint: Option<std::path::PathBuf>,
    pub resume: bool,
    pub stop: &'a (dyn Fn() -> bool + Sync),
}

/// Trains what `plan` made of `model`, on `calib`; pieces that fit the budget, not worse on held-out text than those given.
///
/// # Errors
/// As [`heal::heal`].
pub(super) fn heal(
    model: &Model,
    metrics: &Metrics,
    (plan, pieces): (&Plan, Pieces),
    calib: &[u16],
    healing: Healing,
    progress: &dyn Progress,
) -> Result<(Pieces, Course)> {
    progress.begin("preparing to heal", plan.parts.len() as u64);
    let tasks = resolve(plan, model)?;
    let streams: Vec<Stream> = tasks
        .par_iter()
        .zip(&pieces.streams)
        .map(|(task, bytes)| {
            let reference = task.from.map(|from| &pieces.decoded[from][..]);
            let part = training(task, &tasks, (model, metrics), (bytes, reference))?;
            progress.advance(1);
            Ok(Stream { tensors: task.tensors.clone(), from: task.from, part })
        })
        .collect::<Result<_>>()?;
    let entries = pieces.entries;
    let sized = |sizes: &[usize]| {
        let mut entries = entries.clone();
        entries.iter_mut().zip(sizes).for_each(|(entry, size)| entry.len = *size as u64);
        entries
    };
    let file_size = |sizes: &[usize]| Ok(size_of(&header(model, sized(sizes)))?);
    let options = heal::Options {
        key: key(plan, calib, &healing),
        length: healing.length,
        pace: healing.pace,
        objective: healing.objective,
        seed: healing.seed,
        budget: healing.budget,
        checkpoint: healing.checkpoint,
        resume: healing.resume,
        stop: healing.stop,
        file_size: &file_size,
    };
    let healed =
        heal::heal((model, healing.teacher), streams, pieces.streams, pieces.decoded, calib, &options, progress)?;
    let header = header(model, sized(&healed.streams.iter().map(Vec::len).collect::<Vec<_>>()));
    let shapes: Vec<&[usize]> = (0..model.stored.len()).map(|i| model.shape(i)).collect();
    let decoded = open::streams(&header, &shapes, |i| &healed.streams[i])
        .map_err(|e| Error::compute(format!("a healed stream cannot be read back: {e}")))?;
    Ok((Pieces { entries: header.streams, streams: healed.streams, decoded }, healed.course))
}

/// The order in which the columns of a residual are bound: that of the matrix at the start of its chain. A column of it is
/// settled once those that it starts from are, and then makes good for what rounding did to them.
fn order(task: &Task, tasks: &[Task], (model, metrics): (&Model, &Metrics)) -> Option<Vec<usize>> {
    let before = |task: &Task| tasks.iter().find(|other| task.from.is_some_and(|from| other.tensors.contains(&from)));
    let first = std::iter::successors(before(task), |task| before(task)).last()?;
    Some(target(model, metrics, first.tensors[0], (&first.mean_of, &first.serves)).metric.order.clone())
}

/// A stream in training that starts from what its part of a plan made, of which the bytes are known; `tasks` are all of the plan.
fn training(
    task: &Task,
    tasks: &[Task],
    (model, metrics): (&Model, &Metrics),
    (bytes, reference): (&[u8], Option<&[f32]>),
) -> Result<Part> {
    let first = task.tensors[0];
    let target = || target(model, metrics, first, (&task.mean_of, &task.serves));
    let (rows, cols) = model.sides(first);
    let unreadable = || Error::compute(format!("the stream of {} cannot be read back", model.spec(first).name));
    let binding = |w: &[f32], metric: &Metric, step, grid, bytes| {
        let indices = matrix::integers(bytes, rows, cols).ok_or_else(unreadable)?;
        Ok::<_, Error>(Binding::new(w, metric, step, settings(grid), &indices))
    };
    Ok(match &task.part.made {
        Made::Exact | Made::Zero => Part::Fixed,
        Made::Vectors { step } => Part::Vectors(Small::new(metrics.control_tensors(model, &task.tensors), *step)),
        Made::Matrix { step, grid } => {
            let Target { w, metric, .. } = target();
            Part::Matrix(Box::new(binding(&w, &metric, *step, *grid, bytes)?))
        }
        Made::Sum { step, residual, .. } => {
            let (gain, term, rest) = sum::read_start(bytes, rows, cols).ok_or_else(unreadable)?;
            let mut coarse = false;
            let residual = residual.map(|grid| {
                let Target { w, metric, .. } = target();
                coarse = sum::is_coarse(&w, &metric, *step);
                let before = sum::add_up([rows, cols], reference.zip(gain), term.as_ref(), None);
                let left: Vec<f32> = w.iter().zip(&before).map(|(w, b)| w - b).collect();
                let metric = match order(task, tasks, (model, metrics)) {
                    Some(order) => Cow::Owned(metric.in_order(&order)),
                    None => metric,
                };
                binding(&left, &metric, *step, grid, rest)
            });
            let residual = residual.transpose()?;
            Part::Sum(Box::new(Sum::new([rows, cols], gain, term, (residual, coarse))))
        }
    })
}

/// Of all that a healing depends on: the plan knows its model.
fn key(plan: &Plan, calib: &[u16], healing: &Healing) -> String {
    let Healing { length, objective, seed, budget, .. } = healing;
    let mut hash = blake3::Hasher::new();
    hash.update(plan.to_json().as_bytes());
    hash.update(format!("{length:?} {objective:?} {seed} {budget}").as_bytes());
    hash.update(&calib.iter().flat_map(|t| t.to_le_bytes()).collect::<Vec<u8>>());
    hash.finalize().to_hex().to_string()
}
