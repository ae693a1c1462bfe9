//! Options of packing: the cap, the effort, the sources of curvature, the search and healing.

use std::path::{Path, PathBuf};
use std::process::Child;

use crate::error::{Error, Result};
use crate::heal::{self, Length, Pace};
use crate::measure::Statistics;
use crate::plan::Plan;
use crate::plan::shape::Shape;
use crate::text::thousands;
use crate::train::objective::Objective;

/// Bits per weight below which sharing what was trained apart may beat coarser grids: on the models that we measured, grids win by
/// far at 2, nothing that is shared pays at 1.5, and ties win at 1.
const SCARCE: f64 = 1.4;

/// The effort: how much time to spend on a better result.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
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
    pub(super) fn calibration_tokens(self) -> usize {
        match self {
            Effort::Fast => 1 << 15,
            Effort::Normal => 9 << 14,
            Effort::Max => 9 << 16,
        }
    }

    /// How long to heal, where nobody says so: not at all, about as long as the rest takes, as long as it gains.
    pub(super) fn healing(self) -> Option<Length> {
        match self {
            Effort::Fast => None,
            Effort::Normal => Some(Length::Steps(60)),
            Effort::Max => Some(Length::Gaining),
        }
    }

    /// Calibration tokens that structures are judged on.
    pub(super) fn judged_tokens(self) -> usize {
        match self {
            Effort::Fast => 1 << 12,
            Effort::Normal => 1 << 13,
            Effort::Max => 1 << 14,
        }
    }

    /// Structures packed and judged of a model that has `bits` for every weight, where nobody says how many.
    pub(super) fn trials(self, bits: f64) -> usize {
        match self {
            Effort::Fast => 0,
            Effort::Normal | Effort::Max if bits > SCARCE => 0,
            Effort::Normal => 8,
            Effort::Max => 60,
        }
    }

    /// Trellis states of the final search.
    pub(super) fn states(self) -> usize {
        match self {
            Effort::Fast => 8,
            Effort::Normal => 32,
            Effort::Max => 128,
        }
    }
}

/// Options of packing.
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
    /// Where the curvature comes from.
    pub curvature: Source,
    /// The plan to execute instead of a search.
    pub plan: Option<Plan>,
    pub heal: Heal,
    pub objective: Objective,
    /// Where the state of healing is kept.
    pub checkpoint: Option<PathBuf>,
    /// Which layers share; [`Shape::Auto`]: what a search finds.
    pub shape: Shape,
    /// Structures with shared or left out layers to pack and judge at most; 0: none, `None`: as many as usual where bytes are scarce.
    pub trials: Option<usize>,
    /// Asked from time to time: whether to end search and healing with the best so far.
    pub stop: Box<dyn Fn() -> bool + Sync>,
    /// Where every trial is logged.
    pub log: Option<PathBuf>,
    /// Go on from the log and the checkpoint.
    pub resume: bool,
    /// Who makes the trials.
    pub work: Work,
}

impl Options {
    /// The defaults for a cap: curvature is measured, structures are searched, nothing is healed or kept.
    pub fn new(cap: u64, effort: Effort) -> Options {
        Options {
            cap,
            includes: 0,
            effort,
            seed: 0,
            lossless: false,
            calib_rows: None,
            cache: None,
            curvature: Source::Measured,
            plan: None,
            shape: Shape::Auto,
            trials: None,
            heal: Heal::Off,
            objective: Objective::Kl,
            checkpoint: None,
            stop: Box::new(|| false),
            log: None,
            resume: false,
            work: Work::Here,
        }
    }

    /// Bytes that the artifact itself may take.
    pub(super) fn budget(&self, cap: u64) -> u64 {
        cap.saturating_sub(self.includes)
    }

    /// How to heal into `budget` bytes.
    pub(super) fn healing(&self, length: Length, pace: Pace, budget: u64) -> heal::Options<'_> {
        let Options { objective, seed, resume, .. } = *self;
        let (checkpoint, stop) = (self.checkpoint.clone(), &*self.stop);
        heal::Options { length, pace, objective, seed, budget, checkpoint, resume, stop }
    }

    /// The error for a file that needs more than its budget.
    pub(super) fn too_large(&self, budget: u64, needed: u64) -> Error {
        let includes = self.includes;
        let [cap, includes, needed, smallest] = [budget + includes, includes, needed, needed + includes].map(thousands);
        Error::cap(format!(
            "the model does not fit: the cap is {cap} bytes, {includes} of them are taken by included files, and the smallest \
             artifact has {needed} bytes; the smallest cap that would do is {smallest}"
        ))
    }
}

/// Starts workers that look for tasks in a folder.
pub type Start = Box<dyn Fn(&Path) -> Result<Vec<Child>> + Sync>;

/// Whether to heal, and how long.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Heal {
    /// As the effort says, where there is a network and calibration text.
    Auto,
    Off,
    For(Length),
}

/// Who makes the trials of a search over structures.
pub enum Work {
    /// This process.
    Here,
    /// Processes that find tasks in a folder; `start` starts those that are ours.
    Workers { folder: PathBuf, start: Start },
}

/// Where the curvature of the loss comes from.
pub enum Source {
    /// It is measured on the calibration tokens.
    Measured,
    /// Somebody measured it before.
    Given(Statistics),
    /// Nobody did: every weight counts alike.
    Flat,
}
