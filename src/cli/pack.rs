//! `tiepack pack`: compile, write, reopen, prove.

use std::path::{Path, PathBuf};

use serde::Serialize;

use super::args::PackArgs;
use super::files::{self, Validation};
use super::{given, interrupt};
use crate::artifact::save;
use crate::compile::{Healed, Options, Source, compile};
use crate::error::{Error, Result};
use crate::heal::Course;
use crate::inspect::{self, Depth, Inventory};
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
    /// Where the bytes of the artifact go.
    pub ledger: Inventory,
    /// Seconds of every stage of the compilation, in order.
    pub stages: Vec<Stage>,
    /// Statistics were found from an earlier run.
    pub cached_statistics: bool,
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

/// # Errors
/// Whatever is wrong with the files; Cap when the model does not fit; Verification when the written file is not what
/// it should be. The old file at `--output` is only replaced by a complete new one.
pub fn run(args: &PackArgs, progress: &dyn Progress) -> Result<Packed> {
    // What can go wrong at once goes wrong before the hours of work.
    let includes = files::includes(&args.include)?;
    if includes >= args.cap {
        let [includes, cap] = [includes, args.cap].map(thousands);
        return Err(Error::cap(format!("the included files alone are {includes} bytes, the cap is {cap}"))
            .hint("raise --cap, or include less"));
    }
    save::check(&args.output)?;
    args.write_plan.iter().chain(&args.heal_checkpoint).try_for_each(|path| save::check(path))?;
    let measuring = &args.measuring;
    let overrides = args.files.overrides(Some(&args.validation), &measuring.calib);
    let device = args.device.open()?;
    let (located, model) = files::model(&args.model, &args.files, &overrides)?;
    let model = model.on(&device);
    let plan = args.plan.as_deref().map(given::plan).transpose()?;
    let curvature = match args.lossless {
        true => Source::Flat,
        false => measuring.curvature(&model)?,
    };
    let mut notes = notes(&model);
    let trial = match model.network() {
        Ok(net) if !args.no_eval => {
            let trial = Validation::of(&located).read(net.vocab_size(), args.val_rows)?;
            trial.iter().try_for_each(|trial| trial.windows(net.context()).map(drop))?;
            trial
        }
        _ => None,
    };
    let calib = match curvature {
        Source::Measured => Some(measuring.calibration((&args.model, &model), &located, &mut notes)?),
        _ => None,
    };
    let cache = if args.lossless { None } else { measuring.folder(&mut notes)? };

    let options = Options {
        cap: args.cap,
        includes,
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
        resume: args.resume,
        stop: Box::new(interrupt::interrupted),
    };
    interrupt::listen();
    let compiled = compile(&model, calib.as_deref(), &options, progress)?;
    // What was there before gives way only to a file that has been read back and proved.
    let staged = save::stage(&args.output, &compiled.bytes)?;
    let mut verdict = prove(args, staged.path(), &model, trial.as_ref(), &compiled.bytes, progress)?;
    let ledger = inspect::of_bytes(&args.output, &compiled.bytes, Depth::Container)?;
    let healing =
        compiled.healed.as_ref().map(|healed| healing(&model, healed, trial.as_ref(), progress)).transpose()?;
    staged.commit()?;
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
    verdict.budget = Some(Budget::new(verdict.artifact.bytes, includes, args.cap)?);
    if args.no_eval {
        verdict.notes = vec![Note::NotEvaluated];
    }
    verdict.notes.splice(0..0, notes);
    Ok(Packed {
        model: files::name(&args.model),
        output: args.output.clone(),
        verdict,
        ledger,
        stages: compiled.stages.into_iter().map(|(stage, seconds)| Stage { stage, seconds }).collect(),
        cached_statistics: compiled.cached_statistics,
        healing,
    })
}

/// Holds the model before healing against the original, as [`prove`] does that after it.
fn healing(model: &Model, healed: &Healed, trial: Option<&Trial>, progress: &dyn Progress) -> Result<Healing> {
    let before = trial.map(|trial| verify::cost(model, &healed.before, trial, progress)).transpose()?;
    Ok(Healing { before, course: healed.course.clone() })
}

/// Verifies the written file, read back from the disk, and that it is the one that was compiled.
fn prove(
    args: &PackArgs,
    written: &Path,
    model: &Model,
    trial: Option<&Trial>,
    compiled: &[u8],
    progress: &dyn Progress,
) -> Result<Verdict> {
    let verdict = verify::against(written, (&args.model, model), trial, progress)
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
