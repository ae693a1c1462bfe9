//! The inputs that every stage of packing shares.

use std::time::Instant;

use super::metrics::Metrics;
use super::options::{Heal, Options};
use crate::error::{Error, Result};
use crate::heal::{Length, enough};
use crate::model::Model;
use crate::progress::Progress;

/// A model to pack, what an error in it costs, and how to pack it.
#[derive(Clone, Copy)]
pub(super) struct Job<'a> {
    pub model: &'a Model,
    pub metrics: &'a Metrics<'a>,
    pub calib: Option<&'a [u32]>,
    pub options: &'a Options,
    pub progress: &'a dyn Progress,
}

impl<'a> Job<'a> {
    /// How long to heal, and on what; `None`: not at all.
    ///
    /// # Errors
    /// Input, when healing is asked for and cannot be.
    pub fn healing(&self) -> Result<Option<(Length, &'a [u32])>> {
        let length = match self.options.heal {
            Heal::Off => None,
            Heal::Auto => self.options.effort.healing(),
            Heal::For(length) => Some(length),
        };
        let Some(length) = length else { return Ok(None) };
        let able = self.model.network().and_then(|net| {
            let calib = self
                .calib
                .ok_or_else(|| Error::input("healing needs calibration tokens").hint("give some with --calib"))?;
            enough(net.context(), calib.len()).map(|()| (length, calib))
        });
        match (able, self.options.heal) {
            (Ok(able), _) => Ok(Some(able)),
            (Err(why), Heal::For(_)) => Err(why),
            (Err(why), _) => {
                self.progress.note(&format!("not healed: {}", why.message));
                Ok(None)
            }
        }
    }
}

/// Stages and their seconds.
#[derive(Default)]
pub(super) struct Timer {
    stages: Vec<(String, f64)>,
}

impl Timer {
    /// The stages since the last time.
    pub fn take(&mut self) -> Vec<(String, f64)> {
        std::mem::take(&mut self.stages)
    }

    pub fn stage<T>(&mut self, name: &str, run: impl FnOnce() -> T) -> T {
        let start = Instant::now();
        let out = run();
        self.stages.push((name.to_string(), start.elapsed().as_secs_f64()));
        out
    }
}
