//! The run: steps, decisions about ties, rounding, checkpoints.

use std::path::{Path, PathBuf};
use std::time::Instant;

use serde_json::Value;
use tiepack::error::{Error, Result};
use tiepack::progress::Progress;
use tiepack::save;
use tiepack::text::thousands;
use tiepack::train::gradient::gradient;
use tiepack::train::objective::Objective;
use tiepack::train::rows::Rows;
use tiepack::train::schedule::{Fall, Schedule};

use super::args::{Args, Falling};
use super::controller::Controller;
use super::picture::picture;
use super::rounding::SETTLE_EVERY;
use super::state::{self, RunState};
use super::student::Student;

/// How much of the running mean of the loss a step leaves.
const TREND: f64 = 0.98;

/// What a run leaves, beside the student.
pub struct Course {
    /// Steps done, fewer than asked for if `--stop-after` ended the run.
    pub steps: usize,
    /// Running mean of the training loss, nats per token.
    pub training_loss: Option<f64>,
    /// Tokens of a step.
    pub step_tokens: usize,
    /// Median of the steps of this process.
    pub step_seconds: Option<f64>,
    pub decisions: usize,
}

pub fn checkpoint(out: &Path) -> PathBuf {
    out.join("checkpoint.safetensors")
}

/// Trains from where `run_state` is. `tokens` are those of training.
///
/// # Errors
/// Input, if the text is too short; Compute, if the run diverges: the last checkpoint stays.
pub fn train(
    args: &Args,
    tokens: &[u32],
    student: &mut Student,
    run_state: &mut RunState,
    progress: &dyn Progress,
) -> Result<Course> {
    // Rows are drawn one by one: neighbours are of one document, and a step of them learns clearly less.
    let pieces = (args.batch / args.context).max(1);
    let step_tokens = pieces * args.context;
    let mut rows = Rows::new(tokens, args.context, 1, args.seed, |_| true);
    if rows.pieces() < pieces {
        let [found, wanted] = [tokens.len(), step_tokens + 1].map(|n| thousands(n as u64));
        return Err(Error::input(format!("{found} training tokens are too few for a step, which takes {wanted}"))
            .hint("give more text, or a smaller --batch"));
    }
    // The order of the text is that of an unbroken run.
    (0..run_state.step).for_each(|_| drop(rows.batch(pieces)));
    let fall = match args.schedule {
        Falling::Cosine => Fall::Cosine,
        Falling::Linear => Fall::Linear(args.fall),
    };
    let schedule = Schedule { steps: args.steps, warmup: args.warmup.min(args.steps / 2), fall };
    let at = |share: f64| (share * args.steps as f64) as usize;
    let (first, last) = (at(args.decide[0]), at(args.decide[1]));
    let end = args.stop_after.map_or(args.steps, |n| args.steps.min(run_state.step + n));

    progress.begin("training", args.steps as u64);
    progress.advance(run_state.step as u64);
    let (began, begun) = (Instant::now(), run_state.step);
    let mut kept = args.resume.then_some(begun);
    let mut times = Vec::with_capacity(end.saturating_sub(begun));
    while run_state.step < end {
        let (step, clock) = (run_state.step, Instant::now());
        if let Some(controller) = run_state
            .controller
            .as_mut()
            .filter(|_| (first..last).contains(&step) && step.is_multiple_of(args.decide_every))
        {
            if let (Some(trend), false) = (run_state.trend, run_state.recent.is_empty()) {
                controller.reward(trend - run_state.recent.iter().sum::<f64>() / run_state.recent.len() as f64);
            }
            let part = (step - first) as f64 / (last - first) as f64;
            run_state.copies = controller.decide(step, part, &student.copies);
            student.retie(run_state.copies.clone())?;
            run_state.recent.clear();
        }
        let mut weights = student.weights();
        if let (Some(rounding), Some(how)) = (&mut run_state.rounding, args.pack_aware)
            && step >= at(args.pack_aware_from)
        {
            if step.is_multiple_of(SETTLE_EVERY) || rounding.constant == 0.0 {
                rounding.settle(&student.specs, &student.owners, &weights);
            }
            rounding.see(how, &student.owners, &mut weights, args.seed ^ ((step as u64 + 1) << 32));
        }
        let found = gradient(&student.model, &weights, None, &rows.batch(pieces), Objective::Data)?;
        let loss = found.totals.mean_loss();
        if !loss.is_finite() {
            return Err(diverged(args, &format!("the loss is {loss}"), step, kept));
        }
        if !found.tensors.iter().all(|g| finite(g)) {
            return Err(diverged(args, "a gradient is not finite", step, kept));
        }
        if let Some(rounding) = &mut run_state.rounding {
            rounding.watch(&student.specs, &student.owners, &found.tensors);
        }
        student.learn(&found.tensors, schedule.at(step));
        run_state.trend = Some(run_state.trend.map_or(loss, |trend| TREND * trend + (1.0 - TREND) * loss));
        run_state.recent.push(loss);
        if run_state.controller.is_none() || run_state.recent.len() > args.steps {
            run_state.recent.clear();
        }
        run_state.step += 1;
        times.push(clock.elapsed().as_secs_f64());
        progress.advance(1);
        let rate = ((run_state.step - begun) * step_tokens) as f64 / began.elapsed().as_secs_f64();
        let line = format!("loss {:.4}, {} tokens/s", run_state.trend.unwrap_or(loss), thousands(rate as u64));
        progress.status(&line);
        if step.is_multiple_of(args.report_every) {
            progress.note(&format!("step {step:5}  {line}  ties {:?}", student.copies));
        }
        if run_state.step == end && end < args.steps || run_state.step.is_multiple_of(args.checkpoint_every) {
            sound(args, student, step, kept)?;
            state::save(&checkpoint(&args.out), student, run_state)?;
            log(args, run_state, student.copies.len())?;
            kept = Some(run_state.step);
        }
    }
    sound(args, student, run_state.step, kept)?;
    progress.end();
    log(args, run_state, student.copies.len())?;
    times.sort_by(f64::total_cmp);
    Ok(Course {
        steps: run_state.step,
        training_loss: run_state.trend,
        step_tokens,
        step_seconds: times.get(times.len() / 2).copied(),
        decisions: run_state.controller.as_ref().map_or(0, |c| c.decisions.len()),
    })
}

/// Whether all are numbers: what is not one stays in the sum.
fn finite(values: &[f32]) -> bool {
    let mut sums = [0f32; 16];
    let (chunks, rest) = values.as_chunks::<16>();
    chunks.iter().for_each(|chunk| sums.iter_mut().zip(chunk).for_each(|(s, v)| *s += 0.0 * v));
    sums.iter().chain(rest).all(|v| v.is_finite())
}

/// Decisions as lines of JSON, and a picture of them.
fn log(args: &Args, run_state: &RunState, layers: usize) -> Result<()> {
    let Some(Controller { decisions, .. }) = &run_state.controller else { return Ok(()) };
    let line = |d| serde_json::to_value(d).unwrap_or(Value::Null).to_string() + "\n";
    save::save(&args.out.join("decisions.jsonl"), decisions.iter().map(line).collect::<String>().as_bytes())?;
    save::save(&args.out.join("ties.svg"), picture(decisions, layers, args.steps).as_bytes())
}

/// Nothing is written of a model that is lost.
fn sound(args: &Args, student: &Student, step: usize, kept: Option<usize>) -> Result<()> {
    match student.tensors.iter().all(|tensor| finite(&tensor.values)) {
        true => Ok(()),
        false => Err(diverged(args, "a weight is not finite", step, kept)),
    }
}

/// `kept` is the step of the last checkpoint of this run.
fn diverged(args: &Args, what: &str, step: usize, kept: Option<usize>) -> Error {
    let last = match kept {
        Some(kept) => format!("; {} holds step {kept}", checkpoint(&args.out).display()),
        None => "; no checkpoint had been written".into(),
    };
    Error::compute(format!("training diverged: {what} at step {step}{last}"))
        .hint("lower --matrix-rate, --embedding-rate or --vector-rate, or lengthen --warmup")
}
