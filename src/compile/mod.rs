//! The driver: the only place that knows all stages from a checked model to the bytes of its artifact.

mod exact;
mod execute;
mod farm;
mod heal;
mod judge;
mod metrics;
mod offers;
mod parts;
mod pieces;
pub mod predict;
mod search;
mod statistics;
mod structure;
mod target;
pub mod trials;

use std::path::{Path, PathBuf};
use std::process::Child;
use std::sync::Arc;
use std::time::Instant;

use metrics::Metrics;
use parts::Finished;
use pieces::file;
pub use pieces::header;
pub use structure::{Next, Row, Searched, Structure};

use crate::error::{Error, Result};
use crate::heal::{Course, Length, Pace};
use crate::measure::Statistics;
use crate::model::Model;
use crate::plan::Plan;
use crate::plan::shape::Shape;
use crate::progress::Progress;
use crate::text::thousands;
use crate::train::objective::Objective;
use crate::train::teacher::Teacher;

/// How much time a better result is worth.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Effort {
    /// Few calibration tokens and a small trellis: for a first look.
    Fast,
    /// Minutes for a model of a few million weights.
    Normal,
    /// Four times the calibration tokens and the largest trellis.
    Max,
}

impl Effort {
    /// Calibration tokens to measure the curvature on.
    fn calibration_tokens(self) -> usize {
        match self {
            Effort::Fast => 1 << 15,
            Effort::Normal => 9 << 14,
            Effort::Max => 9 << 16,
        }
    }

    /// How long to heal, where nobody says so: not at all, about as long as the rest takes, as long as it gains.
    fn healing(self) -> Option<Length> {
        match self {
            Effort::Fast => None,
            Effort::Normal => Some(Length::Steps(60)),
            Effort::Max => Some(Length::Gaining),
        }
    }

    /// Calibration tokens that structures are judged on.
    fn judged_tokens(self) -> usize {
        match self {
            Effort::Fast => 1 << 12,
            Effort::Normal => 1 << 13,
            Effort::Max => 1 << 14,
        }
    }

    /// Structures packed and judged of a model that has `bits` for every weight, where nobody says how many.
    fn trials(self, bits: f64) -> usize {
        match self {
            Effort::Fast => 0,
            Effort::Normal | Effort::Max if bits > SCARCE => 0,
            Effort::Normal => 8,
            Effort::Max => 60,
        }
    }

    /// Trellis states of the final search.
    fn states(self) -> usize {
        match self {
            Effort::Fast => 8,
            Effort::Normal => 32,
            Effort::Max => 128,
        }
    }
}

/// What to pack into.
pub struct Options {
    /// Bytes that the artifact and everything included with it may take.
    pub cap: u64,
    /// Bytes of the files that count against the cap beside the artifact.
    pub includes: u64,
    pub effort: Effort,
    pub seed: u64,
    /// Store every tensor exactly.
    pub lossless: bool,
    /// Calibration rows instead of what the effort says.
    pub calib_rows: Option<usize>,
    /// Folder of cached statistics; `None`: no cache.
    pub cache: Option<PathBuf>,
    /// Where the curvature comes from.
    pub curvature: Source,
    /// What to make instead of what a search would find.
    pub plan: Option<Plan>,
    pub heal: Heal,
    pub objective: Objective,
    /// Where the state of healing is kept.
    pub checkpoint: Option<PathBuf>,
    /// Which layers share; [`Shape::Auto`]: what a search finds.
    pub shape: Shape,
    /// Structures with shared or left out layers to pack and judge at most; 0: none, `None`: as many as usual where bytes are scarce.
    pub trials: Option<usize>,
    /// Asked from time to time: whether to end search and healing with the best so far.
    pub stop: Box<dyn Fn() -> bool + Sync>,
    /// Where every trial is logged.
    pub log: Option<PathBuf>,
    /// Go on from the log and the checkpoint.
    pub resume: bool,
    /// Who makes the trials.
    pub work: Work,
}

impl Options {
    /// The defaults for a cap: curvature is measured, structures are searched, nothing is healed or kept.
    pub fn new(cap: u64, effort: Effort) -> Options {
        Options {
            cap,
            includes: 0,
            effort,
            seed: 0,
            lossless: false,
            calib_rows: None,
            cache: None,
            curvature: Source::Measured,
            plan: None,
            shape: Shape::Auto,
            trials: None,
            heal: Heal::Off,
            objective: Objective::Kl,
            checkpoint: None,
            stop: Box::new(|| false),
            log: None,
            resume: false,
            work: Work::Here,
        }
    }
}

/// Starts workers that look for tasks in a folder.
pub type Start = Box<dyn Fn(&Path) -> Result<Vec<Child>> + Sync>;

/// Whether to heal, and how long.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Heal {
    /// As the effort says, where there is a network and calibration text.
    Auto,
    Off,
    For(Length),
}

/// Who makes the trials of a search over structures.
pub enum Work {
    /// This process.
    Here,
    /// Processes that find tasks in a folder; `start` starts those that are ours.
    Farm { folder: PathBuf, start: Start },
}

/// Where the curvature of the loss comes from.
pub enum Source {
    /// It is measured on the calibration tokens.
    Measured,
    /// Somebody measured it before.
    Given(Statistics),
    /// Nobody did: every weight counts alike.
    Flat,
}

/// An artifact, and how it came about.
pub struct Compiled {
    /// The whole file.
    pub bytes: Vec<u8>,
    /// What it is made of.
    pub plan: Plan,
    /// Stages and their seconds.
    pub stages: Vec<(String, f64)>,
    pub cached_statistics: bool,
    /// Matrices that nothing depends on, though they are not zero: stored as zeros.
    pub silent: Vec<String>,
    /// Matrices of whose curvature nothing was known, though that of others was.
    pub unmeasured: Vec<String>,
    /// What became of every matrix, where that was searched.
    pub structure: Option<Structure>,
    pub healed: Option<Healed>,
}

/// What healing started from, and how it went.
pub struct Healed {
    /// The model before, as its file would have been.
    pub before: Model,
    pub course: Course,
}

/// Bits per weight below which sharing what was trained apart may beat coarser grids: on the models that we measured, grids win by
/// far at 2, nothing that is shared pays at 1.5, and ties win at 1.
const SCARCE: f64 = 1.4;
/// Bits per weight from which an exact copy may fit: trained weights in bf16 carry 10 to 11.
const MAYBE_EXACT: f64 = 7.0;

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
pub fn compile(model: &Model, calib: Option<&[u16]>, options: &Options, progress: &dyn Progress) -> Result<Compiled> {
    let mut found = Err(Error::compute("nothing was compiled"));
    compile_each(model, calib, options, &[options.cap], progress, &mut |_, compiled| {
        found = compiled;
        Ok(())
    })?;
    found
}

/// Packs a model once for each of `caps`, which stand for `options.cap`, and measures its loss once for all of them: every
/// file is the one that [`compile`] makes for its cap. `each` gets the index of a cap and what came of it; caps that hold
/// the model bit for bit come first.
///
/// # Errors
/// Whatever concerns all caps alike, and those of `each`. A cap that is too small is an error that `each` gets.
pub fn compile_each(
    model: &Model,
    calib: Option<&[u16]>,
    options: &Options,
    caps: &[u64],
    progress: &dyn Progress,
    each: &mut dyn FnMut(usize, Result<Compiled>) -> Result<()>,
) -> Result<()> {
    let budget = |cap: u64| cap.saturating_sub(options.includes);
    // What can go wrong with a plan goes wrong before anything is measured.
    options.plan.iter().try_for_each(|plan| check(plan, model))?;
    let mut timer = Timer::default();
    let mut exact: Option<(Plan, Vec<u8>)> = None;
    let mut left = Vec::new();
    for (at, cap) in caps.iter().enumerate() {
        let maybe_exact = budget(*cap) as f64 * 8.0 > MAYBE_EXACT * model.weights() as f64;
        if !options.lossless && (options.plan.is_some() || !maybe_exact) {
            left.push(at);
            continue;
        }
        let (plan, bytes) = match exact.take() {
            Some(made) => exact.insert(made),
            None => {
                let (plan, metrics) = (exact::plan(model), Metrics::new(model, None));
                let pieces = timer.stage("code", || execute::execute(&plan, model, &metrics, progress))?;
                exact.insert((plan, file(model, pieces)?))
            }
        };
        if bytes.len() as u64 <= budget(*cap) {
            if !options.lossless {
                progress.note("the exact model fits the cap: nothing needs to be quantized");
            }
            let (bytes, plan, stages, none) = (bytes.clone(), plan.clone(), timer.take(), Vec::new);
            each(
                at,
                Ok(Compiled {
                    bytes,
                    plan,
                    stages,
                    cached_statistics: false,
                    silent: none(),
                    unmeasured: none(),
                    structure: None,
                    healed: None,
                }),
            )?;
        } else if options.lossless {
            let refusal = too_large(options, budget(*cap), bytes.len() as u64);
            each(at, Err(refusal.hint("leave out --lossless, or raise the cap")))?;
        } else {
            left.push(at);
        }
    }
    if left.is_empty() {
        return Ok(());
    }
    let gathered = match options.curvature {
        Source::Measured => timer.stage("measure", || gather(model, calib, options, progress))?,
        _ => Gathered(None),
    };
    let (statistics, cached_statistics) = gathered.of(options);
    let metrics = Metrics::new(model, statistics);
    for at in left {
        let quantized = quantized(model, &metrics, calib, options, budget(caps[at]), &mut timer, progress);
        each(at, quantized.map(|compiled| Compiled { cached_statistics, ..compiled }))?;
    }
    Ok(())
}

/// A file of at most `budget` bytes, by the plan that was given or by a search.
fn quantized(
    model: &Model,
    metrics: &Metrics,
    calib: Option<&[u16]>,
    options: &Options,
    budget: u64,
    timer: &mut Timer,
    progress: &dyn Progress,
) -> Result<Compiled> {
    let (plan, pieces, mut structure) = timer.stage("search", || match &options.plan {
        Some(plan) => Ok((plan.clone(), execute::execute(plan, model, metrics, progress)?, None)),
        None => search::search((model, calib), metrics, options, budget, progress)
            .map(|(Finished { plan, pieces, .. }, structure)| (plan, pieces, Some(structure))),
    })?;
    let (pieces, healed) = match length(model, calib, options, progress)? {
        Some((length, calib)) => timer.stage("heal", || {
            let before = model.with_data(pieces.decoded.iter().map(|data| Arc::new(data.clone())).collect());
            let Options { objective, seed, resume, .. } = *options;
            let (checkpoint, stop, pace) = (options.checkpoint.clone(), &*options.stop, Pace::USUAL);
            let teacher = &Teacher::new(model.network()?, model.params()?);
            let healing = heal::Healing { teacher, length, pace, objective, seed, budget, checkpoint, resume, stop };
            let (pieces, course) = heal::heal(model, metrics, (&plan, pieces), calib, healing, progress)?;
            Ok::<_, Error>((pieces, Some(Healed { before, course })))
        })?,
        None => (pieces, None),
    };
    structure.iter_mut().for_each(|structure| structure.takes(model, &pieces.entries));
    let bytes = file(model, pieces)?;
    if bytes.len() as u64 > budget {
        let size = bytes.len() as u64;
        return Err(match options.plan {
            Some(_) => too_large(options, budget, size).hint("raise the cap, or write a coarser plan"),
            None => {
                Error::compute(format!("the planned artifact came out at {size} bytes, over the {budget} it may have"))
            }
        });
    }
    let named = |wanted: &dyn Fn(usize) -> bool| -> Vec<String> {
        (0..model.stored.len()).filter(|i| wanted(*i)).map(|i| model.spec(i).name.clone()).collect()
    };
    let silent = named(&|i| metrics.vanishes(model, i) && model.stored[i].data.iter().any(|v| *v != 0.0));
    let unmeasured = named(&|i| metrics.is_guessed(i));
    Ok(Compiled { bytes, plan, stages: timer.take(), cached_statistics: false, silent, unmeasured, structure, healed })
}

/// How long to heal, and on what; `None`: not at all.
fn length<'a>(
    model: &Model,
    calib: Option<&'a [u16]>,
    options: &Options,
    progress: &dyn Progress,
) -> Result<Option<(Length, &'a [u16])>> {
    let length = match options.heal {
        Heal::Off => None,
        Heal::Auto => options.effort.healing(),
        Heal::For(length) => Some(length),
    };
    let Some(length) = length else { return Ok(None) };
    let able = model.network().and_then(|net| {
        let calib =
            calib.ok_or_else(|| Error::input("healing needs calibration tokens").hint("give some with --calib"))?;
        crate::heal::enough(net.context(), calib.len()).map(|()| (length, calib))
    });
    match (able, options.heal) {
        (Ok(able), _) => Ok(Some(able)),
        (Err(why), Heal::For(_)) => Err(why),
        (Err(why), _) => {
            progress.note(&format!("not healed: {}", why.message));
            Ok(None)
        }
    }
}

/// Makes trials for a search in another process, until that sends everybody home; returns how many.
///
/// # Errors
/// As [`compile`]; what goes wrong with a trial is told to the other process.
pub fn work(
    model: &Model,
    calib: Option<&[u16]>,
    options: &Options,
    folder: &Path,
    progress: &dyn Progress,
) -> Result<usize> {
    let gathered = gather(model, calib, options, progress)?;
    let metrics = Metrics::new(model, gathered.of(options).0);
    let budget = options.cap.saturating_sub(options.includes);
    search::serve((model, calib), &metrics, options, (budget, folder), progress)
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

fn gather(model: &Model, calib: Option<&[u16]>, options: &Options, progress: &dyn Progress) -> Result<Gathered> {
    let Source::Measured = options.curvature else { return Ok(Gathered(None)) };
    let calib = calib.ok_or_else(|| {
        Error::input("packing below the exact size needs calibration tokens, and no training shard was found")
            .hint("give one with --calib, or pack with --lossless")
    })?;
    statistics::gather(model, calib, options, progress).map(|gathered| Gathered(Some(gathered)))
}

fn too_large(options: &Options, budget: u64, needed: u64) -> Error {
    let includes = options.includes;
    let [cap, includes, needed, smallest] = [budget + includes, includes, needed, needed + includes].map(thousands);
    Error::cap(format!(
        "the model does not fit: the cap is {cap} bytes, {includes} of them are taken by included files, and the smallest \
         artifact has {needed} bytes; the smallest cap that would do is {smallest}"
    ))
}

#[derive(Default)]
struct Timer {
    stages: Vec<(String, f64)>,
}

impl Timer {
    /// The stages since the last time.
    fn take(&mut self) -> Vec<(String, f64)> {
        std::mem::take(&mut self.stages)
    }

    fn stage<T>(&mut self, name: &str, run: impl FnOnce() -> T) -> T {
        let start = Instant::now();
        let out = run();
        self.stages.push((name.to_string(), start.elapsed().as_secs_f64()));
        out
    }
}
