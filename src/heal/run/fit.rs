//! The end of a run: the last group is frozen at a price at which the file fills its cap, and weighed against the untrained one.

use super::{FITS, HealingRun};
use crate::error::Result;
use crate::heal::Point;

/// Distance of the first two prices tried, in natural logarithms.
const STRIDE: f32 = 0.1;
/// KL on the text itself over that on text set aside, below which the text counts as learned by heart.
const BY_HEART: f64 = 0.85;

/// A state that fits.
struct Fitting {
    bytes: u64,
    coded: Vec<Vec<u8>>,
    weights: Vec<Vec<f32>>,
}

impl HealingRun<'_> {
    /// Freezes all that is free, at a price at which the file fills its budget, and takes that if it is better than untrained.
    pub(super) fn fit(&mut self) -> Result<()> {
        if self.state.step == 0 {
            return Ok(());
        }
        let (start, budget) = (self.student.snapshot(), self.options.budget);
        let (mut dear, mut cheap) = (None, None);
        let (mut price, mut stride) = (self.state.price.ln(), STRIDE);
        let mut fitting: Option<Fitting> = None;
        for _ in 0..FITS {
            self.student.restore(&start);
            self.student.freeze(1.0, price.exp());
            let coded = self.student.coded(&self.coded);
            let bytes = (self.file_size)(&coded.iter().map(Vec::len).collect::<Vec<_>>())?;
            if bytes <= budget {
                dear = Some(price);
                if fitting.as_ref().is_none_or(|f| bytes > f.bytes) {
                    fitting = Some(Fitting { bytes, coded, weights: self.student.weights.clone() });
                }
                if budget - bytes <= budget / self.options.pace.close {
                    break;
                }
            } else {
                cheap = Some(price);
            }
            price = match (cheap, dear) {
                (Some(cheap), Some(dear)) => 0.5 * (cheap + dear),
                (None, _) => price - stride,
                (_, None) => price + stride,
            };
            stride *= 2.0;
        }
        let Some(Fitting { bytes, coded, weights }) = fitting else {
            self.progress.note("healing: what was learned does not fit into the cap; packed without it");
            return Ok(());
        };
        self.state.group = self.groups;
        self.measure(&weights, bytes)?;
        self.weigh_text();
        if self.objective_at(self.state.course.len() - 1) < self.objective_at(0) {
            self.coded = coded;
        } else {
            self.state.group = 0;
        }
        Ok(())
    }

    /// Warns where the text was overfitted: its KL is well below that of held-out text.
    fn weigh_text(&self) {
        let seen: Vec<&Point> = self.state.course.iter().filter(|p| p.frozen < 1.0 && p.training_kl > 0.0).collect();
        let mean = |of: fn(&Point) -> f64| seen.iter().map(|p| of(p)).sum::<f64>() / seen.len().max(1) as f64;
        let (there, here, passes) = (mean(|p| p.training_kl), mean(|p| p.kl), self.passes());
        if passes > 1.0 && there < BY_HEART * here {
            self.progress.note(&format!(
                "healing went over its text {passes:.1} times: KL {there:.4} there, {here:.4} on text set aside; more \
                 calibration text would help"
            ));
        }
    }
}
