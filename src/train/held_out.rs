//! Text set aside from training, to see what a student has learned and not only remembered.

use rayon::prelude::*;

use super::objective::{Objective, Totals};
use crate::error::Result;
use crate::eval::logits::log_probabilities;
use crate::eval::windows::Windows;
use crate::nets::{Net, Params};

/// Bytes of a teacher's log-probabilities that are kept; where there are more they are computed anew each time.
const KEPT: usize = 256 << 20;

/// Pieces of text, and what the teacher says of them.
pub struct HeldOut<'a> {
    pieces: Vec<Windows<'a>>,
    teacher: &'a Params,
    known: Option<Vec<Vec<f32>>>,
}

impl<'a> HeldOut<'a> {
    /// # Errors
    /// If the forward pass fails.
    pub fn new(net: &dyn Net, teacher: &'a Params, pieces: Vec<Windows<'a>>) -> Result<Self> {
        let bytes = pieces.iter().map(Windows::tokens).sum::<usize>() * net.vocab_size() * 4;
        let of = |piece: &Windows| log_probabilities(net, teacher, piece, 0..piece.rows());
        let known = (bytes <= KEPT).then(|| pieces.par_iter().map(of).collect::<Result<_>>()).transpose()?;
        Ok(HeldOut { pieces, teacher, known })
    }

    pub fn tokens(&self) -> usize {
        self.pieces.iter().map(Windows::tokens).sum()
    }

    /// Divergence from the teacher, and loss, of a student.
    ///
    /// # Errors
    /// If the forward pass fails.
    pub fn measure(&self, net: &dyn Net, student: &Params) -> Result<Totals> {
        let of = |(i, piece): (usize, &Windows)| -> Result<Totals> {
            let made;
            let teacher = match &self.known {
                Some(known) => &known[i],
                None => {
                    made = log_probabilities(net, self.teacher, piece, 0..piece.rows())?;
                    &made
                }
            };
            let student = log_probabilities(net, student, piece, 0..piece.rows())?;
            Ok(Objective::totals(&student, teacher, piece, net.vocab_size()))
        };
        let each: Vec<Totals> = self.pieces.par_iter().enumerate().map(of).collect::<Result<_>>()?;
        let mut totals = Totals::default();
        each.into_iter().for_each(|t| totals.add(t));
        Ok(totals)
    }
}
