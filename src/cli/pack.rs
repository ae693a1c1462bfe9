//! `tiepack pack`: compile, write, reopen, prove.

use std::path::{Path, PathBuf};

use serde::Serialize;

use super::args::PackArgs;
use super::bundle::{Bundled, Bundling};
use super::files::{self, Validation};
use super::{given, guard, interrupt, jobs};
use crate::artifact::save;
use crate::compile::{self, Healed, Options, Source, Structure, compile};
use crate::error::{Error, Result};
use crate::heal::Course;
use crate::ingest::{Overlap, folder, overlap};
use crate::model::Model;
use crate::progress::Progress;
use crate::text::thousands;
use crate::verify::verdict::{Budget, Evaluation, Note, Verdict};
use crate::verify::{self, Trial};

/// What a pack did.
#[derive(Debug, Serialize)]
pub struct Packed {
    /// What a person calls the model.
    pub model: String,
    pub output: PathBuf,
    pub verdict: Verdict,
    /// Seconds of every stage of the compilation, in order.
    pub stages: Vec<Stage>,
    /// Statistics were found from an earlier run.
    pub cached_statistics: bool,
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
    let overrides = args.files.overrides(Some(&args.validation), &args.calib);
    let located = folder::locate(&args.model, &overrides)?;
    let files = [&args.output].into_iter().chain(&args.write_plan).chain(&args.heal_checkpoint).chain(&args.search_log);
    let outputs: Vec<&Path> = files.map(PathBuf::as_path).collect();
    let others = args.include.iter().chain(&args.statistics).chain(&args.plan).cloned();
    guard::outputs(&outputs, &located.files().into_iter().chain(others).collect::<Vec<_>>())?;
    outputs.iter().try_for_each(|path| save::check(path))?;
    let device = args.device.open()?;
    let model = files::read(&located, &args.files)?.on(&device).at(args.precision.dtype());
    let plan = args.plan.as_deref().map(given::plan).transpose()?;
    let curvature = given::curvature(args.statistics.as_deref(), &model)?;
    let measures = !args.lossless && matches!(curvature, Source::Measured);
    if measures {
        model.network().map_err(|e| match e.hint {
            Some(hint) => Error { hint: Some(format!("{hint}; or give curvature with --statistics")), ..e },
            None => e,
        })?;
    }
    let bundling = args.bundle.as_deref().map(|script| Bundling::of_pack(script, &args.output)).transpose()?;
    let overhead = bundling.as_ref().map_or(Ok(0), |b| b.overhead(&model, args.cap))?;
    let mut notes = notes(&model);
    let trial = match model.network() {
        Ok(net) if !args.no_eval => {
            let trial = Validation::of(&located).read(net.vocab_size(), args.val_rows)?;
            trial.iter().try_for_each(|trial| trial.windows(net.context()).map(drop))?;
            trial
        }
        _ => None,
    };
    let calib = match measures {
        false => None,
        true => Some(calibration(args, &located.train, &located.val, &model, &mut notes)?),
    };
    let cache = cache(args, &mut notes)?;
    let (work, _folder) = jobs::work(args)?;

    let mut options = Options {
        cap: args.cap,
        includes: includes + overhead,
        effort: args.effort,
        seed: args.seed,
        lossless: args.lossless,
        // More rows than there are is all of them.
        calib_rows: args.calib_rows.map(|rows| rows.limit().unwrap_or(usize::MAX)),
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
    interrupt::listen();
    let (compiled, bundle) = loop {
        let compiled = compile(&model, calib.as_deref(), &options, progress)?;
        let bundle = bundling.as_ref().map(|b| b.make(&compiled.bytes)).transpose()?;
        // The bundle's size was a forecast, good to a few bytes.
        match bundle.as_ref().map_or(0, |bundle| (bundle.bytes() + includes).saturating_sub(args.cap)) {
            0 => break (compiled, bundle),
            over => options.includes += over,
        }
    };
    // What was there before gives way only to a file that has been read back and proved.
    let staged = save::stage(&args.output, &compiled.bytes)?;
    let mut verdict =
        prove(args, (staged.path(), &compiled.bytes), &model, trial.as_ref(), options.cache.as_deref(), progress)?;
    let before = (trial.as_ref(), options.cache.as_deref());
    let healing = compiled.healed.as_ref().map(|healed| healing(&model, healed, before, progress)).transpose()?;
    staged.commit()?;
    let bundle = bundle.map(|bundle| bundle.write()).transpose()?;
    if let Some(path) = &args.write_plan {
        save::save(path, compiled.plan.to_json().as_bytes())?;
    }
    if !compiled.silent.is_empty() {
        notes.push(Note::Silent(compiled.silent));
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
    if args.no_eval {
        verdict.notes = vec![Note::NotEvaluated];
    }
    verdict.notes.splice(0..0, notes);
    Ok(Done::Packed(Box::new(Packed {
        model: files::name(&args.model),
        output: args.output.clone(),
        verdict,
        stages: compiled.stages.into_iter().map(|(stage, seconds)| Stage { stage, seconds }).collect(),
        cached_statistics: compiled.cached_statistics,
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
    let before = trial.map(|trial| verify::cost(model, &healed.before, (trial, memory), progress)).transpose()?;
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
fn notes(model: &Model) -> Vec<Note> {
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

/// The calibration tokens, without the rows that share text with the validation tokens.
fn calibration(
    args: &PackArgs,
    train: &[PathBuf],
    val: &[PathBuf],
    model: &Model,
    notes: &mut Vec<Note>,
) -> Result<Vec<u16>> {
    if train.is_empty() {
        let model = args.model.display();
        return Err(Error::input(format!("no calibration tokens: there is no train_*.bin beside {model}"))
            .hint("name a token shard with --calib, or pack with --lossless, which needs none"));
    }
    let vocab = model.network()?.vocab_size();
    let train = files::shards(train, vocab)?;
    // Also with --no-eval: the artifact will be judged on these tokens sooner or later.
    let val = files::shards(val, vocab)?;
    let (mut shared, mut longest, mut start) = (Vec::new(), None::<Overlap>, 0);
    for shard in &train {
        for val in &val {
            let Some(found) = overlap::find(&shard.tokens, &val.tokens) else { continue };
            if !args.allow_overlap {
                overlap::refuse(&found, (&shard.path, &shard.tokens), &val.path)?;
            }
            shared.extend(found.runs.iter().map(|run| run.start + start..run.end + start));
            longest = longest.into_iter().chain([found]).max_by_key(|found| found.tokens);
        }
        start += shard.tokens.len();
    }
    let given: Vec<u16> = train.into_iter().flat_map(|shard| shard.tokens).collect();
    let length = model.network()?.context();
    let tokens = match longest {
        None => given,
        Some(longest) if args.allow_overlap => {
            notes.push(Note::Overlap(longest.tokens));
            given
        }
        Some(longest) => {
            let (kept, left_out) = overlap::without(&given, &shared, length);
            overlap::enough(given.len(), kept.len())?;
            notes.push(Note::LeftOut { rows: left_out, of: given.len().div_ceil(length), longest: longest.tokens });
            kept
        }
    };
    let (found, wanted) = (tokens.len(), length + 1);
    if found < wanted {
        return Err(Error::input(format!("{found} calibration tokens fill no row, one takes {wanted}"))
            .hint("name another token shard with --calib, or pack with --lossless"));
    }
    Ok(tokens)
}

/// The folder for what can be had again without computing it, there by now.
fn cache(args: &PackArgs, notes: &mut Vec<Note>) -> Result<Option<PathBuf>> {
    if args.no_cache || args.lossless {
        return Ok(None);
    }
    if let Some(folder) = &args.cache {
        std::fs::create_dir_all(folder).map_err(|e| Error::io("create", folder, e))?;
        return Ok(Some(folder.clone()));
    }
    // Nobody asked for this one: that it cannot be had is worth a note, not a failure.
    let made = user_cache().ok_or_else(|| "there is no home folder".to_string()).and_then(|folder| {
        std::fs::create_dir_all(&folder).map(|()| folder.clone()).map_err(|e| format!("{}: {e}", folder.display()))
    });
    match made {
        Ok(folder) => Ok(Some(folder)),
        Err(why) => {
            notes.push(Note::NoCache(why));
            Ok(None)
        }
    }
}

/// `tiepack` in the folder that the platform has for caches.
fn user_cache() -> Option<PathBuf> {
    let set = |name: &str| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let home = |below: &str| set("HOME").map(|home| home.join(below));
    let base = if cfg!(windows) {
        set("LOCALAPPDATA")
    } else if cfg!(target_os = "macos") {
        home("Library/Caches")
    } else {
        set("XDG_CACHE_HOME").or_else(|| home(".cache"))
    };
    base.map(|base| base.join(Path::new("tiepack")))
}
