//! The lossless code of one matrix of trellis indices.
//!
//! Columns are coded one after the other (equal column scales together), each from the top: the order in which the
//! trellis runs, so that both sides know the grid of every place. [`Scales`] says what magnitude to expect there,
//! [`Model`] codes the index given that.

mod model;

pub use model::{BITS, MAX_INDEX, NODES};

use model::{LOWEST_LOG, Model, Place};

use super::logarithm::log16;
use super::range::{BitIo, Decoder, Encoder};
use super::scales::{Expected, Scales};
use super::trellis::Trellis;

/// Ranks with a price of their own in [`Prices`].
pub const PRICED: usize = 64;

/// Buckets of the expected magnitude for [`Prices`]: quarter octaves from 2^-6.
pub const BUCKETS: usize = 64;
const BUCKET_LOG: i32 = 4;

/// What both sides know about a matrix beforehand. Indices are column-major: (C, R), `q[j * rows + i]`.
#[derive(Clone, Copy)]
pub struct Grid<'a> {
    pub rows: usize,
    pub cols: usize,
    /// Row and column scales are 2^(exponent / 4).
    pub row_exp: &'a [i16],
    pub col_exp: &'a [i16],
    pub trellis: &'a Trellis,
}

impl Grid<'_> {
    fn len(&self) -> usize {
        assert!(self.row_exp.len() == self.rows && self.col_exp.len() == self.cols, "one exponent per row and column");
        self.rows * self.cols
    }

    /// Columns in coding order: neighbours should be alike.
    fn order(&self) -> Vec<usize> {
        let mut order: Vec<usize> = (0..self.cols).collect();
        order.sort_by_key(|&j| self.col_exp[j]);
        order
    }

    /// Calls `f` with the magnitude in grid steps of every index, down the columns.
    fn magnitudes(&self, q: &[i32], mut f: impl FnMut(u32)) {
        for column in q.chunks_exact(self.rows) {
            let mut state = 0;
            for q in column {
                f(self.trellis.value(self.trellis.grid[state], *q).unsigned_abs());
                state = usize::from(self.trellis.next[state][(q & 1) as usize]);
            }
        }
    }
}

/// Codes a matrix.
///
/// # Panics
/// If `q` does not have the shape of `grid`, or an index exceeds [`MAX_INDEX`].
pub fn encode(q: &[i32], grid: &Grid) -> Vec<u8> {
    assert!(q.len() == grid.len(), "one index per place");
    assert!(q.iter().all(|q| q.unsigned_abs() <= MAX_INDEX), "index out of range");
    let mut encoder = Encoder::new();
    if !q.is_empty() {
        walk(&mut encoder, grid, level(q, grid), &mut q.to_vec(), |_, _| ());
    }
    encoder.finish()
}

/// The indices of a coded matrix, or `None` if the bytes are not what [`encode`] writes.
pub fn decode(bytes: &[u8], grid: &Grid) -> Option<Vec<i32>> {
    let mut q = vec![0; grid.len()];
    let mut decoder = Decoder::new(bytes);
    if !q.is_empty() {
        walk(&mut decoder, grid, 0, &mut q, |_, _| ())?;
    }
    (!decoder.damaged()).then_some(q)
}

/// What indices cost, for rate-aware rounding in a second pass.
pub struct Prices {
    /// (BUCKETS, 2 grids, PRICED ranks of [`Trellis::rank`]): bits, the sign included.
    pub table: Vec<f32>,
    /// Column-major like the indices: the bucket of each place as the coder saw it.
    pub bucket: Vec<u8>,
}

/// The prices that the coder has arrived at by the end of this matrix.
pub fn prices(q: &[i32], grid: &Grid) -> Prices {
    assert!(q.len() == grid.len(), "one index per place");
    let mut bucket = vec![0u8; q.len()];
    let mut table = vec![0f32; BUCKETS * 2 * PRICED];
    if q.is_empty() {
        return Prices { table, bucket };
    }
    let see = |at: usize, expected: Expected| {
        bucket[at] = ((expected.log - LOWEST_LOG).div_euclid(BUCKET_LOG)).clamp(0, BUCKETS as i32 - 1) as u8;
    };
    let model = walk(&mut Meter::default(), grid, level(q, grid), &mut q.to_vec(), see);
    let mut model = model.expect("a meter takes every index");
    for (b, grids) in table.chunks_exact_mut(2 * PRICED).enumerate() {
        let log = LOWEST_LOG + b as i32 * BUCKET_LOG + BUCKET_LOG / 2;
        for (z, prices) in grids.chunks_exact_mut(PRICED).enumerate() {
            let place = Place::shape_only(log, z);
            for (rank, price) in prices.iter_mut().enumerate() {
                let mut meter = Meter::default();
                let coded = model.rank(&mut meter, &place, rank as u32, false);
                debug_assert!(coded.is_some());
                *price = meter.bits + f32::from(u8::from(grid.trellis.magnitude(z as u8, rank as u32) > 0));
            }
        }
    }
    Prices { table, bucket }
}

/// Counts the bits that a coder would write.
#[derive(Default)]
struct Meter {
    bits: f32,
}

impl BitIo for Meter {
    fn bit(&mut self, p: u32, bit: bool) -> bool {
        self.bits -= ((if bit { p } else { 65536 - p }) as f32 / 65536.0).log2();
        bit
    }
}

/// Mean magnitude as eighths of an octave over 2^-12, the one figure that goes ahead of a stream.
fn level(q: &[i32], grid: &Grid) -> u8 {
    let mut sum = 0u64;
    grid.magnitudes(q, |v| sum += u64::from(v));
    let mean = ((u128::from(sum) << 12) / q.len() as u128) as u64;
    ((log16(mean) + 1) / 2).min(255) as u8
}

/// 2^(k/8) in units of 2^-16.
const EIGHTHS: [u64; 8] = [65_536, 71_468, 77_936, 84_990, 92_682, 101_070, 110_218, 120_194];

/// Codes or decodes all indices; `see` hears what is expected at each place. `None`: the decoder met nonsense.
fn walk<B: BitIo>(
    io: &mut B,
    grid: &Grid,
    level: u8,
    q: &mut [i32],
    mut see: impl FnMut(usize, Expected),
) -> Option<Model> {
    let level = (0..8).fold(0, |l, k| (l << 1) | usize::from(io.even_bit((level >> (7 - k)) & 1 == 1)));
    let level = (EIGHTHS[level % 8] << (level / 8)) >> 16;
    let trellis = grid.trellis;
    let mut model = Model::new(trellis);
    let mut scales = Scales::new(grid.row_exp, grid.col_exp, level);
    for j in grid.order() {
        scales.begin_column(j);
        let mut state = 0;
        for (i, q) in q[j * grid.rows..(j + 1) * grid.rows].iter_mut().enumerate() {
            let expected = scales.expect(i);
            see(j * grid.rows + i, expected);
            let z = trellis.grid[state];
            let place = Place::new(expected, usize::from(z), state, trellis.states);
            let rank = model.rank(io, &place, trellis.rank(z, *q), true)?;
            let magnitude = trellis.magnitude(z, rank);
            let negative = magnitude > 0 && model.sign(io, scales.lean(), magnitude, trellis.value(z, *q) < 0);
            *q = trellis.index(z, rank, negative);
            scales.see(i, magnitude, negative);
            state = usize::from(trellis.next[state][(*q & 1) as usize]);
        }
        scales.end_column();
    }
    Some(model)
}

#[cfg(test)]
mod tests {
    use super::super::trellis::Odd;
    use super::*;
    use proptest::prelude::*;

    fn machines() -> Vec<Trellis> {
        let many = [4, 8, 64, 256].into_iter().filter_map(Trellis::with_states);
        many.flat_map(|t| [t.clone(), t.odd(Odd::Plain)]).chain([Trellis::uniform()]).collect()
    }

    /// Indices of all sizes, the small ones often.
    fn index() -> impl Strategy<Value = i32> {
        prop_oneof![
            8 => -3..=3i32,
            4 => -40..=40i32,
            1 => -(1 << 20)..=1i32 << 20,
            1 => Just(0),
        ]
    }

    fn matrix() -> impl Strategy<Value = (usize, usize, Vec<i32>, Vec<i16>, Vec<i16>)> {
        (prop_oneof![Just(1usize), 1..40usize], prop_oneof![Just(1usize), 1..40usize]).prop_flat_map(|(r, c)| {
            (
                Just(r),
                Just(c),
                prop::collection::vec(index(), r * c),
                prop::collection::vec(any::<i16>(), r),
                prop::collection::vec(-8..8i16, c),
            )
        })
    }

    proptest! {
        #[test]
        fn every_matrix_comes_back((rows, cols, q, row_exp, col_exp) in matrix()) {
            for trellis in machines() {
                let grid = Grid { rows, cols, row_exp: &row_exp, col_exp: &col_exp, trellis: &trellis };
                let bytes = encode(&q, &grid);
                prop_assert_eq!(decode(&bytes, &grid), Some(q.clone()));
            }
        }

        #[test]
        fn any_bytes_are_survived(bytes in prop::collection::vec(any::<u8>(), 0..600), rows in 1..40usize, cols in 1..40usize) {
            for trellis in machines() {
                let (row_exp, col_exp) = (vec![0; rows], vec![0; cols]);
                let grid = Grid { rows, cols, row_exp: &row_exp, col_exp: &col_exp, trellis: &trellis };
                if let Some(q) = decode(&bytes, &grid) {
                    prop_assert!(q.len() == rows * cols && q.iter().all(|q| q.unsigned_abs() <= MAX_INDEX + 1));
                }
            }
        }
    }

    #[test]
    fn extremes_come_back() {
        let large = MAX_INDEX as i32;
        for trellis in machines() {
            for (rows, cols) in [(0, 0), (0, 3), (3, 0), (1, 1), (1, 300), (300, 1), (64, 64)] {
                for fill in [0, 1, -1, 7, large, -large] {
                    let (row_exp, col_exp) = (vec![i16::MAX; rows], vec![i16::MIN; cols]);
                    let grid = Grid { rows, cols, row_exp: &row_exp, col_exp: &col_exp, trellis: &trellis };
                    let q: Vec<i32> = (0..rows * cols).map(|k| if k % 7 == 3 { -fill } else { fill }).collect();
                    assert_eq!(decode(&encode(&q, &grid), &grid), Some(q), "{rows}x{cols} of {fill}");
                }
            }
        }
    }

    /// Rounded noise whose scale varies by row and column.
    fn noise(rows: usize, cols: usize, scale: f64) -> Vec<i32> {
        let mut seed = 7u64;
        let mut uniform = || {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (seed >> 40) as f64 / f64::from(1 << 24)
        };
        let mut q = Vec::new();
        for j in 0..cols {
            for i in 0..rows {
                let sum: f64 = (0..12).map(|_| uniform()).sum::<f64>() - 6.0;
                let local = scale * (1.0 + (i % 5) as f64) * (1.0 + (j % 3) as f64) / 6.0;
                q.push((sum * local).round() as i32);
            }
        }
        q
    }

    #[test]
    fn prices_add_up_to_the_bytes() {
        let (rows, cols) = (128, 128);
        for scale in [0.5, 2.0, 9.0] {
            let (row_exp, col_exp) = (vec![0; rows], vec![0; cols]);
            let trellis = Trellis::uniform();
            let grid = Grid { rows, cols, row_exp: &row_exp, col_exp: &col_exp, trellis: &trellis };
            let q = noise(rows, cols, scale);
            let prices = prices(&q, &grid);
            let bits: f32 = q
                .iter()
                .zip(&prices.bucket)
                .map(|(q, b)| prices.table[usize::from(*b) * 2 * PRICED + (q.unsigned_abs() as usize).min(PRICED - 1)])
                .sum();
            let bytes = encode(&q, &grid).len() as f32;
            assert!((bits / 8.0 / bytes - 1.0).abs() < 0.02, "scale {scale}: {} priced, {bytes} coded", bits / 8.0);
        }
    }

    #[test]
    fn a_cut_stream_is_refused() {
        let (rows, cols) = (64, 64);
        let (row_exp, col_exp) = (vec![0; rows], vec![0; cols]);
        let trellis = Trellis::four();
        let grid = Grid { rows, cols, row_exp: &row_exp, col_exp: &col_exp, trellis: &trellis };
        let bytes = encode(&noise(rows, cols, 2.0), &grid);
        assert!(decode(&bytes[..bytes.len() / 2], &grid).is_none());
        assert!(decode(&[&bytes[..], &[0; 9]].concat(), &grid).is_none());
    }
}
