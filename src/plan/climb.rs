//! The search over schemes: looks at single changes, packs the promising ones into the cap, keeps what is measured to be
//! better, and goes on from there.
//!
//! A look makes a change on the packed base without quantizing what it changes, and measures the KL: cheap, and more honest
//! than the quadratic, which does not hold for changes of that size. What a change saves buys at most what the base has lost, and
//! at most as much as the last bytes bought. Only where that may pay for the change is it packed into the cap like the base, and
//! then the two are compared row by row.

use serde::{Deserialize, Serialize};

use super::moves::{Candidate, RANK, moves, specialised};
use super::scheme::Scheme;
use super::shape::{Table, starts};
use crate::error::Result;

/// A change as it looks.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Look {
    /// KL with the change made on the base, nats per token.
    pub kl: f64,
    /// One standard error of it.
    pub error: f64,
    /// Whether it was measured to the end; it is not when it is far from paying.
    pub complete: bool,
    /// Bytes that the change saves.
    pub saved: f64,
    /// What the quadratic says the change adds, nats per token.
    pub predicted: f64,
}

/// A scheme packed into the cap.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Packed {
    /// Step size.
    pub step: f64,
    pub bytes: u64,
    pub fits: bool,
    /// What the quadratic says, nats per token.
    pub predicted: f64,
    /// KL of every row, nats per token.
    pub rows: Vec<f64>,
    pub complete: bool,
}

impl Packed {
    /// Mean KL, nats per token.
    pub fn kl(&self) -> f64 {
        match self.fits {
            true => self.rows.iter().sum::<f64>() / self.rows.len().max(1) as f64,
            false => f64::INFINITY,
        }
    }

    /// Whether this is measured to be better than another by more than noise: by one standard error of the difference.
    fn beats(&self, other: &Packed) -> bool {
        if !self.fits || !self.complete || self.rows.len() != other.rows.len() {
            return false;
        }
        let differences: Vec<f64> = self.rows.iter().zip(&other.rows).map(|(a, b)| a - b).collect();
        let n = differences.len() as f64;
        let mean = differences.iter().sum::<f64>() / n;
        let variance = differences.iter().map(|d| (d - mean).powi(2)).sum::<f64>() / (n - 1.0).max(1.0);
        mean < -(variance / n).sqrt()
    }
}

/// What a base is worth: where the bytes that a change saves are spent.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Worth {
    /// KL of the base.
    pub kl: f64,
    /// Nats that a byte more or less buys.
    pub price: f64,
    /// How many times more than it looks a change may cost and still be worth packing: what healing may take back.
    pub hope: f64,
}

impl Worth {
    /// The KL up to which a change that saves so many bytes may pay.
    pub fn limit(&self, saved: f64) -> f64 {
        self.kl + self.hope * self.kl.min(self.price * saved.max(0.0))
    }
}

/// The expensive thing. Everything it returns follows from its arguments.
pub trait Judge {
    /// Packs schemes into the cap. One that is surely worse than `limit` nats need not be measured to the end.
    fn pack(&mut self, candidates: &[Candidate], limit: f64) -> Result<Vec<Packed>>;
    /// Makes a packed scheme the base of what follows; returns the price of a byte there.
    fn settle(&mut self, base: &Candidate, packed: &Packed) -> Result<f64>;
    /// Looks at changes of the base.
    fn look(&mut self, candidates: &[Candidate], worth: &Worth) -> Result<Vec<Look>>;
}

/// How far a search goes.
pub struct Bounds<'a> {
    /// Candidates packed. Looks are free: they cost a hundredth of that.
    pub trials: usize,
    pub hope: f64,
    /// Asked between candidates: whether to end with the best so far.
    pub stop: &'a dyn Fn() -> bool,
}

/// One change that was looked at, and what it would have to be worth.
#[derive(Debug, Clone, Serialize)]
pub struct Seen {
    pub name: String,
    pub look: Look,
    /// Nats that it is short of paying for itself, by its look; below 0: it would pay.
    pub short: f64,
}

/// Where a search ended.
pub struct Climbed {
    pub best: Candidate,
    pub packed: Packed,
    /// What it started from.
    pub start: Packed,
    /// Changes of the last base.
    pub seen: Vec<Seen>,
    /// Names of the changes that were kept, in order.
    pub kept: Vec<String>,
    pub trials: usize,
    /// Nats per byte at the end.
    pub price: f64,
    /// It ended because nothing more could pay.
    pub finished: bool,
}

/// Candidates packed after each round of looks.
const PACKED: usize = 3;
/// Looked at together, between two questions whether to stop.
const TOGETHER: usize = 8;
/// The far changes are looked at if a near one costs at most so many times what it may.
const NEARLY: f64 = 2.0;
/// Copies that are tried with a low-rank term as well.
const SPECIALISTS: usize = 3;

struct Climb<'a, J: Judge> {
    judge: &'a mut J,
    bounds: &'a Bounds<'a>,
    worth: Worth,
    trials: usize,
}

impl<J: Judge> Climb<'_, J> {
    fn open(&self) -> bool {
        self.trials < self.bounds.trials && !(self.bounds.stop)()
    }

    /// Each scheme once.
    fn look(&mut self, mut candidates: Vec<Candidate>) -> Result<Vec<(Candidate, Look)>> {
        let mut schemes: Vec<Scheme> = Vec::new();
        candidates.retain(|c| {
            let new = !schemes.contains(&c.scheme);
            if new {
                schemes.push(c.scheme.clone());
            }
            new
        });
        let mut seen = Vec::with_capacity(candidates.len());
        for group in candidates.chunks(TOGETHER) {
            if !self.open() {
                break;
            }
            let looks = self.judge.look(group, &self.worth)?;
            seen.extend(group.iter().cloned().zip(looks));
        }
        Ok(seen)
    }

    /// Nats that a change is short of paying, by its look.
    fn short(&self, look: &Look) -> f64 {
        (look.kl - self.worth.kl) / self.worth.hope - self.worth.kl.min(self.worth.price * look.saved.max(0.0))
    }
}

/// Climbs from `start`.
///
/// # Errors
/// What the judge says.
pub fn climb<J: Judge>(judge: &mut J, table: &Table, start: Candidate, bounds: &Bounds) -> Result<Climbed> {
    let packed = judge.pack(std::slice::from_ref(&start), f64::INFINITY)?.remove(0);
    let (mut best, mut best_packed, first) = (start, packed.clone(), packed);
    let mut worth = Worth { kl: first.kl(), price: 0.0, hope: bounds.hope };
    worth.price = judge.settle(&best, &best_packed)?;
    let mut climb = Climb { judge, bounds, worth, trials: 0 };
    let shapes: Vec<Candidate> = starts(table.layers.len())
        .into_iter()
        .filter_map(|shape| Some(Candidate { name: shape.text(), scheme: shape.scheme(table).ok()? }))
        .filter(|shape| shape.scheme != best.scheme)
        .collect();
    let (mut seen, mut kept, mut finished) = (Vec::new(), Vec::new(), false);
    let mut rejected: Vec<Scheme> = Vec::new();
    let mut round = 0;
    while climb.open() {
        let (mut near, far) = moves(table, &best.scheme);
        if round == 0 {
            near.extend(shapes.iter().cloned());
        }
        round += 1;
        let mut looks = climb.look(near)?;
        let cost = |look: &Look| (look.kl - climb.worth.kl).max(0.0);
        let nearly = |look: &Look| cost(look) < NEARLY * (climb.worth.limit(look.saved) - climb.worth.kl);
        if looks.iter().any(|(_, look)| nearly(look)) {
            looks.extend(climb.look(far)?);
            let mut copies: Vec<&(Candidate, Look)> =
                looks.iter().filter(|(c, look)| c.name.contains(" as ") && look.complete).collect();
            copies.sort_by(|a, b| climb.short(&a.1).total_cmp(&climb.short(&b.1)));
            let special = copies
                .iter()
                .take(SPECIALISTS)
                .filter_map(|(c, _)| specialised(c, &best.scheme, table, RANK))
                .collect();
            looks.extend(climb.look(special)?);
        }
        looks.sort_by(|a, b| climb.short(&a.1).total_cmp(&climb.short(&b.1)));
        seen = looks
            .iter()
            .map(|(c, look)| Seen { name: c.name.clone(), look: look.clone(), short: climb.short(look) })
            .collect();
        let promising: Vec<Candidate> = looks
            .into_iter()
            .filter(|(c, look)| look.complete && climb.short(look) < 0.0 && !rejected.contains(&c.scheme))
            .map(|(c, _)| c)
            .collect();
        if promising.is_empty() {
            finished = climb.open();
            break;
        }
        let mut better = None;
        // The first group that holds a better one ends the round.
        for group in promising.chunks(PACKED) {
            let group = &group[..group.len().min(bounds.trials - climb.trials)];
            if !climb.open() {
                break;
            }
            let packed = climb.judge.pack(group, best_packed.kl())?;
            climb.trials += group.len();
            for (candidate, packed) in group.iter().zip(packed) {
                if !packed.beats(&best_packed) {
                    rejected.push(candidate.scheme.clone());
                } else if better.as_ref().is_none_or(|(_, other): &(Candidate, Packed)| packed.kl() < other.kl()) {
                    better = Some((candidate.clone(), packed));
                }
            }
            if better.is_some() {
                break;
            }
        }
        let Some((candidate, packed)) = better else {
            finished = climb.open();
            break;
        };
        kept.push(candidate.name.clone());
        (best, best_packed) = (candidate, packed);
        climb.worth.kl = best_packed.kl();
        climb.worth.price = climb.judge.settle(&best, &best_packed)?;
    }
    let (trials, price) = (climb.trials, climb.worth.price);
    Ok(Climbed { best, packed: best_packed, start: first, seen, kept, trials, price, finished })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::scheme::Choice;

    /// Every layer costs 1,000 bytes; a copy of layer 1 by layer 2 costs little, the rest much.
    struct Fake {
        base: Scheme,
        log: Vec<String>,
    }

    impl Fake {
        fn size(scheme: &Scheme) -> f64 {
            (0..4).filter(|m| scheme.choice(*m) == Choice::Alone).count() as f64 * 1000.0
        }

        fn harm(scheme: &Scheme) -> f64 {
            let harm = |m: usize| match (scheme.choice(m), scheme.leader(m)) {
                (Choice::Alone, _) => 0.0,
                (Choice::Zero, _) => 0.5,
                (_, 1) if m == 2 => 0.01,
                _ => 0.7,
            };
            (0..4).map(harm).sum()
        }
    }

    impl Judge for Fake {
        fn pack(&mut self, candidates: &[Candidate], _: f64) -> Result<Vec<Packed>> {
            let pack = |c: &Candidate| {
                self.log.push(format!("pack {}", c.name));
                let kl = Fake::harm(&c.scheme) + 0.2 * Fake::size(&c.scheme) / 4000.0;
                let rows = vec![kl - 0.001, kl, kl + 0.001];
                Packed { step: 1.0, bytes: 2000, fits: true, predicted: kl, rows, complete: true }
            };
            Ok(candidates.iter().map(pack).collect())
        }

        fn settle(&mut self, base: &Candidate, _: &Packed) -> Result<f64> {
            self.base = base.scheme.clone();
            Ok(5e-5)
        }

        fn look(&mut self, candidates: &[Candidate], worth: &Worth) -> Result<Vec<Look>> {
            let look = |c: &Candidate| {
                self.log.push(format!("look {}", c.name));
                let saved = Fake::size(&self.base) - Fake::size(&c.scheme);
                let kl = worth.kl + Fake::harm(&c.scheme) - Fake::harm(&self.base);
                Look { kl, error: 0.0, complete: true, saved, predicted: 0.0 }
            };
            Ok(candidates.iter().map(look).collect())
        }
    }

    fn run(trials: usize) -> (Climbed, Vec<String>) {
        let table = Table { layers: (0..4).map(|m| vec![Some(m)]).collect(), roles: vec!["w".into()] };
        let mut fake = Fake { base: Scheme::default(), log: Vec::new() };
        let start = Candidate { name: "declared".into(), scheme: Scheme::default() };
        let climbed = climb(&mut fake, &table, start, &Bounds { trials, hope: 1.0, stop: &|| false }).unwrap();
        (climbed, fake.log)
    }

    #[test]
    fn what_pays_is_kept_and_nothing_else() {
        let (climbed, log) = run(1000);
        assert_eq!(climbed.kept, ["layer 2 as 1"]);
        assert!(climbed.finished && climbed.packed.kl() < climbed.start.kl());
        assert_eq!(log.iter().filter(|line| line.starts_with("pack")).count(), 3, "{log:?}");
        assert!(climbed.seen.iter().all(|seen| seen.short > 0.0));
    }

    #[test]
    fn trials_are_counted() {
        for trials in 0..4 {
            let (climbed, log) = run(trials);
            let packed = log.iter().filter(|line| line.starts_with("pack")).count();
            // The first is what the search starts from.
            assert_eq!(packed, climbed.trials + 1);
            assert!(climbed.trials <= trials && (log.len() > packed) == (trials > 0), "{trials} {log:?}");
        }
        assert!(!run(1).0.finished && run(3).0.finished);
    }
}
