//! The search over schemes: probes single changes, packs the promising ones into the cap, keeps what is measured to be
//! better, and goes on from there.
//!
//! A probe makes a change on the packed base without quantizing what it changes, and measures the KL: cheap, and more honest
//! than the quadratic, which does not hold for changes of that size. What a change saves buys at most what the base has lost, and
//! at most as much as the last bytes bought. Only where that may pay for the change is it packed into the cap like the base, and
//! then the two are compared row by row.
//!
//! Where packed structures are healed before they are compared, many are healed for a short while first, and only those that are
//! then in front for as long as the base (successive halving, arXiv:1502.07943): the probe of a change that will be healed
//! ranks badly, a few steps rank single changes nearly as all steps do. Fixed shapes change so much that a few steps do not tell:
//! those that are about as good as the best of them are packed in full whatever their rank.

use serde::{Serialize, Serializer};

use super::evaluator::{Evaluator, Fidelity, Packed, Probe, Threshold};
use super::moves::{Candidate, Move, RANK, moves, specialised};
use super::scheme::Scheme;
use super::shape::{Table, starts};
use crate::error::Result;

/// Limits of a search.
pub struct Bounds<'a> {
    /// Candidates packed with full care, or [`ROUGH`] times as many roughly. Probes are not counted: they cost a hundredth of that.
    pub trials: usize,
    pub slack: f64,
    /// Whether what is packed is healed, so that rough packing is cheaper.
    pub heals: bool,
    /// Asked between candidates: whether to end with the best so far.
    pub stop: &'a dyn Fn() -> bool,
}

/// A probed change, and the nats that it is short of paying for itself.
#[derive(Debug, Clone, Serialize)]
pub struct Probed {
    #[serde(rename = "name", serialize_with = "in_words")]
    pub change: Move,
    #[serde(rename = "look")]
    pub probe: Probe,
    /// Nats that it is short of paying for itself, by its probe; below 0: it would pay.
    pub short: f64,
}

fn in_words<S: Serializer>(change: &Move, serializer: S) -> std::result::Result<S::Ok, S::Error> {
    serializer.collect_str(change)
}

/// The result of a search.
pub struct Climbed {
    pub best: Candidate,
    pub packed: Packed,
    /// What it started from.
    pub start: Packed,
    /// Changes of the last base.
    pub seen: Vec<Probed>,
    /// Changes that were kept, in order.
    pub kept: Vec<Move>,
    /// Structures packed with full care, and roughly.
    pub trials: usize,
    pub rough: usize,
    /// Nats per byte at the end.
    pub price: f64,
    /// It ended because nothing more could pay.
    pub finished: bool,
}

/// Structures packed roughly that count as one.
pub const ROUGH: usize = 4;
/// Candidates packed after each round of probes: roughly, the fixed shapes among them, and of these with full care.
const ROUGHLY: usize = 8;
const SHAPES: usize = 3;
const FULLY: usize = 2;
/// Fixed shapes whose KL is at most so many times that of the best of them are packed with full care whatever their rank, unless
/// it is so many times that of the best candidate: all steps gain more on them than on single changes, but by a tenth at most
/// where it was measured.
const ALIKE: f64 = 1.05;
const BEYOND: f64 = 1.25;
/// Candidates packed after each round of probes where nothing is healed.
const PACKED: usize = 3;
/// Changes probed together, between two checks whether to stop.
const TOGETHER: usize = 8;
/// Far changes are probed if a near one costs at most so many times its allowance.
const NEARLY: f64 = 2.0;
/// Copies that are tried with a low-rank term as well.
const SPECIALISTS: usize = 3;

/// A search on its way.
struct Climb<'a, J: Evaluator> {
    evaluator: &'a mut J,
    table: &'a Table,
    bounds: &'a Bounds<'a>,
    /// Fixed shapes, probed in the first round.
    shapes: Vec<Candidate>,
    /// The base, and the threshold that its changes must meet.
    best: Candidate,
    packed: Packed,
    threshold: Threshold,
    kept: Vec<Move>,
    /// Schemes that were packed and are no better than a base.
    rejected: Vec<Scheme>,
    trials: usize,
    rough: usize,
}

impl<'a, J: Evaluator> Climb<'a, J> {
    /// From `start`, or from `other` if that is measured to be better; with `start` as it was packed.
    fn begin(
        evaluator: &'a mut J,
        table: &'a Table,
        start: Candidate,
        other: Option<Candidate>,
        bounds: &'a Bounds<'a>,
    ) -> Result<(Self, Packed)> {
        // Together: workers pack them side by side.
        let mut both: Vec<Candidate> = std::iter::once(start).chain(other).collect();
        let mut packed = evaluator.pack(&both, Fidelity::Full, f64::INFINITY)?;
        let first = packed[0].clone();
        let (mut best, mut best_packed, mut kept) = (both.remove(0), packed.remove(0), Vec::new());
        if let (Some(other), Some(packed)) = (both.pop(), packed.pop())
            && packed.beats(&best_packed)
        {
            kept.push(other.change.clone());
            (best, best_packed) = (other, packed);
        }
        let price = evaluator.set_base(&best, &best_packed)?;
        let threshold = Threshold { kl: best_packed.kl(), price, slack: bounds.slack };
        let shapes = starts(table.layers.len())
            .into_iter()
            .filter_map(|shape| Some(Candidate { scheme: shape.scheme(table).ok()?, change: Move::Shape(shape) }))
            .filter(|shape| shape.scheme != best.scheme)
            .collect();
        let (packed, rejected) = (best_packed, Vec::new());
        let climb =
            Climb { evaluator, table, bounds, shapes, best, packed, threshold, kept, rejected, trials: 0, rough: 0 };
        Ok((climb, first))
    }

    /// Probes the changes of the base, in the first round the fixed shapes as well; those nearest to paying come first.
    fn survey(&mut self, first_round: bool) -> Result<Vec<(Candidate, Probe)>> {
        let (mut near, far) = moves(self.table, &self.best.scheme);
        if first_round {
            near.extend(self.shapes.iter().cloned());
        }
        let mut probes = self.probe(near)?;
        if probes.iter().any(|(_, probe)| self.nearly_pays(probe)) {
            probes.extend(self.probe(far)?);
            let special = self.specialists(&probes);
            probes.extend(self.probe(special)?);
        }
        probes.sort_by(|a, b| self.short(&a.1).total_cmp(&self.short(&b.1)));
        Ok(probes)
    }

    /// The best copies of `probes` with low-rank terms.
    fn specialists(&self, probes: &[(Candidate, Probe)]) -> Vec<Candidate> {
        let is_copy = |(c, probe): &&(Candidate, Probe)| matches!(c.change, Move::Copy { .. }) && probe.complete;
        let mut copies: Vec<&(Candidate, Probe)> = probes.iter().filter(is_copy).collect();
        copies.sort_by(|a, b| self.short(&a.1).total_cmp(&self.short(&b.1)));
        let best = copies.iter().take(SPECIALISTS);
        best.filter_map(|(c, _)| specialised(c, &self.best.scheme, self.table, RANK)).collect()
    }

    /// Packs `promising` group by group until one holds something better than the base: the best of that group.
    fn better(&mut self, mut promising: Vec<Candidate>) -> Result<Option<(Candidate, Packed)>> {
        let mut better: Option<(Candidate, Packed)> = None;
        while better.is_none() && self.open() && !promising.is_empty() {
            let group = self.next(&mut promising)?;
            let packed = self.evaluator.pack(&group, Fidelity::Full, self.packed.kl())?;
            self.trials += group.len();
            for (candidate, packed) in group.into_iter().zip(packed) {
                if !packed.beats(&self.packed) {
                    self.rejected.push(candidate.scheme);
                } else if better.as_ref().is_none_or(|(_, other)| packed.kl() < other.kl()) {
                    better = Some((candidate, packed));
                }
            }
        }
        Ok(better)
    }

    /// Goes on from a better one.
    fn go_on_from(&mut self, (candidate, packed): (Candidate, Packed)) -> Result<()> {
        self.kept.push(candidate.change.clone());
        (self.best, self.packed) = (candidate, packed);
        self.threshold.kl = self.packed.kl();
        self.threshold.price = self.evaluator.set_base(&self.best, &self.packed)?;
        Ok(())
    }

    fn open(&self) -> bool {
        self.left() >= ROUGH && !(self.bounds.stop)()
    }

    /// Structures that may still be packed roughly.
    fn left(&self) -> usize {
        (ROUGH * self.bounds.trials).saturating_sub(ROUGH * self.trials + self.rough)
    }

    /// Takes the next of `promising`, the most promising first, and returns those to pack with full care.
    fn next(&mut self, promising: &mut Vec<Candidate>) -> Result<Vec<Candidate>> {
        let fixed = |c: &Candidate| matches!(c.change, Move::Shape(_));
        let least = if self.bounds.heals { FULLY } else { PACKED };
        // One of them can be packed with full care afterwards.
        let most = self.left().saturating_sub(ROUGH).max(1);
        let (mut places, mut fixed_places) = (ROUGHLY, SHAPES);
        let mut seen: Vec<Move> = Vec::new();
        let mut group = Vec::new();
        // Copies of one piece by different layers do alike once they are healed: the best of each kind first, then the others.
        let passes: &[bool] = if self.bounds.heals { &[true, false] } else { &[false] };
        for &of_new_kind in passes {
            promising.retain(|c| {
                let place = if fixed(c) { &mut fixed_places } else { &mut places };
                let taken = group.len() < most
                    && *place > 0
                    && !(of_new_kind && seen.iter().any(|other| other.is_like(&c.change)));
                if taken {
                    *place -= 1;
                    seen.push(c.change.clone());
                    group.push(c.clone());
                }
                !taken
            });
        }
        if self.bounds.heals && group.len() > least && most > least {
            let packed = self.evaluator.pack(&group, Fidelity::Rough, f64::INFINITY)?;
            self.rough += group.len();
            let mut ranked: Vec<(f64, Candidate)> = packed.iter().map(Packed::kl).zip(group).collect();
            ranked.sort_by(|a, b| a.0.total_cmp(&b.0));
            let best_fixed = ranked.iter().find(|(_, c)| fixed(c)).map_or(f64::INFINITY, |(kl, _)| *kl);
            let good_shape = (ALIKE * best_fixed).min(BEYOND * ranked[0].0);
            let in_front = |(at, (kl, c)): &(usize, &(f64, Candidate))| *at < least || (fixed(c) && *kl <= good_shape);
            group = ranked.iter().enumerate().filter(in_front).map(|(_, (_, c))| c.clone()).collect();
        } else {
            // The others come next.
            promising.splice(0..0, group.split_off(group.len().min(least)));
        }
        group.truncate(self.left() / ROUGH);
        Ok(group)
    }

    /// Each scheme once.
    fn probe(&mut self, mut candidates: Vec<Candidate>) -> Result<Vec<(Candidate, Probe)>> {
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
            let probes = self.evaluator.probe(group, &self.threshold)?;
            seen.extend(group.iter().cloned().zip(probes));
        }
        Ok(seen)
    }

    /// Whether a change costs little more than it may, so that others like it may pay.
    fn nearly_pays(&self, probe: &Probe) -> bool {
        let (costs, may) = (probe.kl - self.threshold.kl, self.threshold.limit(probe.saved) - self.threshold.kl);
        costs.max(0.0) < NEARLY * may
    }

    /// Nats that a change is short of paying, by its probe.
    fn short(&self, probe: &Probe) -> f64 {
        (probe.kl - self.threshold.kl) / self.threshold.slack
            - self.threshold.kl.min(self.threshold.price * probe.saved.max(0.0))
    }
}

/// Climbs from `start`, or from `other` if that is measured to be better.
///
/// # Errors
/// Those of the evaluator.
pub fn climb<J: Evaluator>(
    evaluator: &mut J,
    table: &Table,
    start: Candidate,
    other: Option<Candidate>,
    bounds: &Bounds,
) -> Result<Climbed> {
    let (mut climb, first) = Climb::begin(evaluator, table, start, other, bounds)?;
    let (mut seen, mut finished, mut first_round) = (Vec::new(), false, true);
    while climb.open() {
        let probes = climb.survey(first_round)?;
        first_round = false;
        let short = |probe: &Probe| climb.short(probe);
        seen = probes
            .iter()
            .map(|(c, probe)| Probed { change: c.change.clone(), probe: probe.clone(), short: short(probe) })
            .collect();
        let pays = |(c, probe): &(Candidate, Probe)| {
            probe.complete && short(probe) < 0.0 && !climb.rejected.contains(&c.scheme)
        };
        let promising = probes.into_iter().filter(pays).map(|(c, _)| c).collect();
        let Some(better) = climb.better(promising)? else {
            finished = climb.open();
            break;
        };
        climb.go_on_from(better)?;
    }
    let Climb { best, packed, kept, trials, rough, threshold: Threshold { price, .. }, .. } = climb;
    Ok(Climbed { best, packed, start: first, seen, kept, trials, rough, price, finished })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::moves::Piece;

    /// Every layer costs 1,000 bytes; a copy of layer 1 by layer 2 costs little, the rest much.
    struct Fake {
        base: Scheme,
        log: Vec<String>,
        /// KL that no structure is without.
        least: f64,
    }

    impl Fake {
        fn size(scheme: &Scheme) -> f64 {
            (0..12).filter(|m| scheme.choice(*m).is_alone()).count() as f64 * 1000.0
        }

        fn harm(scheme: &Scheme) -> f64 {
            let harm = |m: usize| match scheme.choice(m) {
                alone if alone.is_alone() => 0.0,
                zero if zero.is_zero() => 0.5,
                _ if m == 2 && scheme.representative(m) == 1 => 0.01,
                _ => 0.7,
            };
            (0..12).map(harm).sum()
        }
    }

    impl Evaluator for Fake {
        fn pack(&mut self, candidates: &[Candidate], fidelity: Fidelity, _: f64) -> Result<Vec<Packed>> {
            let pack = |c: &Candidate| {
                let how = if fidelity == Fidelity::Full { "pack" } else { "rough" };
                self.log.push(format!("{how} {}", c.change));
                let kl = self.least + Fake::harm(&c.scheme) + 0.2 * Fake::size(&c.scheme) / 4000.0;
                let rows = vec![kl - 0.001, kl, kl + 0.001];
                Packed { step: 1.0, bytes: 2000, fits: true, predicted: kl, rows, complete: true }
            };
            Ok(candidates.iter().map(pack).collect())
        }

        fn set_base(&mut self, base: &Candidate, _: &Packed) -> Result<f64> {
            self.base = base.scheme.clone();
            Ok(5e-5)
        }

        fn probe(&mut self, candidates: &[Candidate], threshold: &Threshold) -> Result<Vec<Probe>> {
            let probe = |c: &Candidate| {
                self.log.push(format!("look {}", c.change));
                let saved = Fake::size(&self.base) - Fake::size(&c.scheme);
                let kl = threshold.kl + Fake::harm(&c.scheme) - Fake::harm(&self.base);
                Probe { kl, error: 0.0, complete: true, saved, predicted: 0.0 }
            };
            Ok(candidates.iter().map(probe).collect())
        }
    }

    fn run(layers: usize, bounds: &Bounds, other: Option<Candidate>) -> (Climbed, Vec<String>) {
        run_from(0.0, layers, bounds, other)
    }

    fn run_from(least: f64, layers: usize, bounds: &Bounds, other: Option<Candidate>) -> (Climbed, Vec<String>) {
        let table = Table { layers: (0..layers).map(|m| vec![Some(m)]).collect(), roles: vec!["w".into()] };
        let mut fake = Fake { base: Scheme::default(), log: Vec::new(), least };
        let start = Candidate { change: Move::Declared, scheme: Scheme::default() };
        (climb(&mut fake, &table, start, other, bounds).unwrap(), fake.log)
    }

    fn second_as_first() -> Move {
        Move::Copy { piece: Piece { layer: 2, branch: None }, of: 1, rank: 0 }
    }

    fn within(trials: usize) -> Bounds<'static> {
        Bounds { trials, slack: 1.0, heals: false, stop: &|| false }
    }

    fn count(log: &[String], what: &str) -> usize {
        log.iter().filter(|line| line.starts_with(what)).count()
    }

    #[test]
    fn what_pays_is_kept_and_nothing_else() {
        let (climbed, log) = run(4, &within(1000), None);
        assert_eq!(climbed.kept, [second_as_first()]);
        assert!(climbed.finished && climbed.packed.kl() < climbed.start.kl());
        assert_eq!(count(&log, "pack"), 3, "{log:?}");
        assert!(climbed.seen.iter().all(|seen| seen.short > 0.0));
    }

    #[test]
    fn the_better_start_is_gone_on_from() {
        let tied = Candidate { change: Move::Apart, scheme: Scheme::default().tied(2, 1, 0) };
        let (climbed, _) = run(4, &within(0), Some(tied));
        assert_eq!((climbed.best.change, climbed.kept), (Move::Apart, vec![Move::Apart]));
        assert!(climbed.packed.kl() < climbed.start.kl());
        let worse = Candidate { change: Move::Apart, scheme: Scheme::default().without(&[0]).unwrap() };
        assert_eq!(run(4, &within(0), Some(worse)).0.best.change, Move::Declared);
    }

    #[test]
    fn trials_are_counted() {
        for trials in 0..4 {
            let (climbed, log) = run(4, &within(trials), None);
            let packed = count(&log, "pack");
            // The first is what the search starts from.
            assert_eq!(packed, climbed.trials + 1);
            assert!(climbed.trials <= trials && (log.len() > packed) == (trials > 0), "{trials} {log:?}");
        }
        assert!(!run(4, &within(1), None).0.finished && run(4, &within(3), None).0.finished);
    }

    #[test]
    fn many_are_packed_roughly_before_few_are_fully() {
        // With so much slack every change looks promising.
        let bounds = |trials| Bounds { slack: 1e3, heals: true, ..within(trials) };
        // Where all are about alike, the best of the fixed shapes are judged in full though they rank behind the changes.
        for (least, shapes) in [(60.0, 1..=SHAPES), (0.0, 0..=0)] {
            let (climbed, log) = run_from(least, 12, &bounds(9), None);
            assert_eq!(climbed.kept, [second_as_first()], "{log:?}");
            assert_eq!((climbed.trials, climbed.rough), (count(&log, "pack") - 1, count(&log, "rough")));
            assert!(climbed.rough > ROUGHLY && ROUGH * climbed.trials + climbed.rough <= ROUGH * 9);
            let first: Vec<&String> = log.iter().skip_while(|line| !line.starts_with("rough")).collect();
            let roughly = first.iter().take_while(|line| line.starts_with("rough")).count();
            assert_eq!(roughly, ROUGHLY + SHAPES);
            let fully: Vec<_> = first[roughly..].iter().take_while(|line| line.starts_with("pack")).collect();
            assert!(shapes.contains(&(fully.len() - FULLY)), "{fully:?}");
            assert!(fully[FULLY..].iter().all(|line| !line.contains("layer")), "{fully:?}");
        }
        for trials in 0..6 {
            let (climbed, _) = run(12, &bounds(trials), None);
            assert!(ROUGH * climbed.trials + climbed.rough <= ROUGH * trials && climbed.trials.min(1) == trials.min(1));
        }
    }
}
