//! The lossless code of one matrix of trellis indices.
//!
//! Columns are coded one after the other (equal column scales together), each from the top: the order in which the
//! trellis runs, so that both sides know the grid of every place. `scales` says what magnitude to expect there,
//! `model` codes the index given that; `walk` does both for every place, reading or writing.

mod decode;
mod encode;
mod layout;
mod model;
mod prices;
mod priors;
mod scales;
mod walk;

pub use decode::decode;
pub use encode::encode;
pub use layout::Layout;
pub use model::MAX_INDEX;
pub use prices::{PRICED, Prices, prices};
pub use priors::{BITS, NODES, PRIORS};

#[cfg(test)]
mod tests {
    use super::*;
    use crate::grid::trellis::{Odd, Trellis};
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
                let layout = Layout { rows, cols, row_exp: &row_exp, col_exp: &col_exp, trellis: &trellis };
                let bytes = encode(&q, &layout);
                prop_assert_eq!(decode(&bytes, &layout), Some(q.clone()));
            }
        }

        #[test]
        fn any_bytes_are_survived(bytes in prop::collection::vec(any::<u8>(), 0..600), rows in 1..40usize, cols in 1..40usize) {
            for trellis in machines() {
                let (row_exp, col_exp) = (vec![0; rows], vec![0; cols]);
                let layout = Layout { rows, cols, row_exp: &row_exp, col_exp: &col_exp, trellis: &trellis };
                if let Some(q) = decode(&bytes, &layout) {
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
                    let layout = Layout { rows, cols, row_exp: &row_exp, col_exp: &col_exp, trellis: &trellis };
                    let q: Vec<i32> = (0..rows * cols).map(|k| if k % 7 == 3 { -fill } else { fill }).collect();
                    assert_eq!(decode(&encode(&q, &layout), &layout), Some(q), "{rows}x{cols} of {fill}");
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
            let layout = Layout { rows, cols, row_exp: &row_exp, col_exp: &col_exp, trellis: &trellis };
            let q = noise(rows, cols, scale);
            let prices = prices(&q, &layout);
            let bits: f32 = q
                .iter()
                .zip(&prices.bucket)
                .map(|(q, b)| prices.of(*b)[(q.unsigned_abs() as usize).min(PRICED - 1)])
                .sum();
            let bytes = encode(&q, &layout).len() as f32;
            assert!((bits / 8.0 / bytes - 1.0).abs() < 0.02, "scale {scale}: {} priced, {bytes} coded", bits / 8.0);
        }
    }

    #[test]
    fn a_cut_stream_is_refused() {
        let (rows, cols) = (64, 64);
        let (row_exp, col_exp) = (vec![0; rows], vec![0; cols]);
        let trellis = Trellis::four();
        let layout = Layout { rows, cols, row_exp: &row_exp, col_exp: &col_exp, trellis: &trellis };
        let bytes = encode(&noise(rows, cols, 2.0), &layout);
        assert!(decode(&bytes[..bytes.len() / 2], &layout).is_none());
        assert!(decode(&[&bytes[..], &[0; 9]].concat(), &layout).is_none());
    }
}
