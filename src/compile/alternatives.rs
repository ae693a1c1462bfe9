//! Chooses the recipe of each matrix, among being stored alone and its alternatives, by one Lagrangian: predicted loss plus the
//! price of its bytes.
//!
//! Everything is screened before anything is coded: pairs by their correlation, low-rank terms by the largest singular value,
//! and what is left by its rate in theory. What looks better is really coded, and kept if it is. A residual's bits depend on how
//! large it is against its steps, not on what correlations of inputs make of it: with one, terms are judged by
//! [`Metric::scale`], without one by what is lost, whitened. On really trained layers that theory met what coding then gained
//! within a few thousandths.

use std::collections::BTreeMap;

use faer::Mat;
use rayon::prelude::*;

use super::job::Job;
use super::parts::{CodedStream, NATS_PER_BYTE, Parts};
use super::target::{Target, itself};
use crate::code::codec::sum;
use crate::code::codec::vectors::EQUAL_SLOPE;
#[cfg(doc)]
use crate::code::quantize::metric::Metric;
use crate::code::quantize::step_rule::GRANULAR;
use crate::error::Result;
use crate::plan::scheme::{ALONE, Choice, Scheme};
use crate::plan::shape::Table;
use crate::recipe::{AnyGrid, Prediction};

/// Bytes that an entry of a sum takes in the header and before its terms.
const ENTRY: f64 = 8.0;
/// Minimum gain before an alternative is coded, by its estimate, and before it is chosen, as coded: a share of the cost of the matrix
/// stored alone, and a number of bytes; the larger counts. Below it a matrix stays independent, because healing gains more from
/// that than a few thousandths of the bytes are worth.
const LEAST_GAIN: (f64, f64) = (0.01, 16.0);
/// Highest rank of a term, as one in so many of the matrix's smaller side.
const THIN: usize = 4;
/// Alternatives coded for a matrix, at most.
const CODED: usize = 2;

/// An alternative recipe of a matrix, and its cost.
#[derive(Debug, Clone)]
pub(super) struct Alternative {
    pub choice: Choice,
    /// Nats more than what the matrix is made of, bytes at their price; below 0 for a better one.
    pub more: f64,
    /// Whether it was coded; otherwise `more` is an estimate.
    pub coded: bool,
}

/// The decision for one matrix.
pub(super) struct Decided {
    pub stored: usize,
    pub choice: Choice,
    /// The best alternative that was not chosen.
    pub next: Option<Alternative>,
}

/// Decides what every matrix of the table is made of at step size `c`, when `alone` holds their streams.
///
/// # Errors
/// Compute, when a stream cannot be read back.
pub(super) fn decide(
    job: Job,
    parts: &Parts,
    table: &Table,
    alone: &[Option<CodedStream>],
    c: f64,
) -> Result<Vec<Decided>> {
    // Matrices of one role start from one another, those of different roles do not.
    let roles: Vec<Vec<usize>> = (0..table.roles.len())
        .map(|role| {
            let mut stored: Vec<usize> = table.layers.iter().filter_map(|layer| layer[role]).collect();
            stored.sort_unstable();
            stored.dedup();
            stored.retain(|i| alone[*i].is_some());
            stored
        })
        .collect();
    let in_table: Vec<usize> = roles.iter().flatten().copied().collect();
    let others = (0..alone.len()).filter(|i| alone[*i].is_some() && !in_table.contains(i)).map(|i| vec![i]);
    let groups: Vec<Vec<usize>> = roles.iter().cloned().chain(others).collect();
    let decided: Vec<Vec<Decided>> = groups
        .into_par_iter()
        .map(|group| {
            let price = |stream: &CodedStream| stream.loss + NATS_PER_BYTE * c * c * stream.bytes.len() as f64;
            let costs = group.iter().filter_map(|i| Some((*i, price(alone[*i].as_ref()?)))).collect();
            let mut so_far = SoFar { scheme: Scheme::default(), costs };
            let mut out = Vec::new();
            for (k, &i) in group.iter().enumerate() {
                out.push(one(job, parts, &mut so_far, i, &group[..k], c)?);
            }
            Ok(out)
        })
        .collect::<Result<_>>()?;
    let mut decided: Vec<Decided> = decided.into_iter().flatten().collect();
    decided.sort_by_key(|d| d.stored);
    Ok(decided)
}

/// The decisions so far about matrices that may be predicted from one another.
struct SoFar {
    scheme: Scheme,
    /// Loss and price of the bytes of each.
    costs: BTreeMap<usize, f64>,
}

fn one(
    Job { model, metrics, .. }: Job,
    parts: &Parts,
    so_far: &mut SoFar,
    i: usize,
    earlier: &[usize],
    c: f64,
) -> Result<Decided> {
    let Target { w, metric, correction } = itself(model, metrics, i);
    let price = NATS_PER_BYTE * c * c;
    let cost = so_far.costs[&i];
    let root = correction.sqrt() as f32;
    let spectrum = |z: Vec<f32>| Spectrum { z, rows: metric.rows, cols: metric.cols, d: GRANULAR * c * c };
    // As the terms of a sum will be found: before a residual, and where none follows.
    let coarse = sum::is_coarse(&w, &metric, c / correction.sqrt());
    let both = |w: &[f32]| {
        let units = |w: Vec<f32>| spectrum(w.into_iter().map(|v| v * root).collect());
        let lost = units(metric.whiten(w));
        (if coarse { lost.clone() } else { units(metric.scale(w)) }, lost)
    };
    let (coded, lost) = both(&w);
    // With a residual both sides are estimates; without one the loss is known exactly, and compared with the coded cost.
    let mut alternatives = vec![(Choice::ZERO, 0.5 * lost.energy() - cost)];
    let before = coded.on_grid();
    let alternative = |from: Option<usize>, rest: Rest, spectrum: &Spectrum| {
        let (rank, estimate) = spectrum.best(rest);
        let residual = (rest != Rest::Lost).then_some(AnyGrid);
        let prediction = from.map(|from| Prediction { from, gain: None });
        let choice = Choice { prediction, rank, residual };
        let instead = if residual.is_some() { before } else { cost };
        (from.is_some() || rank > 0).then_some((choice, estimate + price * ENTRY - instead))
    };
    let on_grid = Rest::OnGrid { coarse };
    alternatives.extend(alternative(None, on_grid, &coded));
    alternatives.extend(alternative(None, Rest::Lost, &lost));
    // A multiple of P that explains ρ² of the energy saves ½ log₂ 1/(1 − ρ²) bits a weight.
    let least_gain = (LEAST_GAIN.0 * cost).max(LEAST_GAIN.1 * price);
    let least = least_gain / price * 8.0 * 2.0 * std::f64::consts::LN_2 / w.len().max(1) as f64;
    for &j in earlier {
        let p = &model.stored[j].data;
        if squared_cosine(&w, p, &metric.output) < least / 4.0 {
            continue;
        }
        let (p_coded, p_lost) = both(p);
        alternatives.extend(alternative(Some(j), on_grid, &coded.less(p_coded)));
        alternatives.extend(alternative(Some(j), Rest::Lost, &lost.less(p_lost)));
    }
    alternatives.sort_by(|a, b| a.1.total_cmp(&b.1));
    let mut tried = vec![Alternative { choice: ALONE, more: cost, coded: true }];
    let mut best = (ALONE, cost, Vec::new());
    for (choice, _) in alternatives.iter().take_while(|(_, estimate)| *estimate < -least_gain).take(CODED) {
        let scheme = so_far.scheme.clone().with(i, *choice);
        // The reference changes as well: it is coded for one more matrix.
        let (mut its, mut costs) = (cost, Vec::new());
        if choice.is_zero() {
            its = 0.5 * lost.energy();
        } else {
            for (m, stream) in parts.group_under(&scheme, i, c)? {
                let new = stream.loss + price * (stream.bytes.len() as f64 + if m == i { ENTRY } else { 0.0 });
                its += new - so_far.costs[&m];
                costs.push((m, new));
            }
        }
        tried.push(Alternative { choice: *choice, more: its, coded: true });
        if its < best.1.min(cost - least_gain) {
            best = (*choice, its, costs);
        }
    }
    let (choice, lowest, costs) = best;
    so_far.scheme = so_far.scheme.clone().with(i, choice);
    so_far.costs.extend(costs);
    if tried.len() == 1 {
        // Nothing was coded: the best estimate is reported instead.
        let theory = |(choice, more): &(Choice, f64)| Alternative {
            choice: *choice,
            more: lowest + more.max(0.0),
            coded: false,
        };
        tried.extend(alternatives.first().map(theory));
    }
    let others = tried.into_iter().filter(|alternative| alternative.choice != choice);
    let next = others.min_by(|a, b| a.more.total_cmp(&b.more)).map(|o| Alternative { more: o.more - lowest, ..o });
    Ok(Decided { stored: i, choice, next })
}

/// Squared cosine of two matrices, rows weighted: what the whitened correlation is about, at a fraction of its time.
fn squared_cosine(a: &[f32], b: &[f32], rows: &[f32]) -> f64 {
    let cols = a.len() / rows.len().max(1);
    let (mut ab, mut aa, mut bb) = (0f64, 0f64, 0f64);
    for ((a, b), o) in a.chunks_exact(cols).zip(b.chunks_exact(cols)).zip(rows) {
        let (mut x, mut y, mut z) = (0f32, 0f32, 0f32);
        for (a, b) in a.iter().zip(b) {
            x += a * b;
            y += a * a;
            z += b * b;
        }
        ab += f64::from(o * x);
        aa += f64::from(o * y);
        bb += f64::from(o * z);
    }
    if aa > 0.0 && bb > 0.0 { ab * ab / (aa * bb) } else { 0.0 }
}

/// The spectrum of a matrix (R, C), from which rates are estimated: coded parts in the units of [`Metric::scale`], lost parts
/// whitened. `d` is the distortion per weight that a grid leaves, twice the loss.
#[derive(Clone)]
struct Spectrum {
    z: Vec<f32>,
    rows: usize,
    cols: usize,
    d: f64,
}

/// The treatment of the rest that a low-rank term leaves.
#[derive(Clone, Copy, PartialEq)]
enum Rest {
    Lost,
    /// It is coded, on a grid that leaves out most of it or not.
    OnGrid {
        coarse: bool,
    },
}

impl Spectrum {
    fn energy(&self) -> f64 {
        self.z.iter().map(|v| f64::from(v * v)).sum()
    }

    /// Energies of rows and of columns.
    fn sides(&self) -> (Vec<f64>, Vec<f64>) {
        let (mut rows, mut cols) = (vec![0f64; self.rows], vec![0f64; self.cols]);
        for (row, total) in self.z.chunks_exact(self.cols).zip(&mut rows) {
            for (v, c) in row.iter().zip(&mut cols) {
                let e = f64::from(v * v);
                *total += e;
                *c += e;
            }
        }
        (rows, cols)
    }

    /// Loss and price of coding it on a grid: weights are as large as their rows and columns are.
    fn on_grid(&self) -> f64 {
        let (rows, cols) = self.sides();
        cost(&rows, &cols, self.d)
    }

    /// Largest squared singular value, nearly: a few steps of the power iteration from the heaviest row.
    fn strongest(&self) -> f64 {
        let (rows, _) = self.sides();
        let heaviest = (0..self.rows).max_by(|a, b| rows[*a].total_cmp(&rows[*b])).unwrap_or(0);
        let mut v: Vec<f64> = self.z[heaviest * self.cols..][..self.cols].iter().map(|v| f64::from(*v)).collect();
        let mut strength = 0.0;
        for _ in 0..6 {
            let norm = v.iter().map(|v| v * v).sum::<f64>().sqrt().max(f64::MIN_POSITIVE);
            v.iter_mut().for_each(|v| *v /= norm);
            let mut next = vec![0f64; self.cols];
            strength = 0.0;
            for row in self.z.chunks_exact(self.cols) {
                let u: f64 = row.iter().zip(&v).map(|(r, v)| f64::from(*r) * v).sum();
                strength += u * u;
                next.iter_mut().zip(row).for_each(|(n, r)| *n += u * f64::from(*r));
            }
            v = next;
        }
        strength
    }

    /// The rest after the best multiple of `p` is subtracted.
    fn less(&self, p: Spectrum) -> Spectrum {
        let gain = sum::gain(&self.z, &p.z) as f32;
        Spectrum { z: self.z.iter().zip(&p.z).map(|(w, p)| w - gain * p).collect(), ..p }
    }

    /// Cost of storing a component of this squared singular value, and its loss; its grids are `coarser` than where nothing follows.
    fn component(&self, square: f64, coarser: f64) -> f64 {
        let step2 = (EQUAL_SLOPE * coarser).powi(2) * self.d / GRANULAR;
        let bits = |n: usize| n as f64 * 0.5 * (1.0 + 17.0 * square / (n as f64 * step2)).log2();
        let sides = (self.rows + self.cols) as f64;
        (bits(self.rows) + bits(self.cols)) * std::f64::consts::LN_2 * self.d + 0.5 * sides * self.d
    }

    /// The best rank of a low-rank term, and what it costs with what becomes of the rest.
    fn best(&self, rest: Rest) -> (usize, f64) {
        let (energy, n) = (self.energy(), (self.rows * self.cols) as f64);
        let (mut rows, mut cols) = self.sides();
        let of_rest = |left: f64, rows: &[f64], cols: &[f64]| match rest {
            Rest::Lost => 0.5 * left,
            Rest::OnGrid { .. } => cost(rows, cols, self.d),
        };
        let coarser = |left: f64| match rest {
            Rest::OnGrid { coarse: false } => sum::coarser(left / n / (self.d / GRANULAR)),
            _ => 1.0,
        };
        let mut best = (0, of_rest(energy, &rows, &cols));
        // Without its strongest component: if that alone does not pay, no rank does.
        let first = self.strongest();
        let saved = match rest {
            Rest::Lost => 0.5 * first.min(energy),
            Rest::OnGrid { .. } => {
                0.5 * n * self.d * (energy / (energy - first).max(energy * 1e-9)).ln().min(first / (n * self.d))
            }
        };
        if energy <= 0.0 || self.component(first, coarser(energy - first)) >= saved {
            return best;
        }
        let whole = Mat::<f64>::from_fn(self.rows, self.cols, |i, j| f64::from(self.z[i * self.cols + j]));
        let Ok(svd) = whole.thin_svd() else { return best };
        let (mut spent, mut left) = (0.0, energy);
        for k in 0..self.rows.min(self.cols) / THIN {
            let square = svd.S()[k] * svd.S()[k];
            left = (left - square).max(0.0);
            spent += self.component(square, coarser(left));
            rows.iter_mut().enumerate().for_each(|(i, r)| *r -= square * svd.U()[(i, k)].powi(2));
            cols.iter_mut().enumerate().for_each(|(j, c)| *c -= square * svd.V()[(j, k)].powi(2));
            let both = spent + of_rest(left, &rows, &cols);
            if both < best.1 {
                best = (k + 1, both);
            }
        }
        best
    }
}

/// A weight of variance v on a grid that leaves d loses ½ vd/(v+d) and takes ½ log₂(1+v/d) bits, at ln 2 · d a bit.
fn cost(rows: &[f64], cols: &[f64], d: f64) -> f64 {
    let total: f64 = rows.iter().sum();
    if total <= 0.0 {
        return 0.0;
    }
    let mut sum = 0.0;
    for r in rows {
        let mut product = 1f64;
        for c in cols {
            let v = (r * c / total).max(0.0) / d;
            sum += 0.5 * v / (1.0 + v);
            product *= 1.0 + v;
            if product > 1e200 {
                sum += 0.5 * product.ln();
                product = 1.0;
            }
        }
        sum += 0.5 * product.ln();
    }
    sum * d
}

/// Loss by the quadratic model, nats per token, where a matrix `target.w` is replaced by `becomes`.
pub(super) fn predicted(target: &Target, becomes: &[f32]) -> f64 {
    let rest: Vec<f32> = target.w.iter().zip(becomes).map(|(w, b)| w - b).collect();
    target.correction * sum::loss(&rest, &target.metric)
}
