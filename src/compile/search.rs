//! Finds what every matrix is made of, and the step sizes at which the model meets a byte budget.

use std::path::Path;

use super::alternatives::{Decided, decide};
use super::evaluator::{Known, Local, PACE, Short};
use super::job::Job;
use super::metrics::Metrics;
use super::options::{Options, Source, Work};
use super::parts::{Finished, Parts};
use super::statistics::{beside, between, nominal_step};
use super::structure::{Searched, Structure};
use super::trials::Logged;
use super::workers::{self, WorkerPool};
use crate::error::{Error, Result};
use crate::eval::prefix::Original;
use crate::eval::windows::{Windows, token_bytes};
use crate::heal::{self, Length};
use crate::model::Model;
use crate::nets::Net;
use crate::plan::budget::{Outcome, approach, meet};
use crate::plan::climb::{Bounds, Climbed, climb};
use crate::plan::moves::{Candidate, Move};
use crate::plan::scheme::Scheme;
use crate::plan::shape::{Shape, Table};
use crate::progress::Silent;
use crate::train::teacher::Teacher;

/// States while the step size is still far off: sizes hardly depend on them.
const SEARCH_STATES: usize = 8;
/// Relative distance from the budget at which the search changes to the final trellis.
const SEARCH_CLOSE: f64 = 4e-3;
const FINAL_CLOSE: f64 = 5e-4;
/// How many times more a change may cost by its look than it saves where it will be healed: ties of layers that were trained
/// apart lose three fifths of what they cost.
const HEALED: f64 = 3.0;
/// Logits of the calibration tokens that candidates are measured on take at most so many numbers.
const MOST_LOGITS: usize = 1 << 26;

/// The shared roles of a model by layer; what nothing depends on is not among them.
fn table(model: &Model, metrics: &Metrics) -> Table {
    let mut layers = vec![vec![None; model.tied_roles.len()]; model.layers];
    for (spec, stored) in model.specs.iter().zip(&model.source) {
        let role = model.tied_roles.iter().position(|role| *role == spec.role);
        if let (Some(layer), Some(role)) = (spec.layer.filter(|layer| *layer < model.layers), role) {
            layers[layer][role] = Some(*stored).filter(|stored| !metrics.vanishes(model, *stored));
        }
    }
    Table { layers, roles: model.tied_roles.clone() }
}

/// A model on its way to the budget, before the search over whole layers.
struct Begun<'a> {
    parts: Parts<'a>,
    known: Known,
    decided: Vec<Decided>,
}

/// Matrix by matrix: what each is made of where the quadratic holds.
fn begin<'a>(job: Job<'a>, table: &Table, budget: u64) -> Result<Begun<'a>> {
    let Job { model, metrics, options, progress, .. } = job;
    let states = options.effort.states().min(SEARCH_STATES);
    let mut parts = Parts::new(model, metrics, &options.shape.scheme(table)?, progress);
    parts.states = states;
    progress.begin("searching", 0);
    let mut near = approach(&mut parts, budget, (nominal_step(model), 1.0), SEARCH_CLOSE)?;
    let mut decided = Vec::new();
    if options.shape == Shape::Auto {
        decided = decide(job, &parts, table, &parts.by_stored(&near.parts), near.step)?;
        let found = decided.iter().fold(Scheme::default(), |scheme, d| scheme.with(d.stored, d.choice));
        if !found.is_plain() {
            parts = parts.under(&found);
            near = approach(&mut parts, budget, (near.step, near.rate), SEARCH_CLOSE)?;
        }
    }
    progress.end();
    let known = Known::new(&parts, near);
    Ok(Begun { parts, known, decided })
}

/// Codes `model` into a file of at most `budget` bytes; the plan gives the same streams when it is executed.
///
/// # Errors
/// Cap, when not even the coarsest grids fit; Input, when the model cannot have the shape that is asked for, or a log is not
/// that of this search.
pub(super) fn search(job: Job, budget: u64) -> Result<(Finished, Structure)> {
    let Job { model, options, progress, .. } = job;
    let table = table(model, job.metrics);
    let Begun { mut parts, known, decided } = begin(job, &table, budget)?;
    let (mut searched, mut step) = (None, known.step);
    if options.shape == Shape::Auto
        && let Some(ground) = Ground::new(job, budget)?
    {
        let climbed = structures(&ground, &table, &parts, known, budget)?;
        if climbed.best.scheme != *parts.scheme() {
            parts = parts.under(&climbed.best.scheme);
            step = climbed.packed.step;
        }
        searched = Some(Searched::new(&climbed));
    }
    progress.begin("filling the cap", 0);
    (parts.states, parts.last) = (options.effort.states(), true);
    let found = match meet(&mut parts, budget, step, FINAL_CLOSE)? {
        Outcome::Fits(found) => found,
        Outcome::TooSmall { needed } => {
            return Err(options.too_large(budget, needed).hint("raise the cap, include less, or pack a smaller model"));
        }
    };
    progress.end();
    let finished = parts.finish(found)?;
    let structure = Structure::new(model, &finished, &decided, searched);
    Ok((finished, structure))
}

/// The network and the calibration rows on which structures are evaluated.
struct Ground<'a> {
    job: Job<'a>,
    net: &'a dyn Net,
    sample: Vec<u32>,
    /// Tokens to heal candidates on, where the file will be healed.
    others: Option<Vec<u32>>,
    trials: usize,
    /// Digest of all that trials depend on.
    run: String,
}

impl<'a> Ground<'a> {
    /// `None` where there is no network, there are no tokens, or nothing is to be tried.
    fn new(job: Job<'a>, budget: u64) -> Result<Option<Self>> {
        let Job { model, options, .. } = job;
        let bits = 8.0 * budget as f64 / model.weights().max(1) as f64;
        let trials = options.trials.unwrap_or_else(|| options.effort.trials(bits));
        let (Ok(net), Some(calib), true) = (model.network(), job.calib, trials > 0) else { return Ok(None) };
        let length = net.context();
        let rows = options.effort.judged_tokens().min(MOST_LOGITS / net.vocab_size().max(1)).div_ceil(length);
        let sample = between(calib, length, rows.max(2));
        let others = beside(calib, length, rows.max(2));
        let heals = Job { calib: Some(&others), progress: &Silent, ..job }.healing()?.is_some();
        let mut hash = blake3::Hasher::new();
        hash.update(model.digest().as_bytes());
        hash.update(&token_bytes(calib));
        // The number of trials is not among it: a search may go on for longer.
        let Options { cap, includes, effort, seed, calib_rows, shape, objective, .. } = options;
        let given = matches!(options.curvature, Source::Given(_));
        hash.update(
            format!("{cap} {includes} {effort:?} {seed} {calib_rows:?} {shape:?} {given} {heals} {objective:?}")
                .as_bytes(),
        );
        let run = hash.finalize().to_hex()[..32].to_string();
        Ok(Some(Ground { job, net, sample, others: heals.then_some(others), trials, run }))
    }

    fn original(&self) -> Result<Original<'_>> {
        Original::new(self.net, &self.job.model.params()?, Windows::new(&self.sample, self.net.context(), None))
    }

    /// An evaluator that packs into `budget` bytes.
    fn evaluator<'g>(
        &'g self,
        original: &'g Original<'g>,
        parts: Parts<'g>,
        known: Known,
        budget: u64,
    ) -> Result<Local<'g>> {
        let short = match &self.others {
            None => None,
            Some(calib) => {
                let teacher = Teacher::new(self.net, self.job.model.params()?);
                // No candidate's own: each is healed for as long as it is judged with care.
                let options = heal::Options {
                    checkpoint: None,
                    resume: false,
                    ..self.job.options.healing(Length::Gaining, PACE, budget)
                };
                Some(Short { calib: calib.clone(), teacher, options })
            }
        };
        Ok(Local::new(self.job, self.net, original, parts, known, budget, short))
    }
}

/// Searches over whole layers and branches.
fn structures(ground: &Ground, table: &Table, parts: &Parts, known: Known, budget: u64) -> Result<Climbed> {
    let Job { options, progress, .. } = ground.job;
    progress.begin("searching structures", 0);
    let original = ground.original()?;
    let local = ground.evaluator(&original, parts.clone(), known, budget)?;
    let heals = ground.others.is_some();
    let slack = if heals { HEALED } else { 1.0 };
    let start = Candidate { change: Move::Declared, scheme: parts.scheme().clone() };
    let bounds = Bounds { trials: ground.trials, slack, heals, stop: &|| (options.stop)() };
    // What starts from another layer is bound by it in healing: where all of it pays by itself, it may not together.
    let plain = Candidate { change: Move::Apart, scheme: options.shape.scheme(table)? };
    let plain = Some(plain).filter(|plain| heals && plain.scheme != start.scheme);
    let log = options.log.as_deref();
    let climbed = match &options.work {
        Work::Here => climb(&mut Logged::new(local, log, options.resume, &ground.run)?, table, start, plain, &bounds)?,
        Work::Workers { folder, start: workers } => {
            let pool = WorkerPool::new(local, folder, workers(folder)?, &ground.run)?;
            climb(&mut Logged::new(pool, log, options.resume, &ground.run)?, table, start, plain, &bounds)?
        }
    };
    progress.end();
    Ok(climbed)
}

/// Makes trials for another process.
///
/// # Errors
/// Input, when there is no network or no text to evaluate on.
pub(super) fn serve(job: Job, folder: &Path) -> Result<usize> {
    let budget = job.options.budget(job.options.cap);
    let table = table(job.model, job.metrics);
    let Begun { parts, known, .. } = begin(job, &table, budget)?;
    let ground = Ground::new(job, budget)?;
    let ground = ground.ok_or_else(|| Error::input("a worker needs a network and calibration tokens"))?;
    let original = ground.original()?;
    let mut local = ground.evaluator(&original, parts, known, budget)?;
    job.progress.begin("working", 0);
    let done = workers::serve(&mut local, folder, &ground.run)?;
    job.progress.end();
    Ok(done)
}
