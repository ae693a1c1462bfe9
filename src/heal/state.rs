//! The state of a healing: what a file must hold so that an interrupted run goes on as if nothing had been.

use std::collections::HashMap;
use std::path::Path;

use safetensors::tensor::{Dtype, SafeTensors, TensorView};
use serde::{Deserialize, Serialize};

use super::part::Stream;
use super::run::Point;
use crate::artifact::save;
use crate::code::entropy::indices::Prices;
use crate::error::{Error, Result};
use crate::train::adam::Adam;

/// What training changes in one tensor.
pub struct Moments<'a> {
    pub values: &'a mut Vec<f32>,
    pub adam: &'a mut Adam,
    /// What bits cost, where that is learned on the way.
    pub prices: Option<&'a mut Prices>,
}

/// Where a run stands, beside its tensors.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Standing {
    /// Of everything that the run depends on: blake3 in hexadecimal.
    pub key: String,
    /// Steps done.
    pub step: usize,
    /// Steps in all.
    pub steps: usize,
    /// Price of a bit over its usual price.
    pub price: f32,
    /// Share of the usual rate; halved where training broke down.
    pub rate: f32,
    pub course: Vec<Point>,
    /// Index into `course` of the best state; its streams are kept.
    pub best: Option<usize>,
}

/// A run: standing, streams, and the bytes of the best state.
pub struct Run<'a> {
    pub standing: &'a mut Standing,
    pub streams: &'a mut [Stream],
    pub best: &'a mut Vec<Vec<u8>>,
}

const STANDING: &str = "standing";

fn floats(x: &[f32]) -> Vec<u8> {
    x.iter().flat_map(|v| v.to_le_bytes()).collect()
}

impl Run<'_> {
    /// Writes the state to `path`; what was there before gives way only to a complete new one.
    ///
    /// # Errors
    /// If the file cannot be written.
    pub fn save(self, path: &Path) -> Result<()> {
        let mut parts: Vec<(String, Dtype, Vec<u8>)> = Vec::new();
        for (s, stream) in self.streams.iter_mut().enumerate() {
            for (t, Moments { values, adam, prices }) in stream.moments().into_iter().enumerate() {
                let mut add = |what: &str, bytes, dtype| parts.push((format!("{s}.{t}.{what}"), dtype, bytes));
                add("values", floats(values), Dtype::F32);
                add("first", floats(&adam.first), Dtype::F32);
                add("second", floats(&adam.second), Dtype::F32);
                add("steps", adam.steps.to_le_bytes().to_vec(), Dtype::I32);
                if let Some(prices) = prices {
                    add("table", floats(&prices.table), Dtype::F32);
                    add("bucket", prices.bucket.clone(), Dtype::U8);
                }
            }
        }
        for (s, bytes) in self.best.iter().enumerate() {
            parts.push((format!("best.{s}"), Dtype::U8, bytes.clone()));
        }
        let failed = |e: &dyn std::fmt::Display| Error::compute(format!("the state cannot be written down: {e}"));
        let standing = serde_json::to_string(self.standing).map_err(|e| failed(&e))?;
        let mut views = Vec::with_capacity(parts.len());
        for (name, dtype, bytes) in &parts {
            let size = if *dtype == Dtype::U8 { 1 } else { 4 };
            views.push((name, TensorView::new(*dtype, vec![bytes.len() / size], bytes).map_err(|e| failed(&e))?));
        }
        let metadata = HashMap::from([(STANDING.to_string(), standing)]);
        save::save(path, &safetensors::serialize(views, Some(metadata)).map_err(|e| failed(&e))?)
    }

    /// Takes up what [`Run::save`] wrote for the same key; a run that was never begun stays as it is.
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
        let text = header.metadata().as_ref().and_then(|m| m.get(STANDING)).ok_or_else(broken)?;
        let standing: Standing = serde_json::from_str(text).map_err(|_| broken())?;
        if standing.key != self.standing.key {
            let what = "another plan, model, calibration text, cap or other settings";
            return Err(Error::input(format!("{} is the state of a healing of {what}", path.display()))
                .hint("leave out --resume to begin anew, or name another --heal-checkpoint"));
        }
        let file = SafeTensors::deserialize(&bytes).map_err(|_| broken())?;
        let raw = |name: String| file.tensor(&name).map(|t| t.data().to_vec()).map_err(|_| broken());
        let fill = |name: String, to: &mut [f32]| {
            let bytes = raw(name)?;
            if bytes.len() != 4 * to.len() {
                return Err(broken());
            }
            for (v, b) in to.iter_mut().zip(bytes.as_chunks().0) {
                *v = f32::from_le_bytes(*b);
            }
            Ok(())
        };
        for (s, stream) in self.streams.iter_mut().enumerate() {
            for (t, Moments { values, adam, prices }) in stream.moments().into_iter().enumerate() {
                let name = |what: &str| format!("{s}.{t}.{what}");
                fill(name("values"), values)?;
                fill(name("first"), &mut adam.first)?;
                fill(name("second"), &mut adam.second)?;
                adam.steps = i32::from_le_bytes(raw(name("steps"))?.try_into().map_err(|_| broken())?);
                if let Some(prices) = prices {
                    fill(name("table"), &mut prices.table)?;
                    prices.bucket =
                        Some(raw(name("bucket"))?).filter(|b| b.len() == values.len()).ok_or_else(broken)?;
                }
            }
        }
        if standing.best.is_some() {
            *self.best = (0..self.streams.len()).map(|s| raw(format!("best.{s}"))).collect::<Result<_>>()?;
        }
        *self.standing = standing;
        Ok(())
    }
}
