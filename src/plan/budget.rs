//! Meets a byte budget: one knob for the whole model, bisected on really encoded bytes, then the leftover spent.
//!
//! At one knob every part buys loss with bytes at the same price, so the knob is the whole allocation. Between the last
//! knob that fits and the first that does not, parts are exchanged one by one, best nats per byte first.

use crate::error::Result;

/// A part of the model coded at some knob.
pub struct Part<T> {
    pub bytes: usize,
    /// Predicted loss, nats per token.
    pub loss: f64,
    pub coded: T,
}

/// What can be encoded. The search knows nothing else about a model, so it is tested with a fake one.
pub trait Encoder {
    type Coded;
    /// Every part at knob `c`, in a fixed order. A smaller knob means more bytes and less loss.
    fn encode(&mut self, c: f64) -> Result<Vec<Part<Self::Coded>>>;
    /// Bytes of the file whose parts have these sizes.
    fn file_size(&self, parts: &[usize]) -> Result<u64>;
    /// Stored weights: each halving of the knob costs about one bit of each.
    fn weights(&self) -> usize;
}

/// The way a search went.
pub enum Outcome<T> {
    /// The chosen parts and the knob that most of them are at.
    Fits { parts: Vec<Part<T>>, knob: f64 },
    /// Not even the coarsest grids fit; the bytes that they need.
    TooSmall { needed: u64 },
}

/// Encodings at most; never seconds, so that speed does not change the result.
const TRIALS: usize = 12;
/// Knobs beyond this factor of the start are not tried.
const REACH: f64 = 16384.0;

/// Finds the finest knob whose file fits `budget` bytes, starting at `start`, and spends what is left.
///
/// The knob is near enough when `close` of the budget is left or less: the exchange of parts spends most of the rest.
///
/// # Errors
/// If encoding fails.
pub fn meet<E: Encoder>(encoder: &mut E, budget: u64, start: f64, close: f64) -> Result<Outcome<E::Coded>> {
    struct Trial<T> {
        log: f64,
        size: u64,
        parts: Vec<Part<T>>,
    }
    let close = (close * budget as f64).max(64.0);
    let octave = encoder.weights() as f64 / 8.0;
    let (mut fits, mut exceeds): (Option<Trial<_>>, Option<Trial<_>>) = (None, None);
    let mut log = start.log2();
    for _ in 0..TRIALS {
        let parts = encoder.encode(log.exp2())?;
        let size = encoder.file_size(&parts.iter().map(|p| p.bytes).collect::<Vec<_>>())?;
        let trial = Trial { log, size, parts };
        let short = budget as f64 - size as f64;
        if size <= budget { fits = Some(trial) } else { exceeds = Some(trial) }
        if (0.0..=close).contains(&short) && exceeds.is_some() {
            break;
        }
        let reach = REACH.log2();
        log = match (&fits, &exceeds) {
            // Between the two, where a straight line through them meets the budget; aim a little under it.
            (Some(f), Some(e)) => {
                let share = (budget as f64 - 0.3 * close - f.size as f64) / (e.size - f.size) as f64;
                f.log + (e.log - f.log) * share.clamp(0.02, 0.98)
            }
            // A finer neighbour is needed for the exchange even where the budget is nearly met.
            (Some(f), None) => (f.log - (short / octave).max(0.002) * 1.05).max(start.log2() - reach),
            (None, Some(e)) => (e.log + (-short / octave).clamp(0.002, 4.0) * 1.1).min(start.log2() + reach),
            (None, None) => unreachable!("a trial was just made"),
        };
        let bound = |t: &Option<Trial<_>>| t.as_ref().is_some_and(|t| (t.log - log).abs() < 1e-9);
        if bound(&fits) || bound(&exceeds) {
            break;
        }
    }
    Ok(match (fits, exceeds) {
        (Some(fits), exceeds) => {
            let knob = fits.log.exp2();
            let finer = exceeds.map(|e| e.parts).unwrap_or_default();
            Outcome::Fits { parts: spend(encoder, fits.parts, finer, budget)?, knob }
        }
        (None, exceeds) => Outcome::TooSmall { needed: exceeds.map_or(0, |e| e.size) },
    })
}

/// Exchanges parts for finer ones while the file fits, best nats per byte first.
fn spend<E: Encoder>(
    encoder: &E,
    mut parts: Vec<Part<E::Coded>>,
    finer: Vec<Part<E::Coded>>,
    budget: u64,
) -> Result<Vec<Part<E::Coded>>> {
    let gain = |i: usize, new: &Part<E::Coded>| (parts[i].loss - new.loss) / (new.bytes as f64 - parts[i].bytes as f64).max(0.5);
    let mut offers: Vec<(usize, f64, Part<E::Coded>)> =
        finer.into_iter().enumerate().map(|(i, new)| (i, gain(i, &new), new)).filter(|(_, g, _)| *g > 0.0).collect();
    offers.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
    let mut sizes: Vec<usize> = parts.iter().map(|p| p.bytes).collect();
    for (i, _, new) in offers {
        let old = std::mem::replace(&mut sizes[i], new.bytes);
        if encoder.file_size(&sizes)? <= budget {
            parts[i] = new;
        } else {
            sizes[i] = old;
        }
    }
    Ok(parts)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Parts whose sizes follow the high-rate rule, with some noise.
    struct Fake {
        weights: Vec<usize>,
        trials: usize,
    }

    impl Encoder for Fake {
        type Coded = ();

        fn encode(&mut self, c: f64) -> Result<Vec<Part<()>>> {
            self.trials += 1;
            let part = |(i, n): (usize, &usize)| {
                let bits = (5.0 - c.log2() + 0.01 * ((i as f64 * 77.0 + c * 1e4).sin())).max(0.05);
                Part { bytes: (*n as f64 * bits / 8.0) as usize, loss: *n as f64 * (-2.0 * bits).exp2(), coded: () }
            };
            Ok(self.weights.iter().enumerate().map(part).collect())
        }

        fn file_size(&self, parts: &[usize]) -> Result<u64> {
            Ok(100 + parts.iter().sum::<usize>() as u64)
        }

        fn weights(&self) -> usize {
            self.weights.iter().sum()
        }
    }

    fn size(budget: u64, start: f64) -> (Option<u64>, usize) {
        let mut fake = Fake { weights: vec![40_000, 10_000, 5_000, 65_000, 300], trials: 0 };
        let outcome = meet(&mut fake, budget, start, 3e-4).unwrap();
        let size = match outcome {
            Outcome::Fits { parts, .. } => {
                Some(fake.file_size(&parts.iter().map(|p| p.bytes).collect::<Vec<_>>()).unwrap())
            }
            Outcome::TooSmall { .. } => None,
        };
        (size, fake.trials)
    }

    #[test]
    fn ends_just_under_the_budget_from_any_start() {
        for budget in [20_000, 50_000, 77_777, 120_000] {
            for start in [0.01, 1.0, 50.0] {
                let (size, trials) = size(budget, start);
                let size = size.expect("a budget that can be met");
                let left = budget - size;
                assert!(left as f64 <= 1e-3 * budget as f64 || left <= 64, "{left} of {budget} left from {start}");
                assert!(trials <= TRIALS);
            }
        }
    }

    #[test]
    fn says_what_the_coarsest_needs() {
        let mut fake = Fake { weights: vec![1_000_000], trials: 0 };
        match meet(&mut fake, 2_000, 1.0, 3e-4).unwrap() {
            Outcome::TooSmall { needed } => assert_eq!(needed, 6_350),
            Outcome::Fits { .. } => panic!("1,000,000 weights at 0.05 bits do not fit 2,000 bytes"),
        }
    }
}
