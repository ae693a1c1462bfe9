//! Healing as packing wants it: from a plan to streams in training, from the best of these to the pieces of a file.

use std::collections::BTreeMap;

use rayon::prelude::*;

use super::metrics::{Metrics, settings};
use super::pieces::{Pieces, header};
use crate::artifact::open;
use crate::artifact::write::size_of;
use crate::code::codec::sum;
use crate::error::{Error, Result};
use crate::heal::lattice::Lattice;
use crate::heal::part::{Part, Stream};
use crate::heal::small::Small;
use crate::heal::sum::Sum;
use crate::heal::{self, Course, Length};
use crate::model::Model;
use crate::plan::{self, Made, Plan};
use crate::progress::Progress;
use crate::train::objective::Objective;

/// How to heal.
pub struct Healing<'a> {
    pub length: Length,
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
    let index: BTreeMap<&str, usize> = (0..model.stored.len()).map(|i| (&model.spec(i).name[..], i)).collect();
    let streams: Vec<Stream> = plan
        .parts
        .par_iter()
        .zip(&pieces.streams)
        .map(|(part, bytes)| {
            let mut tensors: Vec<usize> = part.tensors.iter().map(|name| index[&name[..]]).collect();
            tensors.sort_unstable();
            let from = match &part.made {
                Made::Sum { from: Some(from), .. } => Some(index[&from[..]]),
                _ => None,
            };
            let reference = from.map(|from| &pieces.decoded[from][..]);
            let part = training(&part.made, &tensors, model, metrics, (bytes, reference))?;
            progress.advance(1);
            Ok(Stream { tensors, from, part })
        })
        .collect::<Result<_>>()?;
    let entries = pieces.entries;
    let sized = |sizes: &[usize]| {
        let mut entries = entries.clone();
        entries.iter_mut().zip(sizes).for_each(|(entry, size)| entry.len = *size as u64);
        entries
    };
    let file_size = |sizes: &[usize]| size_of(&header(model, sized(sizes)));
    let options = heal::Options {
        key: key(plan, calib, &healing),
        length: healing.length,
        objective: healing.objective,
        seed: healing.seed,
        budget: healing.budget,
        checkpoint: healing.checkpoint,
        resume: healing.resume,
        stop: healing.stop,
        file_size: &file_size,
    };
    let healed = heal::heal(model, streams, pieces.streams, pieces.decoded, calib, &options, progress)?;
    let header = header(model, sized(&healed.streams.iter().map(Vec::len).collect::<Vec<_>>()));
    let shapes: Vec<&[usize]> = (0..model.stored.len()).map(|i| model.shape(i)).collect();
    let decoded = open::streams(&header, &shapes, |i| &healed.streams[i])
        .map_err(|e| Error::compute(format!("a healed stream cannot be read back: {e}")))?;
    Ok((Pieces { entries: header.streams, streams: healed.streams, decoded }, healed.course))
}

/// A stream in training that starts from what its part of a plan made, of which the bytes are known.
fn training(
    made: &Made,
    tensors: &[usize],
    model: &Model,
    metrics: &Metrics,
    (bytes, reference): (&[u8], Option<&[f32]>),
) -> Result<Part> {
    let first = tensors[0];
    let lattice =
        |w: &[f32], step: f64, grid: plan::Grid| Lattice::new(w, &metrics.of(model, first), step, settings(grid));
    Ok(match made {
        Made::Exact | Made::Zero => Part::Fixed,
        Made::Vectors { step } => Part::Vectors(Small::new(metrics.control_tensors(model, tensors), *step)),
        Made::Matrix { step, grid } => Part::Matrix(Box::new(lattice(&model.stored[first].data, *step, *grid))),
        Made::Sum { step, residual, .. } => {
            let (rows, cols) = model.sides(first);
            let (gain, term) = sum::read_start(bytes, rows, cols)
                .ok_or_else(|| Error::compute(format!("the sum of {} cannot be read back", model.spec(first).name)))?;
            let before = sum::add_up([rows, cols], reference.zip(gain), term.as_ref(), None);
            let rest = || model.stored[first].data.iter().zip(&before).map(|(w, b)| w - b).collect::<Vec<f32>>();
            let residual = residual.map(|grid| lattice(&rest(), *step, grid));
            Part::Sum(Box::new(Sum::new([rows, cols], gain, term, residual)))
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
