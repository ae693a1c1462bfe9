//! The state of a healing: what a file must hold so that an interrupted run goes on as if nothing had been.

use std::collections::HashMap;
use std::path::Path;

use safetensors::tensor::{Dtype, SafeTensors, TensorView};
use serde::{Deserialize, Serialize};

use super::course::Point;
use super::param::ParamRef;
use super::trainable::TrainedStream;
use crate::error::{Error, Result};
use crate::save;

/// The state of a run, apart from its tensors.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RunState {
    /// Of everything that the run depends on: blake3 in hexadecimal.
    pub key: String,
    /// Steps done.
    pub step: usize,
    /// Groups of columns that are frozen.
    pub group: usize,
    /// Steps in all.
    pub steps: usize,
    /// Price of a bit over its usual price.
    pub price: f32,
    /// Share of the usual rate; halved where training broke down.
    pub rate: f32,
    pub course: Vec<Point>,
}

/// A checkpoint: run state and streams.
pub struct Checkpoint<'a> {
    pub state: &'a mut RunState,
    pub streams: &'a mut [TrainedStream],
}

const STATE_FIELD: &str = "standing";

/// Whether a file that begins so is the state of a healing.
pub fn is_state(start: &[u8]) -> bool {
    // What safetensors writes first, after the length of its header.
    let metadata = format!("{{\"__metadata__\":{{\"{STATE_FIELD}\":");
    start.get(8..).is_some_and(|header| header.starts_with(metadata.as_bytes()))
}

impl Checkpoint<'_> {
    /// Writes the state to `path`; an earlier file is replaced only by a complete new one.
    ///
    /// # Errors
    /// If the file cannot be written.
    pub fn save(self, path: &Path) -> Result<()> {
        let mut parts: Vec<(String, Dtype, Vec<u8>)> = Vec::new();
        for (s, stream) in self.streams.iter_mut().enumerate() {
            for (t, param) in stream.params().into_iter().enumerate() {
                let (dtype, bytes) = match param {
                    ParamRef::Floats(x) => (Dtype::F32, x.iter().flat_map(|v| v.to_le_bytes()).collect()),
                    ParamRef::Integers(x) => (Dtype::I32, x.iter().flat_map(|v| v.to_le_bytes()).collect()),
                    ParamRef::Count(x) => (Dtype::I32, x.to_le_bytes().to_vec()),
                };
                parts.push((format!("{s}.{t}"), dtype, bytes));
            }
        }
        let failed = |e: &dyn std::fmt::Display| Error::compute(format!("the state cannot be written down: {e}"));
        let state = serde_json::to_string(self.state).map_err(|e| failed(&e))?;
        let mut views = Vec::with_capacity(parts.len());
        for (name, dtype, bytes) in &parts {
            views.push((name, TensorView::new(*dtype, vec![bytes.len() / 4], bytes).map_err(|e| failed(&e))?));
        }
        let metadata = HashMap::from([(STATE_FIELD.to_string(), state)]);
        save::save(path, &safetensors::serialize(views, Some(metadata)).map_err(|e| failed(&e))?)
    }

    /// Takes up what [`Checkpoint::save`] wrote for the same key; a run that was never begun stays as it is.
    ///
    /// # Errors
    /// Input, when the file is not one of this run.
    pub fn load(self, path: &Path) -> Result<()> {
        let bytes = match std::fs::read(path) {
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(()),
            read => read.map_err(|e| Error::io("read", path, e))?,
        };
        let broken = || Error::input(format!("{} is not the state of a healing", path.display()));
        let (_, header) = SafeTensors::read_metadata(&bytes).map_err(|_| broken())?;
        let text = header.metadata().as_ref().and_then(|m| m.get(STATE_FIELD)).ok_or_else(broken)?;
        let state: RunState = serde_json::from_str(text).map_err(|_| broken())?;
        if state.key != self.state.key {
            let what = "another plan, model, calibration text, cap or other settings";
            return Err(Error::input(format!("{} is the state of a healing of {what}", path.display()))
                .hint("leave out --resume to begin anew, or name another --heal-checkpoint"));
        }
        let file = SafeTensors::deserialize(&bytes).map_err(|_| broken())?;
        let raw = |name: String| file.tensor(&name).map(|t| t.data().to_vec()).map_err(|_| broken());
        for (s, stream) in self.streams.iter_mut().enumerate() {
            for (t, param) in stream.params().into_iter().enumerate() {
                let bytes = raw(format!("{s}.{t}"))?;
                let (words, []) = bytes.as_chunks() else { return Err(broken()) };
                match param {
                    ParamRef::Floats(x) => *x = words.iter().map(|b| f32::from_le_bytes(*b)).collect(),
                    ParamRef::Integers(x) => *x = words.iter().map(|b| i32::from_le_bytes(*b)).collect(),
                    ParamRef::Count(x) => *x = i32::from_le_bytes(*words.first().ok_or_else(broken)?),
                }
            }
            if !stream.is_sound() {
                return Err(broken());
            }
        }
        *self.state = state;
        Ok(())
    }
}
