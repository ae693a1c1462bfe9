//! Finds documents that stand both in the calibration and in the validation tokens.
//!
//! The packer tunes on calibration tokens, so a validation document among them would make the verdict too good. Texts
//! of one kind share passages honestly (licences, templates, quotations), so a shared passage alone proves nothing.
//! Two things do: a verbatim run longer than quotations get (`RUN`), or a share of the validation tokens larger
//! than boilerplate gets (`SHARE`, which also catches corpora of documents shorter than a run).
//!
//! The figures come from 736 standards documents (median 6,200 tokens, four below 512), split by document into 5.6 M
//! training and .67 M validation tokens: longest run across the split 335 tokens, .9 % of the windows shared. Between
//! any two of the 736, eight pairs were found to share a run of 512 or more, the longest 5,058 tokens.
//!
//! Method: the validation tokens are cut into windows of `WINDOW` and hashed; a polynomial hash rolls over every
//! calibration position, so that any offset between the two is found; equal hashes are confirmed token by token.

use std::path::Path;

use crate::error::{Error, Result};

/// Tokens per hashed window.
const WINDOW: usize = 64;
/// Verbatim tokens in a row that only a shared document has.
const RUN: usize = 512;
/// One validation window in this many found in the calibration tokens is more than boilerplate.
const SHARE: usize = 20;
/// Windows with fewer different tokens (rules, padding, table borders) say nothing about their origin.
const DISTINCT: usize = 8;

/// A document's worth of tokens found on both sides.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Overlap {
    /// Where the run begins in the calibration tokens.
    pub calib_at: usize,
    /// Where the run begins in the validation tokens.
    pub val_at: usize,
    /// Length of the run: the first of at least 512 tokens in calibration order, otherwise the longest.
    pub tokens: usize,
    /// Validation windows of 64 tokens that stand in the calibration tokens too.
    pub windows: usize,
    /// Validation windows compared.
    pub of: usize,
}

impl Overlap {
    /// The refusal, naming both sides.
    pub fn error(&self, calib: &Path, val: &Path) -> Error {
        let Overlap { calib_at, val_at, tokens, windows, of } = *self;
        let (calib, val) = (calib.display(), val.display());
        let percent = 100.0 * windows as f64 / of as f64;
        Error::input(format!(
            "calibration and validation share text: the {tokens} tokens from {val_at} of {val} are those from {calib_at} \
             of {calib}; {windows} of {of} validation windows ({percent:.1} %) stand in both"
        ))
        .hint("a loss on tokens the packer has seen proves nothing: give other tokens, or pass --allow-overlap")
    }
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

/// The overlap between calibration and validation tokens, if there is more of it than honest boilerplate.
///
/// Linear in both lengths; 5.6 M calibration tokens take a few hundredths of a second.
pub fn find(calib: &[u16], val: &[u16]) -> Option<Overlap> {
    let mut windows = val_windows(val);
    let of: usize = windows.iter().map(|w| w.count).sum();
    let filter = Filter::new(&windows);
    let (mut longest, mut found) = (Overlap { calib_at: 0, val_at: 0, tokens: 0, windows: 0, of }, 0);
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
                found += window.count;
            }
            // Once a run is long enough the verdict stands, and only the share is still counted. That also bounds the
            // work on periodic texts, where every position matches and every match is as long as the text.
            if longest.tokens < RUN {
                let (calib_at, val_at, tokens) = extend(calib, at, val, window.at);
                if tokens > longest.tokens {
                    longest = Overlap { calib_at, val_at, tokens, ..longest };
                }
            }
        }
    }
    (longest.tokens >= RUN || found > 0 && found * SHARE >= of).then_some(Overlap { windows: found, ..longest })
}

/// Refuses calibration and validation tokens that share a document.
///
/// # Errors
/// [`Overlap::error`] with these paths.
pub fn refuse(calib: (&Path, &[u16]), val: (&Path, &[u16])) -> Result<()> {
    match find(calib.1, val.1) {
        Some(overlap) => Err(overlap.error(calib.0, val.0)),
        None => Ok(()),
    }
}

/// The telling windows of the validation tokens, sorted by hash, each distinct one once.
fn val_windows(val: &[u16]) -> Vec<Window> {
    let telling = |tokens: &[u16]| {
        let mut seen = [0u16; DISTINCT];
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

/// The maximal run around a match of one window: where it begins on both sides, and its length.
fn extend(calib: &[u16], calib_at: usize, val: &[u16], val_at: usize) -> (usize, usize, usize) {
    let before = calib[..calib_at].iter().rev().zip(val[..val_at].iter().rev()).take_while(|(a, b)| a == b).count();
    let after = calib[calib_at..].iter().zip(&val[val_at..]).take_while(|(a, b)| a == b).count();
    (calib_at - before, val_at - before, before + after)
}

/// An odd multiplier with well-spread bits (from the golden ratio).
const BASE: u64 = 0x9E37_79B9_7F4A_7C15;

/// Polynomial hash of a window, modulo 2^64. Tokens count from 1, so that leading zeros matter.
fn hash(tokens: &[u16]) -> u64 {
    tokens.iter().fold(0, |h: u64, &t| h.wrapping_mul(BASE).wrapping_add(u64::from(t) + 1))
}

/// The hashes of all windows of a text, each from the one before it in constant time.
struct Rolling<'a> {
    tokens: &'a [u16],
    at: usize,
    hash: u64,
    /// `BASE` to the power of [`WINDOW`]: the weight a token has when it leaves the window.
    leaving: u64,
}

impl<'a> Rolling<'a> {
    fn new(tokens: &'a [u16]) -> Self {
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
