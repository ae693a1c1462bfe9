//! Evaluates schemes by their real cost: packs them into the cap and measures the KL on calibration tokens.
//!
//! Where the file will be healed, what is packed here is healed as well, for a short while and on other calibration tokens: what
//! was trained apart can only be shared by training it again, and what is compared must have had the same chance.

use std::collections::BTreeSet;

use rayon::prelude::*;

use super::alternatives::predicted;
use super::code::begin;
use super::heal::{HealingInput, heal};
use super::job::Job;
use super::metrics::Metrics;
use super::parts::{CodedStream, Finished, Parts};
use super::target::{itself, target};
use crate::error::Result;
use crate::eval::prefix::{Base, Measured, Original};
use crate::heal::{self, Length, Pace};
use crate::model::Model;
use crate::nets::{Net, Params};
use crate::plan::budget::{Encoder, Near, approach};
use crate::plan::evaluator::{Evaluator, Fidelity, Packed, Probe, Threshold};
use crate::plan::moves::Candidate;
use crate::plan::scheme::Scheme;
use crate::progress::{Progress, Silent};
use crate::train::teacher::Teacher;

/// Relative distance from the cap to which a scheme is packed, to be compared with others and, roughly, to be ranked.
const CLOSE: f64 = 1e-3;
const ROUGHLY_CLOSE: f64 = 4e-3;
/// Octaves of the step size over which the price of a byte is measured: about what leaving a layer out buys.
const PRICE_OCTAVES: f64 = 0.2;
/// Bits of an integer in a low-rank factor, for changes that are probed.
const FACTOR_BITS: f64 = 5.0;

/// Iterations of a short healing, and of one that only ranks.
///
/// They are short ones: on equally many tokens twice the steps heal more (bundled model at 30,000 bytes: KL .94 after 24 steps of
/// 1,024 tokens, .98 after 12 of 2,048). Half as many of them are too few for what is shared far below a bit a weight.
const ITERATIONS: usize = 144;
const ROUGH_ITERATIONS: usize = 24;
pub(super) const PACE: Pace = Pace { iteration_tokens: 1024, held: 4, close: 1_000 };
/// A scheme whose KL is so many times the limit before healing is not healed.
const HOPELESS: f64 = 8.0;
/// Changes are probed on one batch in so many: the error of a probe is not one that more rows would reduce.
const PROBED: usize = 2;
/// Schemes that are kept as they were packed, for the case that one becomes the base.
const KEPT: usize = 4;

fn close(fidelity: Fidelity) -> f64 {
    if fidelity == Fidelity::Full { CLOSE } else { ROUGHLY_CLOSE }
}

/// Bytes that a low-rank term of a matrix (R, C) is expected to take.
fn term_bytes(rank: usize, [rows, cols]: [usize; 2]) -> f64 {
    (rank * (rows + cols)) as f64 * FACTOR_BITS / 8.0
}

/// The short healing of candidates.
pub(super) struct Short<'a> {
    /// Tokens that are not among those that candidates are measured on.
    pub calib: Vec<u32>,
    /// Shared by all of them: they go over the same text.
    pub teacher: Teacher<'a>,
    /// How long, and into how many bytes, is each candidate's own.
    pub options: heal::Options<'a>,
}

/// A packed scheme with its decoded tensors.
struct CodedScheme {
    scheme: Scheme,
    step: f64,
    size: u64,
    predicted: f64,
    streams: Vec<Option<CodedStream>>,
    finished: Finished,
}

/// A packed scheme, the state from which coding goes on, its measured loss, and its tensors after a short healing.
struct PackedScheme<'a> {
    coded: CodedScheme,
    parts: Parts<'a>,
    untrained: Measured,
    healed: Option<Vec<Vec<f32>>>,
}

/// The base that changes are probed on.
struct ProbeBase<'a> {
    coded: CodedScheme,
    base: Base<'a>,
}

/// Sizes and step size of the scheme that a search starts from; the step sizes of other schemes are predicted from them.
pub(super) struct Known {
    scheme: Scheme,
    /// A step size near the budget.
    pub step: f64,
    /// Bits that a weight takes less for each octave of the step size.
    rate: f64,
    /// Bytes of the file, and of the stream of every stored matrix.
    size: f64,
    sizes: Vec<f64>,
}

impl Known {
    pub fn new(parts: &Parts, near: Near<Vec<CodedStream>>) -> Known {
        let sizes = parts.by_stored(&near.parts).into_iter();
        let sizes = sizes.map(|s| s.map_or(0.0, |s| s.bytes.len() as f64)).collect();
        Known { scheme: parts.scheme().clone(), step: near.step, rate: near.rate, size: near.size as f64, sizes }
    }
}

/// The evaluator that works in this process.
pub(super) struct Local<'a> {
    model: &'a Model,
    metrics: &'a Metrics<'a>,
    net: &'a dyn Net,
    original: &'a Original<'a>,
    parts: Parts<'a>,
    known: Known,
    budget: u64,
    base: Option<ProbeBase<'a>>,
    short: Option<Short<'a>>,
    kept: Vec<PackedScheme<'a>>,
    progress: &'a dyn Progress,
}

impl<'a> Local<'a> {
    pub fn new(
        job: Job<'a>,
        net: &'a dyn Net,
        original: &'a Original<'a>,
        parts: Parts<'a>,
        known: Known,
        budget: u64,
        short: Option<Short<'a>>,
    ) -> Self {
        let Job { model, metrics, progress, .. } = job;
        Local { model, metrics, net, original, parts, known, budget, base: None, short, kept: Vec::new(), progress }
    }

    /// The step size at which a scheme is expected to meet the budget.
    fn expected(&self, scheme: &Scheme, weights: usize) -> f64 {
        let Known { scheme: other, step, rate, size, sizes } = &self.known;
        let takes = |m: usize| match scheme.choice(m) {
            choice if choice.residual.is_none() && choice != other.choice(m) => {
                term_bytes(choice.rank, self.model.sides(m).into())
            }
            _ => sizes[m],
        };
        let size = size + self.model.matrices().map(|m| takes(m) - sizes[m]).sum::<f64>();
        let octaves = (size - self.budget as f64) / (rate * weights.max(1) as f64 / 8.0);
        step * octaves.clamp(-2.0, 2.0).exp2()
    }

    /// Brings a scheme to the cap.
    fn code(&self, scheme: &Scheme, fidelity: Fidelity) -> Result<(CodedScheme, Parts<'a>)> {
        let mut parts = self.parts.under(scheme);
        let start = (self.expected(scheme, parts.weights()), self.known.rate);
        let near = approach(&mut parts, self.budget, start, close(fidelity))?;
        let streams = parts.by_stored(&near.parts);
        let predicted = near.parts.iter().map(|part| part.loss).sum();
        let finished = parts.finish(near.parts)?;
        let coded =
            CodedScheme { scheme: scheme.clone(), step: near.step, size: near.size, predicted, streams, finished };
        Ok((coded, parts))
    }

    /// Tensors by name.
    fn named(&self, data: &[(usize, &[f32])]) -> Result<Params> {
        let mut params = Params::new();
        for (stored, data) in data {
            let tensor = candle_core::Tensor::from_slice(data, self.model.shape(*stored), self.model.device())?;
            for spec in self.model.uses(*stored) {
                params.insert(self.model.specs[spec].name.clone(), tensor.clone());
            }
        }
        self.model.device().synchronize()?;
        Ok(params)
    }

    fn params(&self, decoded: &[Vec<f32>]) -> Result<Params> {
        self.named(&decoded.iter().enumerate().map(|(i, data)| (i, &data[..])).collect::<Vec<_>>())
    }

    /// The tensors of a coded scheme after a short healing, if there is one.
    fn heal(&self, coded: &CodedScheme, fidelity: Fidelity) -> Result<Option<Vec<Vec<f32>>>> {
        let Some(Short { calib, teacher, options }) = &self.short else { return Ok(None) };
        let length = Length::Steps(if fidelity == Fidelity::Full { ITERATIONS } else { ROUGH_ITERATIONS });
        let options = heal::Options { length, budget: coded.size, ..options.clone() };
        let Finished { plan, pieces, .. } = &coded.finished;
        let healing = HealingInput { teacher, calib, options };
        let (pieces, _) = heal(self.model, self.metrics, plan, pieces.clone(), &healing, &Silent)?;
        Ok(Some(pieces.decoded))
    }

    fn measure(&self, decoded: &[Vec<f32>], limit: f64) -> Result<Measured> {
        self.original.measure(self.net, &self.params(decoded)?, limit)
    }

    /// Brings a scheme to the cap and heals it, unless it is hopeless against `limit`.
    fn make(&self, scheme: &Scheme, limit: f64) -> Result<PackedScheme<'a>> {
        let (coded, parts) = self.code(scheme, Fidelity::Full)?;
        let far = if self.short.is_some() { HOPELESS * limit } else { limit };
        let untrained = self.measure(&coded.finished.pieces.decoded, far)?;
        let healed = if untrained.complete { self.heal(&coded, Fidelity::Full)? } else { None };
        Ok(PackedScheme { coded, parts, untrained, healed })
    }

    fn packed(&self, coded: &CodedScheme, fidelity: Fidelity, Measured { rows, complete }: Measured) -> Packed {
        let fits = coded.size as f64 <= (1.0 + 2.0 * close(fidelity)) * self.budget as f64;
        Packed { step: coded.step, bytes: coded.size, fits, predicted: coded.predicted, rows, complete }
    }

    /// Packs a scheme to be ranked: what it loses untrained says nothing more once a few steps are made.
    fn pack_roughly(&self, scheme: &Scheme, limit: f64) -> Result<Packed> {
        let (coded, _) = self.code(scheme, Fidelity::Rough)?;
        let healed = self.heal(&coded, Fidelity::Rough)?;
        let measured = self.measure(healed.as_ref().unwrap_or(&coded.finished.pieces.decoded), limit)?;
        Ok(self.packed(&coded, Fidelity::Rough, measured))
    }

    /// Packs a scheme to be compared with the base, which it may become.
    fn pack_fully(&mut self, scheme: &Scheme, limit: f64) -> Result<Packed> {
        let kept = self.make(scheme, limit)?;
        let measured = match &kept.healed {
            Some(decoded) => self.measure(decoded, limit)?,
            None => kept.untrained.clone(),
        };
        let packed = self.packed(&kept.coded, Fidelity::Full, measured);
        if packed.complete {
            self.kept.truncate(KEPT - 1);
            self.kept.insert(0, kept);
        }
        Ok(packed)
    }

    /// A change of the base without quantizing what it changes.
    fn probe_one(&self, probe_base: &ProbeBase, scheme: &Scheme, threshold: &Threshold) -> Result<Probe> {
        let ProbeBase { coded, base } = probe_base;
        let other =
            |m: usize| scheme.choice(m) != coded.scheme.choice(m) || scheme.mean_of(m) != coded.scheme.mean_of(m);
        let mut changed: BTreeSet<usize> = BTreeSet::new();
        for m in self.model.matrices() {
            if other(m) || scheme.from(m).is_some_and(|from| changed.contains(&from)) {
                changed.insert(m);
            }
        }
        // Matrices that start from one another have one role: roles side by side.
        let mut groups: Vec<Vec<usize>> = Vec::new();
        for &m in &changed {
            match groups.iter_mut().find(|g| scheme.from(m).is_some_and(|from| g.contains(&from))) {
                Some(group) => group.push(m),
                None => groups.push(vec![m]),
            }
        }
        let made: Vec<Vec<Change>> = groups.into_par_iter().map(|group| self.changes(coded, scheme, &group)).collect();
        let made: Vec<Change> = made.into_iter().flatten().collect();
        let saved: f64 = made.iter().map(|c| c.saved).sum();
        let predicted: f64 = made.iter().map(|c| c.predicted).sum();
        if saved <= 0.0 {
            return Ok(Probe { kl: threshold.kl, error: 0.0, complete: false, saved, predicted });
        }
        let layers =
            changed.iter().flat_map(|m| self.model.uses(*m)).map(|spec| self.model.specs[spec].layer).collect();
        let data: Vec<(usize, &[f32])> = made.iter().map(|c| (c.stored, &c.data[..])).collect();
        // Of the probed rows only the difference from the base counts.
        let apart = threshold.kl - base.kl;
        let measured = base.variant(self.named(&data)?, &layers, threshold.limit(saved) - apart)?;
        // Text has no infinity.
        let error = measured.standard_error().min(f64::MAX);
        Ok(Probe { kl: measured.mean() + apart, error, complete: measured.complete, saved, predicted })
    }

    /// The changed weights of matrices that are predicted from one another.
    fn changes(&self, coded: &CodedScheme, scheme: &Scheme, group: &[usize]) -> Vec<Change> {
        let size = |m: usize| coded.streams[m].as_ref().map_or(0.0, |s| s.bytes.len() as f64);
        let lost = |m: usize| coded.streams[m].as_ref().map_or(0.0, |s| s.loss);
        let mut made: Vec<Change> = Vec::new();
        for &m in group {
            let own = itself(self.model, self.metrics, m);
            let (rows, cols) = (own.metric.rows, own.metric.cols);
            let choice = scheme.choice(m);
            let (data, takes) = if choice.is_alone() {
                let of = scheme.mean_of(m);
                // As many bytes as those that it stands for take on the average; what is a copy by now takes none.
                let sizes: Vec<f64> = of.iter().copied().chain([m]).map(size).filter(|s| *s > 64.0).collect();
                let takes = sizes.iter().sum::<f64>() / sizes.len().max(1) as f64;
                (target(self.model, self.metrics, m, of, &[]).w.into_owned(), takes)
            } else if choice.residual.is_some() {
                (own.w.to_vec(), size(m))
            } else {
                let reference = choice.from().map(|from| {
                    let changed = made.iter().find(|c| c.stored == *from);
                    changed.map_or(&coded.finished.pieces.decoded[*from][..], |c| &c.data[..])
                });
                let step = coded.step / own.correction.sqrt();
                let rest = begin(&choice, &own, reference, step).rest;
                let data = own.w.iter().zip(&rest[..]).map(|(w, r)| w - r).collect();
                (data, term_bytes(choice.rank, [rows, cols]))
            };
            let predicted = predicted(&own, &data) - lost(m);
            made.push(Change { stored: m, saved: size(m) - takes, predicted, data });
        }
        made
    }
}

/// The changed weights of a stored matrix.
struct Change {
    stored: usize,
    data: Vec<f32>,
    /// Bytes that it takes less.
    saved: f64,
    /// Nats that the quadratic says it loses more.
    predicted: f64,
}

impl Evaluator for Local<'_> {
    fn pack(&mut self, candidates: &[Candidate], fidelity: Fidelity, limit: f64) -> Result<Vec<Packed>> {
        let mut packed = Vec::with_capacity(candidates.len());
        for candidate in candidates {
            packed.push(match fidelity {
                Fidelity::Rough => self.pack_roughly(&candidate.scheme, limit)?,
                Fidelity::Full => self.pack_fully(&candidate.scheme, limit)?,
            });
            self.progress.advance(1);
        }
        Ok(packed)
    }

    fn set_base(&mut self, base: &Candidate, packed: &Packed) -> Result<f64> {
        let kept = match self.kept.iter().position(|k| k.coded.scheme == base.scheme) {
            Some(at) => self.kept.remove(at),
            None => self.make(&base.scheme, f64::INFINITY)?,
        };
        let PackedScheme { coded, mut parts, untrained, healed } = kept;
        let finer = coded.step * (-PRICE_OCTAVES).exp2();
        let more = parts.encode(finer)?;
        let size = parts.file_size(&more)?;
        let better = self.measure(&parts.finish(more)?.pieces.decoded, f64::INFINITY)?.mean();
        // Healing takes the same share of both.
        let (now, share) = match &healed {
            None => (packed.kl(), 1.0),
            Some(_) => (untrained.mean(), packed.kl() / untrained.mean().max(f64::MIN_POSITIVE)),
        };
        let price = share * (now - better).max(0.0) / (size as f64 - coded.size as f64).max(1.0);
        let params = self.params(healed.as_ref().unwrap_or(&coded.finished.pieces.decoded))?;
        let base = Base::new(self.net, self.original, params, PROBED)?;
        self.base = Some(ProbeBase { coded, base });
        Ok(price)
    }

    fn probe(&mut self, candidates: &[Candidate], threshold: &Threshold) -> Result<Vec<Probe>> {
        let probe_base = self.base.as_ref();
        let probe_base =
            probe_base.ok_or_else(|| crate::error::Error::compute("nothing was made the base of a search"))?;
        let probe = |c: &Candidate| {
            let probe = self.probe_one(probe_base, &c.scheme, threshold);
            self.progress.advance(1);
            probe
        };
        candidates.iter().map(probe).collect()
    }
}
