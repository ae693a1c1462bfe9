//! The driver: the only place that knows all stages from a checked model to the bytes of its artifact.

mod exact;
mod lattice;
mod statistics;

use std::path::PathBuf;
use std::time::Instant;

use crate::artifact::layout::{Header, StreamEntry};
use crate::artifact::root::{Decoded, root};
use crate::artifact::write::assemble;
use crate::error::{Error, Result};
use crate::model::Model;
use crate::progress::Progress;
use crate::text::thousands;

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
            Effort::Normal => 9 << 16,
            Effort::Max => 9 << 18,
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
}

/// An artifact, and how it came about.
pub struct Compiled {
    /// The whole file.
    pub bytes: Vec<u8>,
    /// Stages and their seconds.
    pub steps: Vec<(String, f64)>,
    pub cached_statistics: bool,
}

/// Bits per weight from which an exact copy may fit: trained weights in bf16 carry 10 to 11.
const MAYBE_EXACT: f64 = 7.0;

/// Packs a model into at most `options.cap` bytes.
///
/// # Errors
/// Cap, naming the smallest that would do, if the model cannot be made to fit; Input without calibration tokens.
pub fn compile(model: &Model, calib: Option<&[u16]>, options: &Options, progress: &dyn Progress) -> Result<Compiled> {
    let budget = options.cap.saturating_sub(options.includes);
    let mut timer = Timer::default();
    if options.lossless {
        let pieces = timer.stage("code", || exact::code(model, progress))?;
        let bytes = file(model, pieces)?;
        if bytes.len() as u64 > budget {
            return Err(too_large(options, bytes.len() as u64).hint("leave out --lossless, or raise the cap"));
        }
        return Ok(Compiled { bytes, steps: timer.stages, cached_statistics: false });
    }
    if budget as f64 * 8.0 > MAYBE_EXACT * model.weights() as f64 {
        let bytes = file(model, timer.stage("code", || exact::code(model, progress))?)?;
        if bytes.len() as u64 <= budget {
            progress.note("the exact model fits the cap: nothing needs to be quantized");
            return Ok(Compiled { bytes, steps: timer.stages, cached_statistics: false });
        }
    }
    let calib = calib.ok_or_else(|| {
        Error::input("packing below the exact size needs calibration tokens, and no training shard was found")
            .hint("give one with --calib, or pack with --lossless")
    })?;
    let gathered = timer.stage("measure", || statistics::gather(model, calib, options, progress))?;
    let (statistics, cached_statistics) = gathered;
    let pieces = timer.stage("search", || lattice::code(model, &statistics, options, budget, progress))?;
    let bytes = file(model, pieces)?;
    if bytes.len() as u64 > budget {
        let size = bytes.len();
        return Err(Error::compute(format!(
            "the planned artifact came out at {size} bytes, over the {budget} it may have"
        )));
    }
    Ok(Compiled { bytes, steps: timer.stages, cached_statistics })
}

/// Streams of a model and what they decode to.
struct Pieces {
    entries: Vec<StreamEntry>,
    streams: Vec<Vec<u8>>,
    /// Decoded tensors, by stored index.
    decoded: Vec<Vec<f32>>,
}

fn header(model: &Model, streams: Vec<StreamEntry>) -> Header {
    Header { config: model.config.to_json(), source: model.source.iter().map(|s| *s as u32).collect(), streams }
}

/// The bytes of the artifact.
fn file(model: &Model, pieces: Pieces) -> Result<Vec<u8>> {
    let header = header(model, pieces.entries);
    let tensors = pieces.decoded.iter().enumerate();
    let decoded: Vec<Decoded> = tensors.map(|(i, data)| Decoded { shape: model.shape(i), data }).collect();
    let root = root(&decoded, &header.source, &header.config);
    assemble(&header, &pieces.streams, &root)
}

fn too_large(options: &Options, needed: u64) -> Error {
    let [cap, includes, needed, smallest] =
        [options.cap, options.includes, needed, needed + options.includes].map(thousands);
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
    fn stage<T>(&mut self, name: &str, run: impl FnOnce() -> T) -> T {
        let start = Instant::now();
        let out = run();
        self.stages.push((name.to_string(), start.elapsed().as_secs_f64()));
        out
    }
}
