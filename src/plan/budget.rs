//! Meets a byte budget: one step size for the whole model, bisected on really encoded bytes, then the leftover spent.
//!
//! At one step size (the root of the Lagrangian, see `code::quantize::step_rule`) every part buys loss with bytes at the
//! same price, so it is the whole allocation. Between the last that fits and the first that does not, parts are exchanged
//! one by one, best nats per byte first.

use crate::error::Result;

/// A part of the model coded at some step size.
pub struct EncodedPart<T> {
    pub bytes: usize,
    /// Predicted loss, nats per token.
    pub loss: f64,
    pub coded: T,
}

/// Encodes a model at a step size. The search knows nothing else about a model, so it is tested with a fake one.
pub trait Encoder {
    type Coded;
    /// Every part at step size `c`, in a fixed order. A smaller step size means more bytes and less loss.
    fn encode(&mut self, c: f64) -> Result<Vec<EncodedPart<Self::Coded>>>;
    /// One part at step size `c`.
    fn encode_part(&mut self, part: usize, c: f64) -> Result<EncodedPart<Self::Coded>>;
    /// Weights of each part; parts of 0 do not depend on the step size.
    fn part_weights(&self) -> Vec<usize>;
    /// Bytes of the file that holds these parts.
    fn file_size(&self, parts: &[EncodedPart<Self::Coded>]) -> Result<u64>;
    /// Stored weights: each halving of the step size costs about one bit of each.
    fn weights(&self) -> usize {
        self.part_weights().iter().sum::<usize>().max(1)
    }
}

/// The result of a search.
pub enum Outcome<T> {
    /// Parts that fit.
    Fits(T),
    /// Not even the coarsest grids fit; the bytes that they need.
    TooSmall { needed: u64 },
}

/// Encodings at most; never seconds, so that speed does not change the result.
const TRIALS: usize = 12;
/// Step sizes more than this many octaves above the start are not tried.
const REACH: f64 = 14.0;
/// Nor those more than this many octaves below it: the curvature may be far less than a usual one.
const FINEST: f64 = 28.0;
/// Step sizes nearer than this many octaves differ by no more than the search's own noise.
const NOISE: f64 = 3e-4;

/// A file at one step size.
struct Trial<T> {
    /// log2 of the step size.
    log: f64,
    size: f64,
    parts: Vec<EncodedPart<T>>,
}

/// Chooses the next step size, from the last trials and the slope of size over step size.
struct Search {
    budget: f64,
    start: f64,
    /// Bytes per octave of the step size; one bit per weight at first.
    slope: f64,
    steepest: f64,
    last: Option<(f64, f64)>,
}

impl Search {
    fn new(weights: usize, budget: u64, start: f64) -> Self {
        let slope = weights as f64 / 8.0;
        Search { budget: budget as f64, start: start.log2(), slope, steepest: 1.5 * slope, last: None }
    }

    /// Bits per weight and octave.
    fn rate(&self) -> f64 {
        1.5 * self.slope / self.steepest
    }

    fn trial<E: Encoder>(&mut self, encoder: &mut E, log: f64) -> Result<Trial<E::Coded>> {
        let parts = encoder.encode(log.exp2())?;
        let size = encoder.file_size(&parts)? as f64;
        if let Some((other, its_size)) = self.last
            && (other - log).abs() > 0.02
        {
            let slope = (its_size - size) / (log - other);
            self.slope = slope.clamp(self.steepest / 200.0, self.steepest);
        }
        self.last = Some((log, size));
        Ok(Trial { log, size, parts })
    }

    /// The step size at which a trial's size would change to `aim`; at most four octaves away and never out of reach.
    fn towards(&self, log: f64, size: f64, aim: f64) -> f64 {
        let step = ((size - aim) / self.slope).clamp(-4.0, 4.0);
        (log + step).clamp(self.start - FINEST, self.start + REACH)
    }
}

/// A step size near a budget, and the parts that were coded last on the way there.
pub struct Near<T> {
    pub step: f64,
    /// Bytes of the file with these parts.
    pub size: u64,
    pub parts: Vec<EncodedPart<T>>,
    /// Bits that a weight took less for each octave of the step size on the way there.
    pub rate: f64,
}

/// A step size whose file has `budget` bytes within `close` of it, starting at the step size `start`, where `rate` bits per weight
/// and octave are expected; no nearer where it cannot get nearer.
///
/// # Errors
/// If encoding fails.
pub fn approach<E: Encoder>(
    encoder: &mut E,
    budget: u64,
    (start, rate): (f64, f64),
    close: f64,
) -> Result<Near<E::Coded>> {
    let mut search = Search::new(encoder.weights(), budget, start);
    search.slope *= rate;
    let mut log = search.start;
    let mut trial = search.trial(encoder, log)?;
    for _ in 1..TRIALS {
        let next = search.towards(log, trial.size, search.budget);
        if (trial.size - search.budget).abs() <= close * search.budget || (next - log).abs() < NOISE {
            break;
        }
        log = next;
        trial = search.trial(encoder, log)?;
    }
    Ok(Near { step: log.exp2(), size: trial.size as u64, parts: trial.parts, rate: search.rate() })
}

/// Finds the finest step size whose file fits `budget` bytes, starting at `start`, and spends what is left.
///
/// The step size is near enough when `close` of the budget is left or less and a slightly finer one exceeds it: the exchange
/// of parts between the two spends most of the rest.
///
/// # Errors
/// If encoding fails.
pub fn meet<E: Encoder>(
    encoder: &mut E,
    budget: u64,
    start: f64,
    close: f64,
) -> Result<Outcome<Vec<EncodedPart<E::Coded>>>> {
    let mut search = Search::new(encoder.weights(), budget, start);
    let close = (close * search.budget).max(64.0);
    let (mut fits, mut exceeds): (Option<Trial<_>>, Option<Trial<_>>) = (None, None);
    let mut log = search.start;
    for _ in 0..TRIALS {
        let trial = search.trial(encoder, log)?;
        if trial.size <= search.budget {
            fits = Some(trial)
        } else {
            exceeds = Some(trial)
        }
        let next = match (&fits, &exceeds) {
            (Some(f), Some(e)) => {
                let (left, over) = (search.budget - f.size, e.size - search.budget);
                if left <= close && over <= 4.0 * close || (f.log - e.log).abs() < NOISE {
                    break;
                }
                // On the straight line through the two, a little off the budget on the side that is still far.
                let aim = search.budget + if left > close { -0.3 * close } else { close };
                let share = (aim - f.size) / (e.size - f.size);
                f.log + (e.log - f.log) * share.clamp(0.05, 0.95)
            }
            (Some(f), None) => search.towards(f.log, f.size, search.budget + close).min(f.log - NOISE),
            (None, Some(e)) => search.towards(e.log, e.size, search.budget - 0.3 * close).max(e.log + NOISE),
            (None, None) => log,
        };
        if !(-FINEST..=REACH).contains(&(next - search.start)) || next == log {
            break;
        }
        log = next;
    }
    if fits.is_none() {
        // Before giving up: the coarsest grids there are.
        let coarsest = search.trial(encoder, search.start + REACH)?;
        if coarsest.size > search.budget {
            return Ok(Outcome::TooSmall { needed: coarsest.size as u64 });
        }
        fits = Some(coarsest);
    }
    let finer = exceeds.map(|e| (e.log, e.parts)).unwrap_or_default();
    let coarser = fits.map(|f| (f.log, f.parts)).unwrap_or_default();
    let (parts, logs) = spend(encoder, coarser, finer, budget)?;
    Ok(Outcome::Fits(fill(encoder, parts, &logs, budget)?))
}

/// Exchanges that [`fill`] tries at most.
const FILLS: usize = 6;
/// Leftover bytes that are too few for another try.
const LEFT: u64 = 8;

/// Spends the last bytes on single parts: each time on the smallest one whose step size need not change by much.
fn fill<E: Encoder>(
    encoder: &mut E,
    mut parts: Vec<EncodedPart<E::Coded>>,
    logs: &[f64],
    budget: u64,
) -> Result<Vec<EncodedPart<E::Coded>>> {
    let weights = encoder.part_weights();
    let mut order: Vec<usize> = (0..parts.len()).filter(|i| weights[*i] > 0).collect();
    order.sort_by_key(|i| (weights[*i], *i));
    for _ in 0..FILLS {
        let left = budget.saturating_sub(encoder.file_size(&parts)?);
        // One part serves once: its loss is known at two step sizes only.
        let octaves = |i: usize| 8.0 * left as f64 / weights[i] as f64;
        let Some(at) = order.iter().position(|i| octaves(*i) < 0.1).filter(|_| left >= LEFT) else { break };
        let i = order.remove(at);
        // Base steps are in 64ths of an octave; below one only the price of a bit changes.
        let change = if octaves(i) < 1.0 / 64.0 { octaves(i) } else { (64.0 * octaves(i)).floor() / 64.0 };
        let new = encoder.encode_part(i, (logs[i] - change).exp2())?;
        let better = new.loss < parts[i].loss;
        let old = std::mem::replace(&mut parts[i], new);
        if !better || encoder.file_size(&parts)? > budget {
            parts[i] = old;
        }
    }
    Ok(parts)
}

/// Parts, and log2 of each one's step size.
type Spent<T> = (Vec<EncodedPart<T>>, Vec<f64>);

/// Parts at a step size, as log2 of it.
type AtStep<T> = (f64, Vec<EncodedPart<T>>);

/// Exchanges parts for finer ones while the file fits, best nats per byte first; with log2 of each one's step size.
fn spend<E: Encoder>(
    encoder: &E,
    (coarse, mut parts): AtStep<E::Coded>,
    (fine, finer): AtStep<E::Coded>,
    budget: u64,
) -> Result<Spent<E::Coded>> {
    let mut logs = vec![coarse; parts.len()];
    let gain = |i: usize, new: &EncodedPart<E::Coded>| {
        (parts[i].loss - new.loss) / (new.bytes as f64 - parts[i].bytes as f64).max(0.5)
    };
    let mut alternatives: Vec<(usize, f64, EncodedPart<E::Coded>)> =
        finer.into_iter().enumerate().map(|(i, new)| (i, gain(i, &new), new)).filter(|(_, g, _)| *g > 0.0).collect();
    alternatives.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
    for (i, _, new) in alternatives {
        let old = std::mem::replace(&mut parts[i], new);
        if encoder.file_size(&parts)? <= budget {
            logs[i] = fine;
        } else {
            parts[i] = old;
        }
    }
    Ok((parts, logs))
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

        fn encode(&mut self, c: f64) -> Result<Vec<EncodedPart<()>>> {
            self.trials += 1;
            (0..self.weights.len()).map(|i| self.encode_part(i, c)).collect()
        }

        fn encode_part(&mut self, i: usize, c: f64) -> Result<EncodedPart<()>> {
            let n = self.weights[i] as f64;
            let bits = (5.0 - c.log2() + 0.01 * ((i as f64 * 77.0 + c * 1e4).sin())).max(0.05);
            Ok(EncodedPart { bytes: (n * bits / 8.0) as usize, loss: n * (-2.0 * bits).exp2(), coded: () })
        }

        fn part_weights(&self) -> Vec<usize> {
            self.weights.clone()
        }

        fn file_size(&self, parts: &[EncodedPart<()>]) -> Result<u64> {
            Ok(100 + parts.iter().map(|p| p.bytes as u64).sum::<u64>())
        }
    }

    fn size(budget: u64, start: f64) -> (Option<u64>, usize) {
        let mut fake = Fake { weights: vec![40_000, 10_000, 5_000, 65_000, 300], trials: 0 };
        let near = approach(&mut fake, budget, (start, 1.0), 4e-3).unwrap();
        assert!((0.3..1.5).contains(&near.rate));
        let step = near.step;
        let size = match meet(&mut fake, budget, step, 5e-4).unwrap() {
            Outcome::Fits(parts) => Some(fake.file_size(&parts).unwrap()),
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
                assert!(trials <= 14, "{trials} trials from {start} to {budget}");
            }
        }
    }

    #[test]
    fn says_what_the_coarsest_needs() {
        let mut fake = Fake { weights: vec![1_000_000], trials: 0 };
        match meet(&mut fake, 2_000, 1.0, 5e-4).unwrap() {
            Outcome::TooSmall { needed } => assert_eq!(needed, 6_350, "0.05 bits each and 100 bytes beside"),
            Outcome::Fits(_) => panic!("1,000,000 weights at 0.05 bits do not fit 2,000 bytes"),
        }
    }
}
