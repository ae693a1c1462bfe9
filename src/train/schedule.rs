//! The schedule of the learning rate over a run.

/// The decay of the rate after the warm-up.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Fall {
    /// A cosine down to nothing (Loshchilov and Hutter, arXiv:1608.03983).
    Cosine,
    /// Full rate, then straight down to nothing over this share of the run.
    Linear(f32),
}

/// Linear warm-up, then a fall to nothing.
#[derive(Debug, Clone, Copy)]
pub struct Schedule {
    pub steps: usize,
    pub warmup: usize,
    pub fall: Fall,
}

impl Schedule {
    /// A twentieth of the run is warm-up, the rest a cosine.
    pub fn new(steps: usize) -> Self {
        Schedule { steps, warmup: (steps / 20).max(1), fall: Fall::Cosine }
    }

    /// The share of the full rate at step `k`, from 0.
    pub fn at(&self, k: usize) -> f32 {
        if k < self.warmup {
            return (k + 1) as f32 / self.warmup as f32;
        }
        match self.fall {
            Fall::Cosine => {
                let part = (k - self.warmup) as f32 / (self.steps - self.warmup).max(1) as f32;
                0.5 * (1.0 + (std::f32::consts::PI * part.min(1.0)).cos())
            }
            Fall::Linear(share) => {
                let left = self.steps.saturating_sub(k) as f32 / self.steps.max(1) as f32;
                if left < share { left / share } else { 1.0 }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rises_then_falls() {
        let s = Schedule::new(100);
        let rates: Vec<f32> = (0..100).map(|k| s.at(k)).collect();
        assert!(rates[..5].windows(2).all(|w| w[0] < w[1]) && rates[5..].windows(2).all(|w| w[0] > w[1]));
        assert_eq!((rates[4], rates[5]), (1.0, 1.0));
        assert!(rates[99] < 0.01 && s.at(1000) == 0.0);
    }

    #[test]
    fn stays_then_falls_straight() {
        let s = Schedule { steps: 100, warmup: 2, fall: Fall::Linear(0.4) };
        let rates = [0, 1, 2, 60, 61, 80, 99, 100, 200].map(|k| s.at(k));
        let wanted = [0.5, 1.0, 1.0, 1.0, 0.975, 0.5, 0.025, 0.0, 0.0];
        assert!(rates.iter().zip(wanted).all(|(a, b)| (a - b).abs() < 1e-6), "{rates:?}");
    }
}
