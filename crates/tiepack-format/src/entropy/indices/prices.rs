//! Prices of indices in bits, from the coder's own probabilities, for the search.

use super::encode::level;
use super::layout::Layout;
use super::model::{LOWEST_LOG, Position};
use super::scales::Expected;
use super::walk::walk;
use crate::entropy::range::BitIo;

/// Ranks with a price of their own in [`Prices`].
pub const PRICED: usize = 64;

/// Buckets of the expected magnitude for [`Prices`]: quarter octaves from 2^-6.
const BUCKETS: usize = 64;
const BUCKET_LOG: i32 = 4;

/// Prices of indices, for rate-aware rounding in a second pass.
#[derive(Clone)]
pub struct Prices {
    /// (BUCKETS, 2 grids, PRICED ranks of [`crate::grid::trellis::Trellis::magnitude_index`]): bits, the sign included.
    pub table: Vec<f32>,
    /// Column-major like the indices: the bucket of each place as the coder saw it.
    pub bucket: Vec<u8>,
}

impl Prices {
    /// (2 grids, PRICED ranks): bits in a bucket.
    #[inline]
    pub fn of(&self, bucket: u8) -> &[f32; 2 * PRICED] {
        &self.table.as_chunks().0[usize::from(bucket)]
    }
}

/// The prices that the coder has arrived at by the end of this matrix.
pub fn prices(q: &[i32], layout: &Layout) -> Prices {
    assert!(q.len() == layout.len(), "one index per place");
    let mut bucket = vec![0u8; q.len()];
    let mut table = vec![0f32; BUCKETS * 2 * PRICED];
    if q.is_empty() {
        return Prices { table, bucket };
    }
    let see = |at: usize, expected: Expected| {
        bucket[at] = ((expected.log - LOWEST_LOG).div_euclid(BUCKET_LOG)).clamp(0, BUCKETS as i32 - 1) as u8;
    };
    let model = walk(&mut Meter::default(), layout, level(q, layout), &mut q.to_vec(), see);
    let mut model = model.expect("a meter takes every index");
    for (b, grids) in table.chunks_exact_mut(2 * PRICED).enumerate() {
        let log = LOWEST_LOG + b as i32 * BUCKET_LOG + BUCKET_LOG / 2;
        for (z, prices) in grids.chunks_exact_mut(PRICED).enumerate() {
            let position = Position::prior_only(log, z);
            for (magnitude_index, price) in prices.iter_mut().enumerate() {
                let mut meter = Meter::default();
                let coded = model.magnitude_index(&mut meter, &position, magnitude_index as u32, false);
                debug_assert!(coded.is_some());
                *price =
                    meter.bits + f32::from(u8::from(layout.trellis.magnitude(z as u8, magnitude_index as u32) > 0));
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
