//! The bits of one index and their probabilities.
//!
//! A probability is a sum of learned terms ([`crate::entropy::mixing`]): a trained shape, interpolated at the expected magnitude,
//! plus corrections for what the last rows of the column were like and for the trellis state.
//!
//! Bits of an index: the upper part of its rank in unary, where the shift is such that it is about 1 (none at the usual
//! rates), an Exp-Golomb escape beyond 14, the shifted-out bits from the top, the sign. Correlations between places,
//! signed or not, were looked for in trained transformers: beyond the row and column scales there are none to use
//! except in embeddings, whose columns lean to one side.

use super::priors::{BITS, NODE_LOG, PRIORS};
use super::scales::Expected;
use crate::entropy::mixing::{AdaptiveBit, Term, error, squash};
use crate::entropy::range::BitIo;
use crate::grid::trellis::{Odd, Trellis};

/// Largest index magnitude that can be coded.
pub const MAX_INDEX: u32 = 1 << 28;

/// Unary bits of the upper part.
const UNARY: usize = 14;

pub const LOWEST_LOG: i32 = -96;
/// Expected magnitude (log2 in 1/16) from which bits are shifted out, one more per octave.
const SHIFT_LOG: i32 = 24;
/// From this shift on the octaves share their nodes.
const LAST_SHIFT: i32 = 3;

/// Indices of the model terms for one place of the matrix.
pub struct Position {
    shift: u32,
    /// The nodes on both sides and the share of the second in 1/16.
    nodes: [usize; 2],
    part: u32,
    /// Corrections.
    recent: usize,
    state: usize,
}

impl Position {
    #[inline]
    pub fn new(expected: Expected, z: usize, state: usize, states: usize) -> Self {
        let level = ((expected.log + 32) >> 4).clamp(0, 3) as usize;
        let recent = ((expected.recent + 64) >> 3).clamp(0, 15) as usize;
        let octave = ((expected.log + 48) >> 4).clamp(0, 15) as usize;
        Position {
            recent: 1 + (level * 16 + recent) * 2 + z,
            state: 1 + octave * states + state,
            ..Self::prior_only(expected.log, z)
        }
    }

    /// A place of which only the expected magnitude is known: entry 0 of every correction stays empty.
    #[inline]
    pub fn prior_only(log: i32, z: usize) -> Self {
        let log = log.clamp(LOWEST_LOG, 511);
        let shift = ((log - SHIFT_LOG).div_euclid(16) + 1).max(0);
        let log = log - 16 * (shift - LAST_SHIFT).max(0);
        let offset = log - LOWEST_LOG;
        let node = (offset / NODE_LOG + shift.min(LAST_SHIFT)) as usize;
        Position {
            shift: shift as u32,
            nodes: [(node * 2 + z) * BITS, ((node + 1) * 2 + z) * BITS],
            part: (2 * (offset % NODE_LOG) + 1) as u32,
            recent: 0,
            state: 0,
        }
    }
}

/// All learned terms of one stream.
pub struct Model {
    nodes: Vec<Term>,
    recent: Vec<[Term; BITS]>,
    state: Vec<[Term; BITS]>,
    escape: [AdaptiveBit; 32],
    sign: [Term; 17 * 4],
}

impl Model {
    pub fn new(trellis: &Trellis) -> Self {
        let shape = match trellis.odd {
            Odd::WithZero => &PRIORS[0],
            Odd::Plain => &PRIORS[1],
        };
        Model {
            nodes: shape.as_flattened().as_flattened().iter().map(|s| Term::new(i32::from(*s) << 12)).collect(),
            recent: vec![[Term::default(); BITS]; 1 + 4 * 16 * 2],
            state: vec![[Term::default(); BITS]; 1 + 16 * trellis.states],
            escape: [AdaptiveBit::new(); 32],
            sign: [Term::default(); 17 * 4],
        }
    }

    /// One modelled bit.
    #[inline]
    fn bit<B: BitIo>(&mut self, io: &mut B, position: &Position, context: usize, bit: bool, learn: bool) -> bool {
        let [a, b] = position.nodes.map(|n| n + context);
        let (first, second) = (16 - position.part, position.part);
        let shape = (self.nodes[a].value * first as i32 + self.nodes[b].value * second as i32) >> 4;
        let sum = shape + self.recent[position.recent][context].value + self.state[position.state][context].value;
        let p = squash(sum);
        let bit = io.bit(p, bit);
        if learn {
            let error = error(bit, p);
            self.nodes[a].learn_part(error, first);
            self.nodes[b].learn_part(error, second);
            self.recent[position.recent][context].learn(error);
            self.state[position.state][context].learn(error);
        }
        bit
    }

    /// Codes a magnitude index and returns it; a decoder finds it. `None` if it exceeds [`MAX_INDEX`].
    #[inline]
    pub fn magnitude_index<B: BitIo>(
        &mut self,
        io: &mut B,
        position: &Position,
        magnitude_index: u32,
        learn: bool,
    ) -> Option<u32> {
        let shift = position.shift;
        let upper = magnitude_index.checked_shr(shift).unwrap_or(0);
        let mut high = 0;
        while high < UNARY as u32 && self.bit(io, position, high as usize, upper > high, learn) {
            high += 1;
        }
        if high == UNARY as u32 {
            high += self.escape(io, upper.wrapping_sub(high), learn)?;
        }
        // The lower bits: the first two know the upper part, a third only next to zero; the rest is even.
        let mut found = high;
        let mut low = 0usize;
        for k in 0..shift {
            let bit = (magnitude_index.checked_shr(shift - 1 - k).unwrap_or(0)) & 1 == 1;
            let context = match (k, high) {
                (0, _) => Some(UNARY + high.min(5) as usize),
                (1, 0) => Some(UNARY + 6 + low),
                (1, _) => Some(UNARY + 8 + low),
                (2, 0) => Some(UNARY + 10 + low),
                _ => None,
            };
            let bit = match context {
                Some(context) => self.bit(io, position, context, bit, learn),
                None => io.even_bit(bit),
            };
            low = (low * 2 + usize::from(bit)) & 3;
            found = found.checked_mul(2)? | u32::from(bit);
        }
        (found <= MAX_INDEX).then_some(found)
    }

    /// The sign: columns of an embedding lean to one side, others do not.
    #[inline]
    pub fn sign<B: BitIo>(&mut self, io: &mut B, lean: i32, magnitude: u32, negative: bool) -> bool {
        let term = &mut self.sign[((lean + 8) * 4 + magnitude.ilog2().min(3) as i32) as usize];
        let p = squash(term.value);
        let negative = io.bit(p, negative);
        term.learn(error(negative, p));
        negative
    }

    /// Exp-Golomb code with an adaptive length.
    fn escape<B: BitIo>(&mut self, io: &mut B, value: u32, learn: bool) -> Option<u32> {
        let length = value.wrapping_add(1).max(1).ilog2();
        let mut k = 0;
        loop {
            let more = io.bit(self.escape[k as usize].p(), k < length);
            if learn {
                self.escape[k as usize].update(more);
            }
            if !more {
                break;
            }
            k += 1;
            if k > 29 {
                return None;
            }
        }
        let mut found = 1u32;
        for m in (0..k).rev() {
            found = found << 1 | u32::from(io.even_bit((value.wrapping_add(1) >> m) & 1 == 1));
        }
        Some(found - 1)
    }
}
