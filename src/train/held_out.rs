//! Text set aside from training, to see what a student has learned and not only remembered.

use candle_core::{Device, Tensor};
use rayon::prelude::*;

use super::joined::{Joined, join};
use super::objective::{Objective, Totals};
use crate::error::Result;
use crate::eval::logits::log_probabilities;
use crate::eval::windows::Windows;
use crate::nets::{Net, Params};

/// Bytes of a teacher's log-probabilities that are kept; where there are more they are computed anew each time.
const KEPT: usize = 256 << 20;

/// Pieces of text, and what the teacher says of them.
pub struct HeldOut<'a> {
    teacher: &'a Params,
    tokens: usize,
    text: Text<'a>,
}

enum Text<'a> {
    /// Pieces that run side by side.
    Cpu { pieces: Vec<Windows<'a>>, known: Option<Vec<Vec<f32>>> },
    /// Pieces that run together, one pass after the other.
    Device { joined: Vec<Joined>, known: Option<Vec<Tensor>> },
}

impl<'a> HeldOut<'a> {
    /// # Errors
    /// If the forward pass fails.
    pub fn new(net: &dyn Net, teacher: &'a Params, pieces: Vec<Windows<'a>>) -> Result<Self> {
        let tokens = pieces.iter().map(Windows::tokens).sum::<usize>();
        let keeps = tokens * net.vocab_size() * 4 <= KEPT;
        let text = match teacher.values().next().map_or(&Device::Cpu, Tensor::device) {
            Device::Cpu => {
                let of = |piece: &Windows| log_probabilities(net, teacher, piece, 0..piece.rows());
                let known = keeps.then(|| pieces.par_iter().map(of).collect::<Result<_>>()).transpose()?;
                Text::Cpu { pieces, known }
            }
            device => {
                let joined = join(&pieces, device)?;
                let of = |pieces: &Joined| pieces.log_probabilities(net, teacher);
                let known = keeps.then(|| joined.iter().map(of).collect::<Result<_>>()).transpose()?;
                Text::Device { joined, known }
            }
        };
        Ok(HeldOut { teacher, tokens, text })
    }

    pub fn tokens(&self) -> usize {
        self.tokens
    }

    /// Divergence from the teacher, and loss, of a student.
    ///
    /// # Errors
    /// If the forward pass fails.
    pub fn measure(&self, net: &dyn Net, student: &Params) -> Result<Totals> {
        let each: Vec<Totals> = match &self.text {
            Text::Cpu { pieces, known } => {
                let of = |(i, piece): (usize, &Windows)| -> Result<Totals> {
                    let made;
                    let teacher = match known {
                        Some(known) => &known[i],
                        None => {
                            made = log_probabilities(net, self.teacher, piece, 0..piece.rows())?;
                            &made
                        }
                    };
                    let student = log_probabilities(net, student, piece, 0..piece.rows())?;
                    Ok(Objective::totals(&student, teacher, piece, net.vocab_size()))
                };
                pieces.par_iter().enumerate().map(of).collect::<Result<_>>()?
            }
            Text::Device { joined, known } => {
                let of = |(i, pieces): (usize, &Joined)| -> Result<Totals> {
                    let teacher = match known {
                        Some(known) => known[i].clone(),
                        None => pieces.log_probabilities(net, self.teacher)?,
                    };
                    let student = pieces.log_probabilities(net, student)?;
                    Ok(Objective::composed_totals(&student, Some(&teacher), &pieces.targets)?)
                };
                joined.iter().enumerate().map(of).collect::<Result<_>>()?
            }
        };
        let mut totals = Totals::default();
        each.into_iter().for_each(|t| totals.add(t));
        Ok(totals)
    }
}
