//! The objective that training minimises, and its gradient at the logits.

use candle_core::{D, Result, Tensor};
use serde::{Deserialize, Serialize};

use crate::error::{self, Error};
use crate::eval::predictions::{Predictions, composed_log_softmax, log_softmax};
use crate::nets::ops::pointwise::exp;
use crate::nets::ops::simd::vectorized;
use crate::nets::ops::with_elements;

/// The objective of a student.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Objective {
    /// KL(teacher ‖ student), in nats per token: distillation (Hinton et al., arXiv:1503.02531).
    Kl,
    /// The cross-entropy of the tokens themselves.
    Data,
    /// The mean of both.
    Both,
}

/// Sums over positions, in nats.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Totals {
    /// KL(teacher ‖ student); 0 without a teacher.
    pub divergence: f64,
    /// −log p(target).
    pub loss: f64,
    pub positions: usize,
}

impl Totals {
    pub fn add(&mut self, other: Totals) {
        self.divergence += other.divergence;
        self.loss += other.loss;
        self.positions += other.positions;
    }
}

impl Totals {
    /// What `objective` minimises, per token.
    pub fn mean(&self, objective: Objective) -> f64 {
        let share = f64::from(objective.data());
        (share * self.loss + (1.0 - share) * self.divergence) / self.positions.max(1) as f64
    }

    /// Nats per token.
    pub fn mean_divergence(&self) -> f64 {
        self.divergence / self.positions.max(1) as f64
    }

    /// Nats per token.
    pub fn mean_loss(&self) -> f64 {
        self.loss / self.positions.max(1) as f64
    }
}

impl Objective {
    /// Sums over what a student and its teacher, if it has one, predict where these tokens come next.
    ///
    /// # Errors
    /// If a tensor operation fails.
    pub fn totals(student: &Predictions, teacher: Option<&Predictions>, targets: &[u32]) -> error::Result<Totals> {
        let sum = |each: Vec<f32>| each.iter().map(|v| f64::from(*v)).sum::<f64>();
        let mut totals = Totals::default();
        for piece in student.pieces()? {
            let (student, targets) = (student.part(piece.clone())?, &targets[piece.clone()]);
            totals.add(Totals {
                divergence: match teacher {
                    Some(teacher) => sum(teacher.part(piece)?.divergence(&student)?),
                    None => 0.0,
                },
                loss: sum(student.losses(targets.iter())?),
                positions: targets.len(),
            });
        }
        Ok(totals)
    }

    /// Share of the tokens themselves in the objective.
    fn data(self) -> f32 {
        match self {
            Objective::Kl => 0.0,
            Objective::Data => 1.0,
            Objective::Both => 0.5,
        }
    }

    /// Whether a teacher is needed.
    pub fn teaches(self) -> bool {
        self != Objective::Data
    }

    /// Sums over the positions of `logits` (positions, V), and the gradient of the summed objective there: student minus wanted
    /// probabilities. `targets` holds a token for each position, the teacher's predictions are whole.
    ///
    /// # Errors
    /// If a tensor operation fails, or a teacher is missing.
    pub fn gradient(
        self,
        logits: &Tensor,
        teacher: Option<&Predictions>,
        targets: &[u32],
    ) -> error::Result<(Totals, Tensor)> {
        match teacher.filter(|_| self.teaches()) {
            None if self.teaches() => Err(Error::compute("there is no teacher")),
            Some(Predictions::Head(_)) => Err(Error::compute("the teacher's predictions are not whole")),
            Some(Predictions::Host { values, .. }) => Ok(self.fused(logits, Some(values), targets)?),
            None if logits.device().is_cpu() => Ok(self.fused(logits, None, targets)?),
            teacher => self.composed(logits, teacher, targets),
        }
    }

    /// By candle's operations, where the logits are.
    fn composed(
        self,
        logits: &Tensor,
        teacher: Option<&Predictions>,
        targets: &[u32],
    ) -> error::Result<(Totals, Tensor)> {
        let (share, student) = (self.data(), composed_log_softmax(&logits.detach())?);
        let mut gradient = student.exp()?;
        if let Some(Predictions::Device(teacher)) = teacher {
            gradient = (gradient - (teacher.exp()? * f64::from(1.0 - share))?)?;
        }
        if share > 0.0 {
            let ids = targets.to_vec();
            let ids = Tensor::from_vec(ids, (targets.len(), 1), student.device())?;
            let wanted = Tensor::full(-share, ids.shape(), student.device())?;
            gradient = gradient.scatter_add(&ids, &wanted, D::Minus1)?;
        }
        Ok((Objective::totals(&Predictions::Device(student), teacher, targets)?, gradient))
    }

    /// In one pass over every position, on the CPU.
    fn fused(self, logits: &Tensor, teacher: Option<&[f32]>, targets: &[u32]) -> Result<(Totals, Tensor)> {
        let vocab = logits.dim(D::Minus1)?;
        let mut gradient = with_elements([&logits.contiguous()?], |[x]| x.to_vec())?;
        let share = self.data();
        let mut totals = Totals::default();
        for (at, (row, target)) in gradient.chunks_exact_mut(vocab).zip(targets).enumerate() {
            let target = *target as usize;
            log_softmax(row);
            totals.loss -= f64::from(row[target]);
            match teacher {
                Some(teacher) => {
                    let teacher = &teacher[at * vocab..(at + 1) * vocab];
                    totals.divergence += f64::from(distil(row, teacher, share));
                }
                None => vectorized(
                    #[inline(always)]
                    || row.iter_mut().for_each(|q| *q = exp(*q)),
                ),
            }
            row[target] -= share;
            totals.positions += 1;
        }
        Ok((totals, Tensor::from_vec(gradient, logits.shape(), logits.device())?))
    }
}

/// Turns a student's log-probabilities into its probabilities less (1 − share) times the teacher's. Returns
/// KL(teacher ‖ student).
fn distil(student: &mut [f32], teacher: &[f32], share: f32) -> f32 {
    vectorized(
        #[inline(always)]
        || {
            let mut divergence = [0f32; 8];
            let mut add = |k: usize, q: &mut f32, p: &f32| {
                let probability = exp(*p);
                divergence[k] += probability * (p - *q);
                *q = exp(*q) - (1.0 - share) * probability;
            };
            let ((students, last), (teachers, rest)) = (student.as_chunks_mut::<8>(), teacher.as_chunks::<8>());
            for (q, p) in students.iter_mut().zip(teachers) {
                (0..8).for_each(|k| add(k, &mut q[k], &p[k]));
            }
            last.iter_mut().zip(rest).enumerate().for_each(|(k, (q, p))| add(k, q, p));
            divergence.iter().sum()
        },
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nets::ops::check::values;
    use candle_core::Device;

    #[test]
    fn composed_is_fused() {
        let (n, vocab) = (6, 9);
        let on = |seed| Tensor::from_vec(values(n * vocab, seed), (n, vocab), &Device::Cpu).unwrap();
        let (x, teacher) = (on(3), composed_log_softmax(&on(4)).unwrap());
        let host = teacher.flatten_all().unwrap().to_vec1::<f32>().unwrap();
        let targets = [3, 0, 8, 2, 2, 5];
        for objective in [Objective::Kl, Objective::Data, Objective::Both] {
            let (a, fused) =
                objective.fused(&x, Some(&host).filter(|_| objective.teaches()).map(|v| &v[..]), &targets).unwrap();
            let there = Predictions::Device(teacher.clone());
            let (b, composed) = objective.gradient(&x, Some(&there), &targets).unwrap();
            assert!((a.loss - b.loss).abs() < 1e-5 && (a.divergence - b.divergence).abs() < 1e-5, "{a:?} {b:?}");
            assert_eq!(a.positions, b.positions);
            let off = (fused - composed).unwrap().abs().unwrap().max_all().unwrap().to_scalar::<f32>().unwrap();
            assert!(off < 1e-6, "{objective:?}: off by {off:e}");
        }
        assert!(Objective::Kl.gradient(&x, None, &targets).is_err());
    }

    #[test]
    fn gradients_are_those_of_the_sums() {
        let (n, vocab) = (5, 7);
        let x = values(n * vocab, 3);
        let mut teacher = values(n * vocab, 4);
        teacher.chunks_exact_mut(vocab).for_each(log_softmax);
        let targets = [3, 0, 6, 2, 2];
        for objective in [Objective::Kl, Objective::Data, Objective::Both] {
            let at = |x: &[f32]| {
                let logits = Tensor::from_slice(x, (n, vocab), &Device::Cpu).unwrap();
                let (totals, gradient) = objective
                    .fused(&logits, Some(&teacher).filter(|_| objective.teaches()).map(|v| &v[..]), &targets)
                    .unwrap();
                let share = f64::from(objective.data());
                (share * totals.loss + (1.0 - share) * totals.divergence, gradient)
            };
            let gradient = at(&x).1.flatten_all().unwrap().to_vec1::<f32>().unwrap();
            for k in 0..n * vocab {
                let (mut up, mut down) = (x.clone(), x.clone());
                up[k] += 1e-2;
                down[k] -= 1e-2;
                let expected = (at(&up).0 - at(&down).0) / (f64::from(up[k]) - f64::from(down[k]));
                assert!((f64::from(gradient[k]) - expected).abs() < 1e-3, "{objective:?} {k}");
            }
        }
    }
}
