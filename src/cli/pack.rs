//! `tiepack pack`: compile, write, reopen, prove.

use std::path::{Path, PathBuf};

use serde::Serialize;

use super::args::PackArgs;
use super::bundle::{Bundled, Bundling};
use super::files::{self, Validation};
use super::{given, interrupt, jobs, judged};
use crate::compile::{self, Healed, Options, Source, Structure, compile};
use crate::error::{Error, Result};
use crate::heal::Course;
use crate::inspect::{self, Depth, Inventory};
use crate::model::Model;
use crate::progress::Progress;
use crate::save;
use crate::text::thousands;
use crate::verify::verdict::{Budget, Evaluation, Note, Verdict};
use crate::verify::{self, Trial};

/// Bytes under the cap that a bundle may leave: filling them takes another search.
const SPARE: u64 = 48;

/// What a pack did.
#[derive(Debug, Serialize)]
pub struct Packed {
    /// What a person calls the model.
    pub model: String,
    pub output: PathBuf,
    pub verdict: Verdict,
    /// Where the bytes of the artifact go.
    pub ledger: Inventory,
    /// Seconds of every stage of the compilation, in order.
    pub stages: Vec<Stage>,
    /// Statistics were found from an earlier run.
    pub cached_statistics: bool,
    /// Ctrl-C ended search or healing early.
    pub interrupted: bool,
    /// What became of every matrix, where that was searched.
    pub structure: Option<Structure>,
    /// What `--bundle` made.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bundle: Option<Bundled>,
    /// What healing did; `None`: there was none.
    pub healing: Option<Healing>,
}

/// What healing did.
#[derive(Debug, Serialize)]
pub struct Healing {
    /// The validation tokens before healing; `None`: nobody wanted an evaluation.
    pub before: Option<Evaluation>,
    pub course: Course,
}

#[derive(Debug, Serialize)]
pub struct Stage {
    pub stage: String,
    pub seconds: f64,
}

/// What a worker did.
#[derive(Debug, Serialize)]
pub struct Worked {
    /// Structures that it tried.
    pub trials: usize,
}

/// What came of the command.
pub enum Done {
    Packed(Box<Packed>),
    Worked(Worked),
}

/// # Errors
/// Whatever is wrong with the files; Cap when the model does not fit; Verification when the written file is not what
/// it should be. The old file at `--output` is only replaced by a complete new one.
pub fn run(args: &PackArgs, progress: &dyn Progress) -> Result<Done> {
    // What can go wrong at once goes wrong before the hours of work.
    let includes = files::includes(&args.include)?;
    if includes >= args.cap {
        let [includes, cap] = [includes, args.cap].map(thousands);
        return Err(Error::cap(format!("the included files alone are {includes} bytes, the cap is {cap}"))
            .hint("raise --cap, or include less"));
    }
    if args.resume && args.heal_checkpoint.is_none() && args.search_log.is_none() {
        return Err(Error::usage("--resume needs a state to go on from")
            .hint("name it with --heal-checkpoint, --search-log, or both"));
    }
    let measuring = &args.measuring;
    let overrides = args.files.overrides(Some(&args.validation), (&measuring.calib, Some(&args.reading)));
    let located = files::locate(&args.model, &overrides)?;
    let bundling =
        args.bundle.as_deref().map(|script| Bundling::of_pack(script, &args.output, &args.include)).transpose()?;
    let device = args.device.open()?;
    let unrun = args.lossless || measuring.statistics.is_some();
    let read = if unrun { files::read_as_it_is } else { files::read };
    let model = read(&located, &args.files)?.on(&device).at(args.precision.dtype());
    let plan = args.plan.as_deref().map(|path| given::plan(path, &model)).transpose()?;
    let curvature = match args.lossless {
        true => Source::Flat,
        false => measuring.curvature(&model)?,
    };
    let overhead = bundling.as_ref().map_or(Ok(0), |b| b.overhead(&model, args.cap - includes))?;
    let mut notes = notes(&model);
    let trial = match model.network() {
        Ok(net) if !args.no_eval && args.judging.evaluator.is_none() => {
            let trial = Validation::of(&located).read(net.vocab_size(), args.val_rows)?;
            trial.iter().try_for_each(|trial| trial.windows(net.context()).map(drop))?;
            trial
        }
        _ => None,
    };
    if args.worker.is_none() {
        interrupt::listen();
    }
    let judging = args.judging.judge().map(|judge| judged::before(judge, &model, progress)).transpose()?;
    let calib = match curvature {
        Source::Measured => Some(measuring.calibration((&args.model, &model), &located, &mut notes, progress)?),
        _ => None,
    };
    let cache = if args.lossless { None } else { measuring.folder(&mut notes)? };
    let (work, _folder) = jobs::work(args)?;

    let mut options = Options {
        cap: args.cap,
        includes: includes + overhead,
        effort: measuring.effort,
        seed: measuring.seed,
        lossless: args.lossless,
        calib_rows: measuring.rows(),
        cache,
        curvature,
        plan,
        heal: args.heal,
        objective: args.heal_loss,
        checkpoint: args.heal_checkpoint.clone(),
        shape: args.shape.clone(),
        trials: args.trials,
        stop: Box::new(interrupt::interrupted),
        log: args.search_log.clone(),
        resume: args.resume,
        work,
    };
    if let Some(folder) = &args.worker {
        return Ok(Done::Worked(Worked {
            trials: compile::work(&model, calib.as_deref(), &options, folder, progress)?,
        }));
    }
    let mut kept = None;
    let (compiled, bundle) = loop {
        let compiled = compile(&model, calib.as_deref(), &options, progress)?;
        let Some(bundle) = bundling.as_ref().map(|b| b.make(&compiled.bytes)).transpose()? else {
            break (compiled, None);
        };
        // The bundle's size was a forecast, good to a few bytes where it takes the codecs that were expected.
        let Some(free) = args.cap.checked_sub(bundle.bytes() + includes) else {
            if let Some(kept) = kept {
                break kept;
            }
            options.includes += bundle.bytes() + includes - args.cap;
            continue;
        };
        // Searching again is worth some bytes; measuring and healing again are not.
        let quick = !interrupt::heeded()
            && compiled.healed.is_none()
            && (calib.is_none() || options.cache.is_some())
            && !args.lossless;
        if kept.is_some() || !quick || free <= SPARE.max(args.cap / 1000) || free > options.includes {
            break (compiled, Some(bundle));
        }
        options.includes -= bundling.as_ref().map_or(free, |b| b.holds(free)) - SPARE / 2;
        kept = Some((compiled, Some(bundle)));
    };
    let interrupted = interrupt::heeded();
    // What was there before gives way only to a file that has been read back and proved.
    let staged = save::stage(&args.output, &compiled.bytes)?;
    let mut verdict =
        prove(args, (staged.path(), &compiled.bytes), &model, trial.as_ref(), options.cache.as_deref(), progress)?;
    let before = (trial.as_ref(), options.cache.as_deref());
    let healing = compiled.healed.as_ref().map(|healed| healing(&model, healed, before, progress)).transpose()?;
    if let Some(judging) = judging {
        verdict.judged = Some(judging.after(args, &compiled.bytes, progress)?);
        verdict.notes.clear();
    }
    let ledger = inspect::of_bytes(&args.output, &compiled.bytes, Depth::Container)?;
    staged.commit()?;
    let bundle = bundle.map(|bundle| bundle.write()).transpose()?;
    if let Some(path) = &args.write_plan {
        save::save(path, compiled.plan.to_json().as_bytes())?;
    }
    if !compiled.dead.is_empty() {
        notes.push(Note::Dead(compiled.dead));
    }
    if !compiled.unmeasured.is_empty() {
        notes.push(Note::Unmeasured(compiled.unmeasured));
    }
    verdict.artifact.path = args.output.display().to_string();
    verdict.budget = Some(match &bundle {
        None => Budget::new(verdict.artifact.bytes, includes, args.cap)?,
        Some(bundle) => {
            Budget::new(verdict.artifact.bytes, includes + bundle.beside(verdict.artifact.bytes), args.cap)?
        }
    });
    if args.no_eval && verdict.judged.is_none() {
        verdict.notes = vec![Note::NotEvaluated];
    }
    if interrupted {
        notes.push(Note::Interrupted);
    }
    verdict.notes.splice(0..0, notes);
    Ok(Done::Packed(Box::new(Packed {
        model: files::name(&args.model),
        output: args.output.clone(),
        verdict,
        ledger,
        stages: compiled.stages.into_iter().map(|(stage, seconds)| Stage { stage, seconds }).collect(),
        cached_statistics: compiled.cached_statistics,
        interrupted,
        structure: compiled.structure,
        bundle,
        healing,
    })))
}

/// Holds the model before healing against the original, as [`prove`] does that after it.
fn healing(
    model: &Model,
    healed: &Healed,
    (trial, memory): (Option<&Trial>, Option<&Path>),
    progress: &dyn Progress,
) -> Result<Healing> {
    let before =
        trial.map(|trial| verify::cost("compare unhealed", (model, &healed.before), (trial, memory), progress));
    let before = before.transpose()?;
    Ok(Healing { before, course: healed.course.clone() })
}

/// Verifies the written file, read back from the disk, and that it is the one that was compiled.
fn prove(
    args: &PackArgs,
    (written, compiled): (&Path, &[u8]),
    model: &Model,
    trial: Option<&Trial>,
    cache: Option<&Path>,
    progress: &dyn Progress,
) -> Result<Verdict> {
    let verdict = verify::against(written, (&args.model, model), trial, cache, progress)
        .map_err(|e| Error { message: format!("the written artifact does not verify: {}", e.message), ..e })?;
    let output = args.output.display();
    if verdict.artifact.blake3 != blake3::hash(compiled).to_hex().as_str() {
        return Err(Error::verification(format!("{output} does not hold what was written to it"))
            .hint("did something else write it meanwhile?"));
    }
    if let Some(against) = verdict.against.as_ref().filter(|_| args.lossless)
        && against.identical != against.tensors
    {
        let (same, all) = (against.identical, against.tensors);
        return Err(Error::verification(format!("{output}: only {same} of {all} tensors came through unchanged")));
    }
    Ok(verdict)
}

/// What is worth knowing about the model before it is packed.
pub fn notes(model: &Model) -> Vec<Note> {
    let mut notes: Vec<Note> = model.remarks.iter().cloned().map(Note::Input).collect();
    if !model.ties.found.is_empty() {
        notes.push(Note::UndeclaredTies(model.ties.found.len()));
    }
    if !model.ties.retied.is_empty() {
        let largest = model.ties.retied.iter().map(|(_, change)| *change).fold(0.0, f32::max);
        notes.push(Note::Retied(model.ties.retied.len(), format!("{largest:.2e}")));
    }
    notes
}
