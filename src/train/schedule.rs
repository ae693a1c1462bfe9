//! How the rate of learning goes over a run.

/// Linear warm-up, then a cosine down to nothing (Loshchilov and Hutter, arXiv:1608.03983).
#[derive(Debug, Clone, Copy)]
pub struct Schedule {
    pub steps: usize,
    pub warmup: usize,
}

impl Schedule {
    /// A twentieth of the run is warm-up.
    pub fn new(steps: usize) -> Self {
        Schedule { steps, warmup: (steps / 20).max(1) }
    }

    /// The share of the full rate at step `k`, from 0.
    pub fn at(&self, k: usize) -> f32 {
        if k < self.warmup {
            return (k + 1) as f32 / self.warmup as f32;
        }
        let part = (k - self.warmup) as f32 / (self.steps - self.warmup).max(1) as f32;
        0.5 * (1.0 + (std::f32::consts::PI * part.min(1.0)).cos())
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
}
