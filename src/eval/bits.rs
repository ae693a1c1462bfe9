//! Bits per byte: the loss in a unit that does not depend on how the text was cut into tokens.
//!
//! As the challenge counts: nats over all predicted tokens, divided by ln 2 and by the bytes of text that these tokens
//! stand for. The first token of a row sequence is never predicted, so its bytes do not count.

use std::f64::consts::LN_2;

use super::windows::Windows;
use crate::ingest::TokenBytes;

/// Bytes of text that the predicted tokens of all rows stand for.
///
/// # Panics
/// A token has no entry in the table; [`TokenBytes::check_vocab`] rules that out.
pub fn target_bytes(windows: &Windows, table: &TokenBytes) -> u64 {
    windows.pairs().map(|(previous, target)| u64::from(table.bytes_of(previous, target))).sum()
}

/// Bits per byte of `nats` summed over tokens that stand for `bytes`; `None` when they stand for no text at all.
///
/// ```
/// use tiepack::eval::bits::bits_per_byte;
/// // Two tokens of probability 1/8 each are 6 bits; they stand for four bytes of text.
/// assert_eq!(bits_per_byte(2.0 * 8f64.ln(), 4), Some(1.5));
/// assert_eq!(bits_per_byte(1.0, 0), None);
/// ```
pub fn bits_per_byte(nats: f64, bytes: u64) -> Option<f64> {
    (bytes > 0).then(|| nats / LN_2 / bytes as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 0: control; 1: "▁the"; 2: "er"; 3: a byte piece; 4: "é".
    fn table() -> TokenBytes {
        TokenBytes {
            bytes: vec![0, 3, 2, 1, 2],
            leading_space: vec![false, true, false, false, false],
            boundary: vec![true, false, false, false, false],
            padded: false,
            rebuilt: None,
        }
    }

    #[test]
    fn a_space_counts_unless_a_boundary_is_before_it() {
        // Predicted: "the" after the boundary (3), "er" (2), " the" (4), the boundary (0).
        let windows = Windows::new(&[0, 1, 2, 1, 0], 4, None);
        assert_eq!(target_bytes(&windows, &table()), 9);
    }

    #[test]
    fn the_first_token_and_the_dropped_tail_do_not_count() {
        // One row of three targets: byte (1), "é" (2), "er" (2). Token 1 before it and 1 after it stay out.
        let windows = Windows::new(&[1, 3, 4, 2, 1], 3, None);
        assert_eq!(target_bytes(&windows, &table()), 5);
        assert_eq!(target_bytes(&Windows::new(&[1, 3, 4], 3, None), &table()), 0);
    }

    #[test]
    fn rows_join_without_a_gap() {
        // Two rows of two: the second row's first target is predicted after the first row's last token.
        let tokens = [2, 2, 0, 1, 1];
        let (one, both) = (Windows::new(&tokens, 2, Some(1)), Windows::new(&tokens, 2, None));
        assert_eq!((target_bytes(&one, &table()), target_bytes(&both, &table())), (2, 2 + 3 + 4));
    }

    #[test]
    fn eight_bits_over_two_bytes_are_four_bits_per_byte() {
        assert_eq!(bits_per_byte(8.0 * LN_2, 2), Some(4.0));
        assert_eq!(bits_per_byte(1.0, 0), None);
    }
}
