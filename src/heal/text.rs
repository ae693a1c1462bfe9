//! Splits calibration text into pieces to train on and held-out pieces, which tell whether training generalises.

use crate::error::{Error, Result};
use crate::text::thousands;

/// Tokens of a piece: what one forward pass sees. A row may be longer.
pub const PIECE_TOKENS: usize = 512;
/// No more than one piece in so many is set aside.
const HELD_SHARE: usize = 8;

/// Tokens of an iteration, held-out pieces, and how nearly the end of a run must fill the budget.
#[derive(Debug, Clone, Copy)]
pub struct Pace {
    /// Tokens of an iteration.
    pub iteration_tokens: usize,
    /// Pieces that are set aside, at most.
    pub held: usize,
    /// Bytes that may be left over at the end: one in so many.
    pub close: u64,
}

impl Pace {
    /// For a file that is to be kept.
    pub const USUAL: Pace = Pace { iteration_tokens: 4096, held: 16, close: 20_000 };
}

/// The split of calibration text.
pub struct Split {
    /// Rows of a piece.
    pub piece_rows: usize,
    pub pieces: usize,
    /// Pieces of a step.
    pub batch: usize,
    /// Pieces set aside.
    pub held: usize,
}

/// Shares `tokens` out in rows of `length`.
pub fn split(length: usize, tokens: usize, pace: Pace) -> Split {
    let piece_rows = PIECE_TOKENS.div_ceil(length);
    let pieces = tokens.saturating_sub(1) / (length * piece_rows);
    let batch = (pace.iteration_tokens / (length * piece_rows)).max(1);
    Split { piece_rows, pieces, batch, held: pace.held.min(pieces / HELD_SHARE) }
}

/// Whether so many calibration tokens are enough for rows of `length`.
///
/// # Errors
/// Input, when they are not: says how many are needed.
pub fn enough(length: usize, tokens: usize) -> Result<()> {
    let Split { piece_rows, pieces, batch, held } = split(length, tokens, Pace::USUAL);
    if held > 0 && pieces - held >= batch {
        return Ok(());
    }
    let needed = (batch.max(HELD_SHARE) + 2) * piece_rows * length + 1;
    let [needed, tokens] = [needed, tokens].map(|n| thousands(n as u64));
    Err(Error::input(format!(
        "healing needs {needed} calibration tokens, for a step and the text that watches over it; there are {tokens}"
    ))
    .hint("give more with --calib, or pack with --heal off"))
}
