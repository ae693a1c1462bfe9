//! Text set aside from training, to see what a student has learned and not only remembered.

use rayon::prelude::*;

use super::joined::{Joined, join};
use super::objective::{Objective, Totals};
use super::teacher::Teacher;
use crate::error::Result;
use crate::eval::logits::device;
use crate::eval::predictions::Predictions;
use crate::eval::windows::Windows;
use crate::nets::{Net, Params};

/// Bytes of a teacher's log-probabilities that are kept; where there are more they are computed anew each time.
const KEPT: usize = 256 << 20;

/// Pieces of text, and what the teacher says of them.
pub struct HeldOut<'a> {
    pieces: Vec<Joined>,
    teacher: &'a Teacher<'a>,
    known: Option<Vec<Predictions>>,
}

impl<'a> HeldOut<'a> {
    /// # Errors
    /// If the forward pass fails.
    pub fn new(net: &dyn Net, teacher: &'a Teacher<'a>, pieces: &[Windows]) -> Result<Self> {
        let pieces = join(pieces, device(teacher.params()))?;
        let bytes = pieces.iter().map(|piece| piece.targets.len()).sum::<usize>() * net.vocab_size() * 4;
        let known = (bytes <= KEPT)
            .then(|| pieces.par_iter().map(|piece| teacher.predict(piece)).collect::<Result<_>>())
            .transpose()?;
        Ok(HeldOut { pieces, teacher, known })
    }

    pub fn tokens(&self) -> usize {
        self.pieces.iter().map(|piece| piece.targets.len()).sum()
    }

    /// Divergence from the teacher, and loss, of a student.
    ///
    /// # Errors
    /// If the forward pass fails.
    pub fn measure(&self, net: &dyn Net, student: &Params) -> Result<Totals> {
        let of = |(i, piece): (usize, &Joined)| -> Result<Totals> {
            let made;
            let teacher = match &self.known {
                Some(known) => &known[i],
                None => {
                    made = self.teacher.predict(piece)?;
                    &made
                }
            };
            Objective::totals(&piece.predict(net, student)?, Some(teacher), &piece.targets)
        };
        let each: Vec<Totals> = self.pieces.par_iter().enumerate().map(of).collect::<Result<_>>()?;
        let mut totals = Totals::default();
        each.into_iter().for_each(|t| totals.add(t));
        Ok(totals)
    }
}
