//! `tiepack eval`: the loss of a model or an artifact.

use serde::Serialize;

use super::args::EvalArgs;
use super::files::{self, Validation};
use crate::artifact::open::open;
use crate::error::{Error, Result};
use crate::eval::sliding;
use crate::model::Model;
use crate::progress::Progress;
use crate::verify::verdict::{Evaluation, Loss, Note};
use crate::verify::{Trial, evaluate};

/// A measured loss.
#[derive(Debug, Serialize)]
pub struct Evaluated {
    /// What a person calls the model.
    pub model: String,
    /// Tokens that the window moved by; the row length when rows do not overlap.
    pub stride: usize,
    pub evaluation: Evaluation,
    pub notes: Vec<Note>,
}

/// # Errors
/// A file is unusable, there are no validation tokens, or the stride does not fit the model.
pub fn run(args: &EvalArgs, progress: &dyn Progress) -> Result<Evaluated> {
    let overrides = args.files.overrides(Some(&args.validation), &[]);
    let (model, validation) = if files::is_artifact(&args.model)? {
        let validation = Validation::beside(&args.model, &overrides)?;
        (open(&args.model)?.model, validation)
    } else {
        let (located, model) = files::model(&args.model, &args.files, &overrides)?;
        (model, Validation::of(&located))
    };
    let length = model.network()?.context();
    let stride = args.stride.unwrap_or(length);
    if !(1..=length).contains(&stride) {
        return Err(Error::usage(format!(
            "--stride {stride}: the model's rows are {length} tokens, wanted 1 to {length}"
        )));
    }
    let trial = validation.require(model.network()?.vocab_size(), args.val_rows, &args.model)?;
    let evaluation = match stride < length {
        true => slide(&model, &trial, stride, progress)?,
        false => evaluate(&model, &trial, progress)?,
    };
    let notes = if trial.table.is_none() { vec![Note::NoTokenizer] } else { Vec::new() };
    Ok(Evaluated { model: files::name(&args.model), stride, evaluation, notes })
}

fn slide(model: &Model, trial: &Trial, stride: usize, progress: &dyn Progress) -> Result<Evaluation> {
    let windows = trial.windows(model.network()?.context())?;
    let sample = trial.sample(&windows);
    progress.begin("evaluate, sliding", sliding::count(&windows, stride) as u64);
    let params = model.params()?;
    let nats = sliding::nats(model.network()?, &params, &trial.tokens, &windows, stride, &|n| progress.advance(n))?;
    progress.end();
    Ok(Evaluation {
        rows: windows.rows(),
        rows_available: sample.rows_available,
        row_length: windows.length(),
        tokens: windows.tokens(),
        text_bytes: sample.text_bytes,
        packed: Loss::new(nats, windows.tokens(), sample.text_bytes),
        cost: None,
    })
}
