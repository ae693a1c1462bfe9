//! Text set aside from training, to see what a student has learned and not only remembered.

use rayon::prelude::*;

use super::joined::{Joined, join};
use super::objective::{Objective, Totals};
use super::teacher::Teacher;
use crate::error::Result;
use crate::eval::logits::device;
use crate::eval::windows::Windows;
use crate::nets::{Net, Params};

/// Pieces of text, and the teacher that students are held against on them.
pub struct HeldOut<'a> {
    pieces: Vec<Joined>,
    teacher: &'a Teacher<'a>,
}

impl<'a> HeldOut<'a> {
    /// # Errors
    /// If the text cannot be copied to the device of the teacher.
    pub fn new(teacher: &'a Teacher<'a>, pieces: &[Windows]) -> Result<Self> {
        Ok(HeldOut { pieces: join(pieces, device(teacher.params()))?, teacher })
    }

    pub fn tokens(&self) -> usize {
        self.pieces.iter().map(|piece| piece.targets.len()).sum()
    }

    /// Divergence from the teacher, and loss, of a student.
    ///
    /// # Errors
    /// If the forward pass fails.
    pub fn measure(&self, net: &dyn Net, student: &Params) -> Result<Totals> {
        let of = |piece: &Joined| {
            let teacher = self.teacher.predict(piece)?;
            Objective::totals(&piece.predict(net, student)?, Some(&teacher), &piece.targets)
        };
        let each: Vec<Totals> = self.pieces.par_iter().map(of).collect::<Result<_>>()?;
        let mut totals = Totals::default();
        each.into_iter().for_each(|t| totals.add(t));
        Ok(totals)
    }
}
