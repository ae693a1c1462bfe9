//! Checkpoints: all that a run needs to go on as if nothing had been.

use std::collections::HashMap;
use std::path::Path;

use safetensors::tensor::{Dtype, SafeTensors, TensorView};
use serde::{Deserialize, Serialize};
use tiepack::error::{Error, Result};
use tiepack::save;

use super::controller::Controller;
use super::rounding::Rounding;
use super::student::{Memory, Student};

const STATE_FIELD: &str = "standing";

/// The state of a run, apart from its tensors.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct RunState {
    /// Of everything that the run depends on: blake3 in hexadecimal.
    pub key: String,
    /// Steps done.
    pub step: usize,
    pub copies: Vec<usize>,
    /// Steps of every optimiser of Adam's kind, by spec.
    pub adam_steps: Vec<i32>,
    /// Running mean of the loss, and losses since the last decision.
    pub trend: Option<f64>,
    pub recent: Vec<f64>,
    pub controller: Option<Controller>,
    pub rounding: Option<Rounding>,
}

/// Every vector of a run by name, to be written or filled.
fn vectors<'a>(student: &'a mut Student, controller: Option<&'a mut Controller>) -> Vec<(String, &'a mut Vec<f32>)> {
    let mut all = Vec::new();
    for (spec, tensor) in student.specs.iter().zip(&mut student.tensors) {
        all.push((spec.name.clone(), &mut tensor.values));
        match &mut tensor.memory {
            Memory::Muon(muon) => all.push((format!("{}:velocity", spec.name), &mut muon.velocity)),
            Memory::Adam(adam) => {
                all.push((format!("{}:first", spec.name), &mut adam.first));
                all.push((format!("{}:second", spec.name), &mut adam.second));
            }
        }
    }
    if let Some(controller) = controller {
        all.push(("controller".into(), &mut controller.weights));
        all.push(("controller:first".into(), &mut controller.adam.first));
        all.push(("controller:second".into(), &mut controller.adam.second));
    }
    all
}

/// Writes a checkpoint; what was there before gives way only to a complete new one.
///
/// # Errors
/// If the file cannot be written.
pub fn save(path: &Path, student: &mut Student, run_state: &mut RunState) -> Result<()> {
    let steps = |memory: &Memory| if let Memory::Adam(adam) = memory { adam.steps } else { 0 };
    run_state.adam_steps = student.tensors.iter().map(|t| steps(&t.memory)).collect();
    run_state.adam_steps.push(run_state.controller.as_ref().map_or(0, |c| c.adam.steps));
    let text = serde_json::to_string(run_state).map_err(|e| Error::compute(format!("no checkpoint: {e}")))?;
    let bytes = |(name, values): (String, &mut Vec<f32>)| (name, values.iter().flat_map(|v| v.to_le_bytes()).collect());
    let parts: Vec<(String, Vec<u8>)> =
        vectors(student, run_state.controller.as_mut()).into_iter().map(bytes).collect();
    let failed = |e: safetensors::SafeTensorError| Error::compute(format!("no checkpoint: {e}"));
    let view = |(name, bytes)| {
        Ok((name, TensorView::new(Dtype::F32, vec![<Vec<u8>>::len(bytes) / 4], bytes).map_err(failed)?))
    };
    let views: Vec<_> = parts.iter().map(|(name, bytes)| view((name, bytes))).collect::<Result<_>>()?;
    let metadata = HashMap::from([(STATE_FIELD.to_string(), text)]);
    save::save(path, &safetensors::serialize(views, Some(metadata)).map_err(failed)?)
}

/// Takes up a checkpoint of the run of this key.
///
/// # Errors
/// Input, when there is none, or it is another run's.
pub fn load(path: &Path, key: &str, student: &mut Student, controller: Option<Controller>) -> Result<RunState> {
    let bytes = std::fs::read(path).map_err(|e| {
        Error::io("read", path, e).hint("leave out --resume to begin a run; it writes checkpoints as it goes")
    })?;
    let broken = || Error::input(format!("{} is not a checkpoint of a training run", path.display()));
    let (_, header) = SafeTensors::read_metadata(&bytes).map_err(|_| broken())?;
    let text = header.metadata().as_ref().and_then(|m| m.get(STATE_FIELD)).ok_or_else(broken)?;
    let mut run_state: RunState = serde_json::from_str(text).map_err(|_| broken())?;
    if run_state.key != key {
        let what = "is the checkpoint of a run with other arguments or other training tokens";
        return Err(Error::input(format!("{} {what}", path.display()))
            .hint("give the arguments of that run, leave out --resume, or name another OUT"));
    }
    if let (Some(known), Some(fresh)) = (&mut run_state.controller, controller) {
        (known.weights, known.adam) = (fresh.weights, fresh.adam);
    }
    let file = SafeTensors::deserialize(&bytes).map_err(|_| broken())?;
    for (name, values) in vectors(student, run_state.controller.as_mut()) {
        let view = file.tensor(&name).map_err(|_| broken())?;
        if view.data().len() != 4 * values.len() {
            return Err(broken());
        }
        values.iter_mut().zip(view.data().as_chunks().0).for_each(|(v, b)| *v = f32::from_le_bytes(*b));
    }
    for (tensor, steps) in student.tensors.iter_mut().zip(&run_state.adam_steps) {
        if let Memory::Adam(adam) = &mut tensor.memory {
            adam.steps = *steps;
        }
    }
    if let (Some(controller), Some(steps)) = (&mut run_state.controller, run_state.adam_steps.last()) {
        controller.adam.steps = *steps;
    }
    student.set_copies(run_state.copies.clone())?;
    Ok(run_state)
}
