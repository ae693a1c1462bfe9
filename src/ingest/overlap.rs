//! Finds text that stands both in the calibration and in the validation tokens, and leaves it out.
//!
//! The packer tunes on calibration tokens, so a validation document among them would make the verdict too good. Texts
//! of one kind share passages honestly (licences, templates, quotations): the rows that hold them are left out, and the rest
//! serves. Only where one side is largely the other, or hardly a row remains, is there nothing to go on with.
//!
//! Of 736 standards documents (median 6,200 tokens, four below 512), split by document into 5.6 M training and .67 M
//! validation tokens, .9 % of the validation windows stand on both sides, the longest passage 335 tokens.
//!
//! Method: the validation tokens are cut into windows of `WINDOW` and hashed; a polynomial hash rolls over every
//! calibration position, so that any offset between the two is found; equal hashes are confirmed token by token, and a match
//! is extended to both sides. A shared passage of twice a window holds a whole one, so no longer one is missed.

use std::ops::Range;
use std::path::Path;

use crate::error::{Error, Result};

/// Tokens per hashed window.
const WINDOW: usize = 64;
/// One side is part of the other where at least one in this many of its windows, or tokens, stands in the other.
const PART: usize = 2;
/// Tokens that are enough to measure on, however many were left out: as many as the least effort takes.
const ENOUGH: usize = 1 << 15;
/// Windows with fewer different tokens (rules, padding, table borders) say nothing about their origin.
const DISTINCT: usize = 8;

/// Text found on both sides.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Overlap {
    /// Where the longest passage begins in the calibration tokens.
    pub calib_at: usize,
    /// Where it begins in the validation tokens.
    pub val_at: usize,
    /// Its length.
    pub tokens: usize,
    /// Validation windows of 64 tokens that stand in the calibration tokens too.
    pub windows: usize,
    /// Validation windows compared.
    pub of: usize,
    /// Every passage as a range of calibration tokens, in order, none touching another.
    pub runs: Vec<Range<usize>>,
}

/// One distinct validation window.
struct Window {
    hash: u64,
    /// Its first position in the validation tokens.
    at: usize,
    /// How often it stands there, counted at multiples of [`WINDOW`].
    count: usize,
    found: bool,
}

/// The text that calibration and validation tokens share, if there is any.
///
/// Linear in both lengths; 5.6 M calibration tokens take a few hundredths of a second.
pub fn find(calib: &[u32], val: &[u32]) -> Option<Overlap> {
    let mut windows = val_windows(val);
    let of: usize = windows.iter().map(|w| w.count).sum();
    let filter = Filter::new(&windows);
    let mut overlap = Overlap { calib_at: 0, val_at: 0, tokens: 0, windows: 0, of, runs: Vec::new() };
    for (at, hash) in Rolling::new(calib) {
        if !filter.may_contain(hash) {
            continue;
        }
        let first = windows.partition_point(|w| w.hash < hash);
        for window in windows[first..].iter_mut().take_while(|w| w.hash == hash) {
            if calib[at..at + WINDOW] != val[window.at..window.at + WINDOW] {
                continue;
            }
            if !window.found {
                window.found = true;
                overlap.windows += window.count;
            }
            // Known passages are not walked again, which bounds the work on periodic texts, where every position matches and
            // every match is as long as the text.
            let known = overlap.runs.last().map_or(0, |run| run.end);
            if at + WINDOW <= known {
                continue;
            }
            let (calib_at, val_at, tokens) = extend((calib, at), (val, window.at), known);
            if tokens > overlap.tokens {
                overlap = Overlap { calib_at, val_at, tokens, ..overlap };
            }
            match overlap.runs.last_mut() {
                Some(run) if calib_at <= run.end => run.end = calib_at + tokens,
                _ => overlap.runs.push(calib_at..calib_at + tokens),
            }
        }
    }
    (!overlap.runs.is_empty()).then_some(overlap)
}

/// Refuses texts of which one is (part of) the other: leaving out what they share would leave nothing to prove.
///
/// # Errors
/// Input, naming both sides, the longest passage and the shares.
pub fn refuse(overlap: &Overlap, (calib, tokens): (&Path, &[u32]), val: &Path) -> Result<()> {
    let Overlap { calib_at, val_at, tokens: longest, windows, of, .. } = *overlap;
    let shared: usize = overlap.runs.iter().map(Range::len).sum();
    if windows * PART < of && shared * PART < tokens.len() {
        return Ok(());
    }
    let (calib, val) = (calib.display(), val.display());
    let percent = |part: usize, whole: usize| 100.0 * part as f64 / whole as f64;
    let (of_val, of_calib) = (percent(windows, of), percent(shared, tokens.len()));
    Err(Error::input(format!(
        "calibration and validation share text: the {longest} tokens from {val_at} of {val} are those from {calib_at} of \
         {calib}; {of_val:.1} % of the validation windows and {of_calib:.1} % of the calibration tokens stand in both"
    ))
    .hint("a loss on tokens the packer has seen proves nothing: give other tokens, or pass --allow-overlap"))
}

/// Tokens without the rows of `length` that a passage of `shared` (in any order) touches, and how many rows that are.
///
/// What follows a row that was left out stands right after the row before it: for measuring what a network predicts, not for
/// scoring the first token of a row.
pub fn without(tokens: &[u32], shared: &[Range<usize>], length: usize) -> (Vec<u32>, usize) {
    let mut touched = vec![false; tokens.len().div_ceil(length)];
    for run in shared {
        touched[run.start / length..run.end.div_ceil(length)].fill(true);
    }
    let kept = tokens.chunks(length).zip(&touched).filter(|(_, touched)| !**touched);
    (kept.flat_map(|(row, _)| row).copied().collect(), touched.iter().filter(|t| **t).count())
}

/// Whether what [`without`] kept of so many tokens is enough to go on with.
///
/// # Errors
/// Input, if it is not.
pub fn enough(given: usize, kept: usize) -> Result<()> {
    if kept >= ENOUGH || kept * PART >= given {
        return Ok(());
    }
    Err(Error::input(format!(
        "{kept} of {given} calibration tokens remain without the rows that share text with validation: too few"
    ))
    .hint("give other tokens with --calib or --val, or pass --allow-overlap"))
}

/// The telling windows of the validation tokens, sorted by hash, each distinct one once.
fn val_windows(val: &[u32]) -> Vec<Window> {
    let telling = |tokens: &[u32]| {
        let mut seen = [0u32; DISTINCT];
        let mut count = 0;
        for &token in tokens {
            if !seen[..count].contains(&token) {
                seen[count] = token;
                count += 1;
                if count == DISTINCT {
                    return true;
                }
            }
        }
        false
    };
    let cut = val.chunks_exact(WINDOW).enumerate().filter(|(_, tokens)| telling(tokens));
    let mut windows: Vec<Window> =
        cut.map(|(i, tokens)| Window { hash: hash(tokens), at: i * WINDOW, count: 1, found: false }).collect();
    windows.sort_by_key(|w| (w.hash, w.at));
    windows.dedup_by(|later, first| {
        let same = later.hash == first.hash && val[later.at..later.at + WINDOW] == val[first.at..first.at + WINDOW];
        first.count += usize::from(same);
        same
    });
    windows
}

/// The maximal run around a match of one window, from calibration position `known` on: where it begins on both sides, and its
/// length.
fn extend((calib, calib_at): (&[u32], usize), (val, val_at): (&[u32], usize), known: usize) -> (usize, usize, usize) {
    let back = calib[known.min(calib_at)..calib_at].iter().rev().zip(val[..val_at].iter().rev());
    let before = back.take_while(|(a, b)| a == b).count();
    let after = calib[calib_at..].iter().zip(&val[val_at..]).take_while(|(a, b)| a == b).count();
    (calib_at - before, val_at - before, before + after)
}

/// An odd multiplier with well-spread bits (from the golden ratio).
const BASE: u64 = 0x9E37_79B9_7F4A_7C15;

/// Polynomial hash of a window, modulo 2^64. Tokens count from 1, so that leading zeros matter.
fn hash(tokens: &[u32]) -> u64 {
    tokens.iter().fold(0, |h: u64, &t| h.wrapping_mul(BASE).wrapping_add(u64::from(t) + 1))
}

/// The hashes of all windows of a text, each from the one before it in constant time.
struct Rolling<'a> {
    tokens: &'a [u32],
    at: usize,
    hash: u64,
    /// `BASE` to the power of [`WINDOW`]: the weight a token has when it leaves the window.
    leaving: u64,
}

impl<'a> Rolling<'a> {
    fn new(tokens: &'a [u32]) -> Self {
        let first = hash(&tokens[..tokens.len().min(WINDOW)]);
        Rolling { tokens, at: 0, hash: first, leaving: (0..WINDOW).fold(1, |p: u64, _| p.wrapping_mul(BASE)) }
    }
}

impl Iterator for Rolling<'_> {
    type Item = (usize, u64);

    fn next(&mut self) -> Option<(usize, u64)> {
        let (at, hash) = (self.at, self.hash);
        if at + WINDOW > self.tokens.len() {
            return None;
        }
        if let Some(&entering) = self.tokens.get(at + WINDOW) {
            let gone = (u64::from(self.tokens[at]) + 1).wrapping_mul(self.leaving);
            self.hash = hash.wrapping_mul(BASE).wrapping_add(u64::from(entering) + 1).wrapping_sub(gone);
        }
        self.at += 1;
        Some((at, hash))
    }
}

/// A bit set over hash prefixes: says "certainly not there" for nearly all positions, without a search.
struct Filter {
    bits: Vec<u64>,
    shift: u32,
}

impl Filter {
    fn new(windows: &[Window]) -> Self {
        // About 32 bits per window: one foreign position in 32 passes.
        let log = (windows.len().max(2) * 32).next_power_of_two().trailing_zeros();
        let mut filter = Filter { bits: vec![0; 1 << (log - 6)], shift: 64 - log };
        for window in windows {
            let (word, bit) = filter.slot(window.hash);
            filter.bits[word] |= bit;
        }
        filter
    }

    fn may_contain(&self, hash: u64) -> bool {
        let (word, bit) = self.slot(hash);
        self.bits[word] & bit != 0
    }

    fn slot(&self, hash: u64) -> (usize, u64) {
        // The low bits of a polynomial modulo 2^64 are weak: take the high ones, mixed once more.
        let index = hash.wrapping_mul(BASE) >> self.shift;
        ((index >> 6) as usize, 1 << (index & 63))
    }
}
