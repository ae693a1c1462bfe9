//! Tensors bit for bit: codec 0 of the artifact.
//!
//! A float is a sign, an exponent and a mantissa. Sign and mantissa are nearly noise; the exponent is not, because
//! trained weights have a scale: about 2.5 of its 8 bits are left when one knows how large the weights of this row and
//! this column are. So each value is coded as
//!
//! - its exponent: how many octaves below the largest of the stream, one yes/no question an octave;
//! - its sign;
//! - its mantissa, highest bit first. Within an octave a bell curve falls, so that the first bit is 0 more often than
//!   not (0.946 bits on a trained model); from the fourth bit on nothing is left to win.
//!
//! The questions are answered by an adaptive binary arithmetic coder, whose probabilities are mixed (logistic mixing
//! as in PAQ, Mahoney 2005) from counters that know the mean magnitude of the row so far, of the column so far, both
//! together, and the neighbours on the left and above. A counter's context is where the *octave* lies relative to that
//! mean, not the pair of both: "is this weight above half the usual size" has the same answer in every row, and is
//! learned once.
//!
//! All arithmetic is in integers. One function walks over the values for both directions.

mod read;
mod write;

pub use read::{decode, decode_group};
pub use write::{encode, encode_group};

use half::f16;

use crate::entropy::ensemble::{Counter, Mixer, stretch};
use crate::entropy::range::BitIo;
use crate::error::{Error, Result};
use crate::tensor::Dtype;

/// Octaves below the largest that are asked for one by one; smaller values (and zeros) say their octave in binary.
const OCTAVES: usize = 24;
/// Leading bits of the mantissa that are worth a context.
const MODELLED: u32 = 3;
/// Log-magnitudes are in 1/16 octave.
const LOG_STEPS: usize = 16;
/// Above every log-magnitude plus `OCTAVES` octaves.
const LOG_END: usize = 1024;
/// Probabilities stay this far (in 1/65536) from certainty, so one value costs at least 9 * log2(65536 / 65504) bits.
const FLOOR: u32 = 32;
/// Hence more values than this per byte of stream cannot be; bounds what a decoder allocates.
const VALUES_PER_BYTE: usize = 2048;

/// Codes one bit, kept [`FLOOR`] from certainty.
#[inline]
fn code(io: &mut impl BitIo, bit: bool, p: u32) -> bool {
    io.bit(p.clamp(FLOOR, 65_536 - FLOOR), bit)
}

/// Widths of the fields of a float in bits.
#[derive(Clone, Copy)]
struct Format {
    exponent: u32,
    mantissa: u32,
}

impl Format {
    fn of(dtype: Dtype) -> Format {
        let (exponent, mantissa) = match dtype {
            Dtype::F32 => (8, 23),
            Dtype::F16 => (5, 10),
            Dtype::Bf16 => (8, 7),
        };
        Format { exponent, mantissa }
    }

    fn exponent(self, word: u32) -> u32 {
        word >> self.mantissa & ((1 << self.exponent) - 1)
    }
}

fn from_word(word: u32, dtype: Dtype) -> f32 {
    match dtype {
        Dtype::F32 => f32::from_bits(word),
        Dtype::F16 => f16::from_bits(word as u16).to_f32(),
        // Not by conversion, which changes NaNs.
        Dtype::Bf16 => f32::from_bits(word << 16),
    }
}

/// Values in a tensor of this shape, unless they are more than a machine can count.
fn count(shape: &[usize]) -> Option<usize> {
    shape.iter().try_fold(1usize, |n, &d| n.checked_mul(d))
}

fn damaged() -> Error {
    Error::verification("the lossless stream is damaged")
}

/// Log2 of a magnitude in steps of 1/`LOG_STEPS`, linear within an octave. Never above 31 octaves for what comes in
/// here.
fn log_magnitude(x: u64) -> usize {
    let x = x.max(1);
    let octave = x.ilog2() as usize;
    octave * LOG_STEPS + ((x << 4 >> octave) as usize & (LOG_STEPS - 1))
}

/// Counters with N contexts for one kind of question, their mixer, and a constant opinion beside them.
struct Mixed<const N: usize, const M: usize> {
    counters: [Vec<Counter>; N],
    mixer: Mixer<M>,
}

impl<const N: usize, const M: usize> Mixed<N, M> {
    fn new(contexts: [usize; N], sets: usize, weights: [i32; M]) -> Self {
        Mixed { counters: contexts.map(|n| vec![Counter::NEW; n]), mixer: Mixer::new(sets, weights) }
    }

    #[inline]
    fn code(&mut self, io: &mut impl BitIo, bit: bool, set: usize, contexts: [usize; N]) -> bool {
        let mut opinions = [256; M];
        for ((o, table), &c) in opinions.iter_mut().zip(&self.counters).zip(&contexts) {
            *o = stretch(table[c].p());
        }
        let p = self.mixer.mix(set, &opinions);
        let bit = code(io, bit, p);
        self.mixer.update(set, &opinions, bit, p);
        for (table, &c) in self.counters.iter_mut().zip(&contexts) {
            table[c].update(bit);
        }
        bit
    }
}

/// Counts of a bit that has no context: exact frequencies, as the noise that these bits are deserves.
#[derive(Clone, Copy, Default)]
struct Frequency {
    ones: u64,
    all: u64,
}

impl Frequency {
    #[inline]
    fn code(&mut self, io: &mut impl BitIo, bit: bool) -> bool {
        let bit = code(io, bit, ((2 * self.ones + 1) * 32_768 / (self.all + 1)) as u32);
        self.ones += u64::from(bit);
        self.all += 1;
        bit
    }
}

/// A mean magnitude that starts from the usual one.
fn mean(sum: u64, n: usize, usual: u64) -> u64 {
    const WEIGHT: u64 = 3;
    (sum + WEIGHT * usual) / (n as u64 + WEIGHT)
}

/// The context of the coder at a place in a stream.
struct Model {
    format: Format,
    /// Largest exponent of the stream.
    top: u32,
    /// Is the value in this octave? Contexts: octave against row and column mean, row mean, column mean; neighbours;
    /// none.
    octave: Mixed<5, 6>,
    /// Octaves beyond the last, in binary.
    beyond: Vec<Counter>,
    /// Leading bits of the mantissa. Contexts: octave; octave against row and column mean; against row mean.
    leading: Mixed<3, 4>,
    /// Sign, then the bits of the mantissa by their place; apart for values beyond the last octave, which are mostly
    /// zeros.
    noise: [[Frequency; 32]; 2],
    /// Sum of the magnitudes and number of values so far.
    sum: u64,
    n: usize,
}

impl Model {
    fn new(io: &mut impl BitIo, format: Format, top: u32) -> Model {
        let part = |percent: i32| percent * 65_536 / 100;
        let relative = LOG_END / 4;
        let mut told = 0;
        for b in (0..8).rev() {
            told = told << 1 | u32::from(code(io, top >> b & 1 == 1, 32_768));
        }
        Model {
            format,
            top: told,
            octave: Mixed::new(
                [relative, relative, relative, 32 * 32 * OCTAVES, OCTAVES],
                OCTAVES,
                [part(50), part(20), part(20), part(20), part(20), 0],
            ),
            beyond: vec![Counter::NEW; 256],
            leading: Mixed::new(
                [(OCTAVES + 1) << MODELLED, (LOG_END / 8) << MODELLED, (LOG_END / 8) << MODELLED],
                1 << MODELLED,
                [part(50), part(20), part(20), 0],
            ),
            noise: [[Frequency::default(); 32]; 2],
            sum: 0,
            n: 0,
        }
    }

    /// Codes a tensor in either direction: `words` are read by the encoder and filled by the decoder.
    fn code(&mut self, io: &mut impl BitIo, words: &mut [u32], shape: &[usize]) -> Result<()> {
        // The last dimension makes a row; a tensor without one is a single value.
        let columns = shape.last().copied().unwrap_or(1).max(1);
        let mut column_sums = vec![0u64; columns];
        let mut above = vec![0usize; columns];
        for (i, row) in words.chunks_mut(columns).enumerate() {
            let (mut row_sum, mut left) = (0u64, 0usize);
            for (j, word) in row.iter_mut().enumerate() {
                let usual = (self.sum + (1 << 18)) / (self.n as u64 + 4);
                let rows = log_magnitude(mean(row_sum, j, usual));
                let cols = log_magnitude(mean(column_sums[j], i, usual));
                let both = (rows + cols).saturating_sub(log_magnitude(usual)).min(LOG_END / 2);
                let (value, octave) = self.value(io, *word, [both, rows, cols], left << 5 | above[j])?;
                *word = value;
                let leading = (value << 9 >> (self.format.mantissa + 2) & 127) | 128;
                let magnitude = u64::from(leading) << 16 >> octave;
                row_sum += magnitude;
                column_sums[j] += magnitude;
                self.sum += magnitude;
                self.n += 1;
                left = octave;
                above[j] = octave;
            }
        }
        Ok(())
    }

    /// One value; returns it with its octave. `scales`: log-magnitudes to expect, in the order of the contexts.
    #[inline]
    fn value(&mut self, io: &mut impl BitIo, word: u32, scales: [usize; 3], near: usize) -> Result<(u32, usize)> {
        let Format { exponent, mantissa } = self.format;
        let distance = self.top.wrapping_sub(self.format.exponent(word));
        let mut octave = 0;
        while octave < OCTAVES {
            let [both, rows, cols] = scales.map(|s| (s + octave * LOG_STEPS) / 4);
            let contexts = [both, rows, cols, near * OCTAVES + octave, octave];
            if self.octave.code(io, distance as usize == octave, octave, contexts) {
                break;
            }
            octave += 1;
        }
        let mut below = octave as u32;
        if octave == OCTAVES {
            let rest = distance.wrapping_sub(OCTAVES as u32);
            let mut node = 1;
            for b in (0..8).rev() {
                let counter = &mut self.beyond[node];
                let bit = code(io, rest >> b & 1 == 1, counter.p());
                counter.update(bit);
                node = node << 1 | usize::from(bit);
            }
            below += node as u32 & 255;
        }
        let mut value = self.top.checked_sub(below).ok_or_else(damaged)?;

        let noise = &mut self.noise[usize::from(octave == OCTAVES)];
        value |= u32::from(noise[31].code(io, word >> (exponent + mantissa) == 1)) << exponent;

        let [both, rows, _] = scales.map(|s| (s + octave * LOG_STEPS) / 8);
        let mut prefix = 1;
        for b in (0..mantissa).rev() {
            let bit = word >> b & 1 == 1;
            let bit = if mantissa - b <= MODELLED {
                let contexts = [octave, both, rows].map(|c| c << MODELLED | prefix);
                self.leading.code(io, bit, prefix, contexts)
            } else {
                noise[b as usize].code(io, bit)
            };
            prefix = prefix << 1 | usize::from(bit);
            value = value << 1 | u32::from(bit);
        }
        Ok((value, octave))
    }
}
