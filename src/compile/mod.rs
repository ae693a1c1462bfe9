//! The driver: the only place that knows all stages from a checked model to the bytes of its artifact.

mod alternatives;
mod code;
mod compiled;
mod evaluator;
mod exact;
mod execute;
mod heal;
mod job;
mod metrics;
mod options;
mod parts;
mod pieces;
pub mod predict;
mod search;
mod statistics;
mod structure;
mod target;
pub mod trials;
mod workers;

use std::path::Path;
use std::sync::Arc;

pub use compiled::{Compiled, Healed};
use job::{Job, Timer};
use metrics::Metrics;
pub use options::{Effort, Heal, Options, Source, Start, Work};
use parts::Finished;
use pieces::file;
pub use pieces::header;
pub use structure::{Next, Row, Searched, Structure};

use crate::error::{Error, Result};
use crate::heal::Pace;
use crate::measure::Statistics;
use crate::model::Model;
use crate::plan::Plan;
use crate::progress::Progress;
use crate::train::teacher::Teacher;

/// Whether `plan` can be executed on `model`.
///
/// # Errors
/// Input, when it was made for another model, or asks for what cannot be: says in which of its parts.
pub fn check(plan: &Plan, model: &Model) -> Result<()> {
    execute::resolve(plan, model).map(drop)
}

/// Packs a model into at most `options.cap` bytes.
///
/// # Errors
/// Cap, naming the smallest that would do, if the model cannot be made to fit; Input without calibration tokens where
/// curvature is to be measured, or when a plan is not this model's.
pub fn compile(model: &Model, calib: Option<&[u32]>, options: &Options, progress: &dyn Progress) -> Result<Compiled> {
    let mut found = Err(Error::compute("nothing was compiled"));
    compile_each(model, calib, options, &[options.cap], progress, &mut |_, compiled| {
        found = compiled;
        Ok(())
    })?;
    found
}

/// A file leaves its cap empty where more than one part in so many of its bytes is free.
const LEFT_EMPTY: u64 = 50;

/// Packs a model once for each of `caps`, which stand for `options.cap`, and measures its loss once for all of them: every
/// file is the one that [`compile`] makes for its cap. `each` gets the index of a cap and what came of it; caps that hold
/// the model bit for bit come first.
///
/// # Errors
/// Whatever concerns all caps alike, and those of `each`. A cap that is too small is an error that `each` gets.
pub fn compile_each(
    model: &Model,
    calib: Option<&[u32]>,
    options: &Options,
    caps: &[u64],
    progress: &dyn Progress,
    each: &mut dyn FnMut(usize, Result<Compiled>) -> Result<()>,
) -> Result<()> {
    // What can go wrong with a plan goes wrong before anything is measured.
    options.plan.iter().try_for_each(|plan| check(plan, model))?;
    let mut timer = Timer::default();
    let exact = Metrics::new(model, None);
    let job = Job { model, metrics: &exact, calib, options, progress };
    let left = exact::each(job, caps, &mut timer, each)?;
    if left.is_empty() {
        return Ok(());
    }
    let gathered = match options.curvature {
        Source::Measured => timer.stage("measure", || gather(model, calib, options, progress))?,
        _ => Gathered(None),
    };
    let (statistics, cached_statistics) = gathered.of(options);
    let metrics = Metrics::new(model, statistics);
    let job = Job { metrics: &metrics, ..job };
    for at in left {
        let budget = options.budget(caps[at]);
        let mut found = quantized(job, budget, &mut timer);
        // Of a network that nobody can run here, nothing tells whether tensors without curvature matter: where bytes are left, they
        // are spent on them.
        if let Ok(first) = &found
            && (model.network().is_err() && options.plan.is_none())
            && (first.bytes.len() as u64) < budget - budget / LEFT_EMPTY
            && let Some(doubted) = statistics.and_then(Statistics::doubting)
        {
            let stages = first.stages.clone();
            let again = quantized(Job { metrics: &Metrics::new(model, Some(&doubted)), ..job }, budget, &mut timer);
            found = again.map(|again| Compiled { stages: [stages, again.stages].concat(), ..again });
        }
        each(at, found.map(|compiled| Compiled { cached_statistics, ..compiled }))?;
    }
    Ok(())
}

/// A file of at most `budget` bytes, by the plan that was given or by a search.
fn quantized(job: Job, budget: u64, timer: &mut Timer) -> Result<Compiled> {
    let Job { model, metrics, options, .. } = job;
    let (plan, pieces, mut structure) = timer.stage("search", || match &options.plan {
        Some(plan) => Ok((plan.clone(), execute::execute(plan, model, metrics, job.progress)?, None)),
        None => search::search(job, budget)
            .map(|(Finished { plan, pieces, .. }, structure)| (plan, pieces, Some(structure))),
    })?;
    let (pieces, healed) = match job.healing()? {
        Some((length, calib)) => timer.stage("heal", || {
            let before = model.with_data(pieces.decoded.iter().map(|data| Arc::new(data.clone())).collect());
            let teacher = Teacher::new(model.network()?, model.params()?);
            let healing =
                heal::HealingInput { teacher: &teacher, calib, options: options.healing(length, Pace::USUAL, budget) };
            let (pieces, course) = heal::heal(model, metrics, &plan, pieces, &healing, job.progress)?;
            Ok::<_, Error>((pieces, Some(Healed { before, course })))
        })?,
        None => (pieces, None),
    };
    structure.iter_mut().for_each(|structure| structure.takes(model, &pieces.entries));
    let bytes = file(model, pieces)?;
    let size = bytes.len() as u64;
    match &options.plan {
        _ if size <= budget => {}
        Some(_) => return Err(options.too_large(budget, size).hint("raise the cap, or write a coarser plan")),
        None => {
            let why = format!("the planned artifact came out at {size} bytes, over the {budget} it may have");
            return Err(Error::compute(why));
        }
    }
    let named = |wanted: &dyn Fn(usize) -> bool| -> Vec<String> {
        (0..model.stored.len()).filter(|i| wanted(*i)).map(|i| model.spec(i).name.clone()).collect()
    };
    let dead = named(&|i| metrics.vanishes(model, i) && model.stored[i].data.iter().any(|v| *v != 0.0));
    let unmeasured = named(&|i| metrics.is_guessed(i));
    Ok(Compiled { dead, unmeasured, structure, healed, ..Compiled::new(bytes, plan, timer.take()) })
}

/// Makes trials for a search in another process, until that sends everybody home; returns how many.
///
/// # Errors
/// As [`compile`]; what goes wrong with a trial is told to the other process.
pub fn work(
    model: &Model,
    calib: Option<&[u32]>,
    options: &Options,
    folder: &Path,
    progress: &dyn Progress,
) -> Result<usize> {
    let gathered = gather(model, calib, options, progress)?;
    let metrics = Metrics::new(model, gathered.of(options).0);
    search::serve(Job { model, metrics: &metrics, calib, options, progress }, folder)
}

/// Statistics that were measured, and whether that was done before.
struct Gathered(Option<(Statistics, bool)>);

impl Gathered {
    fn of<'a>(&'a self, options: &'a Options) -> (Option<&'a Statistics>, bool) {
        match (&options.curvature, &self.0) {
            (Source::Given(statistics), _) => (Some(statistics), false),
            (_, Some((statistics, cached))) => (Some(statistics), *cached),
            (_, None) => (None, false),
        }
    }
}

fn gather(model: &Model, calib: Option<&[u32]>, options: &Options, progress: &dyn Progress) -> Result<Gathered> {
    let Source::Measured = options.curvature else { return Ok(Gathered(None)) };
    let calib = calib.ok_or_else(|| {
        Error::input("packing below the exact size needs calibration tokens, and no training shard was found")
            .hint("give one with --calib, or pack with --lossless")
    })?;
    statistics::gather(model, calib, options, progress).map(|gathered| Gathered(Some(gathered)))
}
