//! Which text a step sees: pieces of a token stream in a shuffled order.

use super::gradient::Batch;
use crate::eval::windows::Windows;
use crate::random::Random;

/// A token stream cut into pieces of some rows, shuffled anew for every pass over it.
pub struct Rows<'a> {
    tokens: &'a [u32],
    length: usize,
    /// Rows of a piece.
    rows: usize,
    order: Vec<usize>,
    next: usize,
    seed: u64,
    /// Passes begun.
    pub passes: usize,
}

impl<'a> Rows<'a> {
    /// `rows` rows of `length` tokens in a piece, of the pieces that `keep` takes.
    pub fn new(tokens: &'a [u32], length: usize, rows: usize, seed: u64, keep: impl Fn(usize) -> bool) -> Self {
        let pieces = Windows::new(tokens, length, None).rows() / rows;
        let order = (0..pieces).filter(|i| keep(*i)).collect::<Vec<_>>();
        let next = order.len();
        Rows { tokens, length, rows, order, next, seed, passes: 0 }
    }

    /// Pieces of a pass.
    pub fn pieces(&self) -> usize {
        self.order.len()
    }

    /// Piece `i` of the stream.
    pub fn piece(&self, i: usize) -> Windows<'a> {
        let start = i * self.rows * self.length;
        Windows::new(&self.tokens[start..=start + self.rows * self.length], self.length, None)
    }

    /// The next `pieces` pieces; a new pass begins where one ends.
    pub fn batch(&mut self, pieces: usize) -> Batch<'a> {
        (0..pieces)
            .map(|_| {
                if self.next == self.order.len() {
                    self.shuffle();
                }
                self.next += 1;
                self.piece(self.order[self.next - 1])
            })
            .collect()
    }

    /// Fisher and Yates.
    fn shuffle(&mut self) {
        let mut random = Random::new(self.seed ^ (self.passes as u64).wrapping_mul(0xA076_1D64_78BD_642F));
        self.order.sort_unstable();
        for i in (1..self.order.len()).rev() {
            self.order.swap(i, random.below(i + 1));
        }
        (self.next, self.passes) = (0, self.passes + 1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_pass_sees_every_piece_once_in_an_order_of_its_own() {
        let tokens: Vec<u32> = (0..101).collect();
        let mut rows = Rows::new(&tokens, 5, 2, 7, |i| i % 3 != 2);
        assert_eq!(rows.pieces(), 7);
        let mut pass = || rows.batch(7).iter().map(|w| w.input(0)[0]).collect::<Vec<_>>();
        let (first, second) = (pass(), pass());
        assert_ne!(first, second);
        for mut pass in [first, second] {
            pass.sort_unstable();
            assert_eq!(pass, vec![0, 10, 30, 40, 60, 70, 90]);
        }
        let piece = rows.piece(9);
        assert_eq!((piece.rows(), piece.target(1)), (2, &tokens[96..101]));
    }
}
