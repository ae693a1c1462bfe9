//! How calibration text is shared out: pieces to learn from, and some set aside to see whether that helps elsewhere.

use crate::error::{Error, Result};
use crate::text::thousands;

/// Tokens of a step.
const STEP_TOKENS: usize = 4096;
/// Tokens of a piece: what one forward pass sees. A row may be longer.
pub const PIECE_TOKENS: usize = 512;
/// Pieces that are set aside, at most; and no more than one in so many.
const HELD_PIECES: usize = 16;
const HELD_SHARE: usize = 8;

/// How calibration text is shared out.
pub struct Split {
    /// Rows of a piece.
    pub piece_rows: usize,
    pub pieces: usize,
    /// Pieces of a step.
    pub batch: usize,
    /// Pieces set aside.
    pub held: usize,
}

pub fn split(length: usize, tokens: usize) -> Split {
    let piece_rows = PIECE_TOKENS.div_ceil(length);
    let pieces = tokens.saturating_sub(1) / (length * piece_rows);
    let batch = (STEP_TOKENS / (length * piece_rows)).max(1);
    Split { piece_rows, pieces, batch, held: HELD_PIECES.min(pieces / HELD_SHARE) }
}

/// Whether so many calibration tokens are enough for rows of `length`.
///
/// # Errors
/// Input, when they are not: says how many are needed.
pub fn enough(length: usize, tokens: usize) -> Result<()> {
    let Split { piece_rows, pieces, batch, held } = split(length, tokens);
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
