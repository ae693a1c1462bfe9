//! The run: steps, prices, held-out text, the best state.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use super::part::{Moment, Stream};
use super::state::{Run, Standing};
use crate::error::{Error, Result};
use crate::model::Model;
use crate::nets::Params;
use crate::progress::Progress;
use crate::text::thousands;
use crate::train::adam::Betas;
use crate::train::gradient::{LANES, gradient};
use crate::train::held_out::HeldOut;
use crate::train::objective::Objective;
use crate::train::rows::Rows;
use crate::train::schedule::Schedule;

/// Tokens of a step.
const STEP_TOKENS: usize = 4096;
/// Tokens of a piece: what one forward pass sees. A row may be longer.
const PIECE_TOKENS: usize = 512;
/// Pieces that are set aside, at most; and no more than one in so many.
const HELD_PIECES: usize = 32;
const HELD_SHARE: usize = 8;
/// Steps between two looks at the held-out text.
const EVERY: usize = 20;
/// Full rate of a short run, in steps of the grid, and how many steps are short. Longer runs need a lower rate: at a high one
/// paths go to and fro, and that costs as much as is gained.
const RATE: f32 = 0.006;
const SHORT: f32 = 160.0;
const SLOWING: f32 = 0.6;
const BETAS: Betas = Betas { first: 0.9, second: 0.95 };
/// A run that lasts as long as it gains ends after so many steps without a better state, or so many in all.
const PATIENCE: usize = 200;
const LONGEST: usize = 1500;
/// Steps whose time says how many fit into a given time.
const TIMED: usize = 4;
/// The price of a bit grows by this power of what the file is over its budget, at most by [`TURN`] at a time.
const STEER: f64 = 6.0;
const TURN: f64 = 0.1;
/// Share of the budget that is aimed at: a state that is over it by a byte cannot be packed.
const MARGIN: f64 = 1.0 - 2e-4;
/// Prices tried for the last state to fit.
const FITS: usize = 5;
/// Breakdowns after which a run ends.
const BREAKDOWNS: usize = 3;

/// The rate at which a run of so many steps is the best.
fn full_rate(steps: usize) -> f32 {
    RATE * (SHORT / steps.max(1) as f32).min(1.0).powf(SLOWING)
}

/// How long to heal.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Length {
    Steps(usize),
    /// As many steps as fit.
    Time(Duration),
    /// As long as it gains.
    Gaining,
}

/// What a healing may do.
pub struct Options<'a> {
    pub length: Length,
    pub objective: Objective,
    pub seed: u64,
    /// Bytes that the file may have.
    pub budget: u64,
    /// Where the state is kept from time to time.
    pub checkpoint: Option<PathBuf>,
    /// Go on from the checkpoint, if there is one.
    pub resume: bool,
    /// Of all that the run depends on beside these options: blake3 in hexadecimal.
    pub key: String,
    /// Asked between steps: whether to end with the best so far.
    pub stop: &'a (dyn Fn() -> bool + Sync),
    /// Bytes of the file whose streams have these sizes.
    pub file_size: &'a (dyn Fn(&[usize]) -> Result<u64> + Sync),
}

/// The held-out text at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Point {
    pub step: usize,
    /// KL(original ‖ packed), nats per token, on held-out calibration text.
    pub kl: f64,
    /// Nats per token on that text.
    pub loss: f64,
    /// Bytes of the file.
    pub bytes: u64,
    /// KL(original ‖ packed) on the text of the steps since the point before; 0 at first.
    pub training_kl: f64,
    /// Seconds since the start.
    pub seconds: f64,
}

/// How a healing went.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Course {
    pub objective: Objective,
    pub steps: usize,
    pub points: Vec<Point>,
    /// Index of the state that was packed; 0: the one before healing.
    pub best: usize,
    /// Tokens of a step, of calibration, and those set aside.
    pub step_tokens: usize,
    pub calibration_tokens: usize,
    pub held_out_tokens: usize,
    /// Times that training went over its text.
    pub passes: f64,
    pub breakdowns: usize,
}

/// The best streams that were found, and how.
pub struct Healed {
    pub streams: Vec<Vec<u8>>,
    pub course: Course,
}

/// How calibration text is shared out.
struct Split {
    /// Rows of a piece.
    piece_rows: usize,
    pieces: usize,
    /// Pieces of a step.
    batch: usize,
    /// Pieces set aside.
    held: usize,
}

fn split(length: usize, tokens: usize) -> Split {
    let piece_rows = PIECE_TOKENS.div_ceil(length);
    let pieces = tokens.saturating_sub(1) / (length * piece_rows);
    let batch = (STEP_TOKENS / (length * piece_rows)).max(1);
    Split { piece_rows, pieces, batch, held: HELD_PIECES.min(pieces / HELD_SHARE) }
}

/// Whether so many calibration tokens are enough for rows of `length`.
///
/// # Errors
/// Input, when they are not: says how many are needed.
pub fn enough(length: usize, tokens: usize) -> Result<()> {
    let Split { piece_rows, pieces, batch, held } = split(length, tokens);
    if held > 0 && pieces - held >= batch {
        return Ok(());
    }
    let needed = (batch.max(HELD_SHARE) + 2) * piece_rows * length + 1;
    let [needed, tokens] = [needed, tokens].map(|n| thousands(n as u64));
    Err(Error::input(format!(
        "healing needs {needed} calibration tokens, for a step and the text that watches over it; there are {tokens}"
    ))
    .hint("give more with --calib, or pack with --heal off"))
}

/// Bytes that a healing holds, activations inside the layers left out: weights of teacher and student, their gradients in
/// every lane, shadows, moments and indices; log-probabilities of a piece in every lane.
fn memory(model: &Model, length: usize, vocab: usize) -> usize {
    const COPIES: usize = 9;
    let weights: usize = model.stored.iter().map(|s| s.data.len()).sum();
    let piece = PIECE_TOKENS.div_ceil(length) * length;
    4 * weights * (COPIES + LANES) + LANES * piece * vocab * 4 * 4
}

/// Trains `streams`, which decode to `decoded` (by stored tensor) and have the bytes `coded` now, on `calib`.
///
/// # Errors
/// Input, when there is too little text or the checkpoint is another run's; whatever goes wrong in a pass.
pub fn heal(
    model: &Model,
    streams: Vec<Stream>,
    coded: Vec<Vec<u8>>,
    decoded: Vec<Vec<f32>>,
    calib: &[u16],
    options: &Options,
    progress: &dyn Progress,
) -> Result<Healed> {
    let net = model.network()?;
    let teacher = model.params()?;
    let length = net.context();
    enough(length, calib.len())?;
    let memory = memory(model, length, net.vocab_size()).div_ceil(1_000_000) as u64;
    progress.note(&format!("healing takes about {} MB of memory beside the statistics", thousands(memory)));
    let Split { piece_rows, pieces, batch, held } = split(length, calib.len());
    let every = pieces / held;
    let aside = |i: usize| i % every == every - 1 && i / every < held;
    let rows = Rows::new(calib, length, piece_rows, options.seed, |i| !aside(i));
    let held_out = HeldOut::new(net, &teacher, (0..pieces).filter(|i| aside(*i)).map(|i| rows.piece(i)).collect())?;
    let standing = Standing {
        key: options.key.clone(),
        step: 0,
        steps: match options.length {
            Length::Steps(steps) => steps,
            Length::Time(_) | Length::Gaining => LONGEST,
        },
        price: 1.0,
        rate: 1.0,
        course: Vec::new(),
        best: None,
    };
    let mut healing = Healing {
        model,
        teacher: &teacher,
        held_out,
        rows,
        batch,
        streams,
        weights: decoded,
        coded,
        standing,
        best: Vec::new(),
        options,
        progress,
        started: Instant::now(),
        breakdowns: 0,
    };
    healing.run()?;
    Ok(healing.finish(calib.len()))
}

struct Healing<'a> {
    model: &'a Model,
    teacher: &'a Params,
    held_out: HeldOut<'a>,
    rows: Rows<'a>,
    batch: usize,
    streams: Vec<Stream>,
    /// By stored tensor: as they would be decoded now.
    weights: Vec<Vec<f32>>,
    /// Bytes of every stream before healing.
    coded: Vec<Vec<u8>>,
    standing: Standing,
    /// Streams of the best state.
    best: Vec<Vec<u8>>,
    options: &'a Options<'a>,
    progress: &'a dyn Progress,
    started: Instant,
    breakdowns: usize,
}

impl Healing<'_> {
    fn run(&mut self) -> Result<()> {
        if self.options.resume {
            self.exchange(|run, path| run.load(path))?;
            // The order of the text is that of an unbroken run.
            (0..self.standing.step).for_each(|_| drop(self.rows.batch(self.batch)));
        }
        if self.standing.course.is_empty() {
            let coded = std::mem::take(&mut self.coded);
            self.judge(coded, 0.0)?;
        }
        self.progress.begin("healing", self.standing.steps as u64);
        self.progress.advance(self.standing.step as u64);
        let mut schedule = Schedule::new(self.standing.steps);
        let (mut divergence, mut positions) = (0f64, 0usize);
        let mut good: Option<(usize, Vec<Vec<f32>>)> = None;
        let begun = self.standing.step;
        let mut timer = Instant::now();
        let mut stopped = false;
        while self.standing.step < self.standing.steps {
            stopped = (self.options.stop)();
            if stopped {
                // The best so far is packed; a run that goes on goes on from here.
                self.keep()?;
                break;
            }
            let step = self.standing.step;
            if let (Length::Time(time), 0) = (self.options.length, begun) {
                // The first steps are slower: memory is still being found for them.
                if step == 1 {
                    timer = Instant::now();
                } else if step == 1 + TIMED {
                    self.standing.steps = self.fitting(time, timer.elapsed().as_secs_f64() / TIMED as f64);
                    schedule = Schedule::new(self.standing.steps);
                    self.progress.begin("healing", self.standing.steps as u64);
                    self.progress.advance(step as u64);
                }
            }
            if step.is_multiple_of(EVERY) && self.standing.course.last().is_none_or(|point| point.step < step) {
                let moments = self.see(self.standing.price);
                self.look(&moments, divergence / positions.max(1) as f64)?;
                (divergence, positions) = (0.0, 0);
                if self.options.length == Length::Gaining && self.is_over() {
                    break;
                }
            }
            if step.is_multiple_of(EVERY) || good.is_none() {
                good = Some((step, self.values()));
            }
            self.see(self.standing.price);
            let batch = self.rows.batch(self.batch);
            let mut found = gradient(self.model, &self.weights, Some(self.teacher), &batch, self.options.objective)?;
            let sound = found.totals.divergence.is_finite() && found.totals.loss.is_finite();
            if !sound || found.tensors.par_iter().any(|g| g.iter().any(|v| !v.is_finite())) {
                self.break_down(step, good.as_ref())?;
                continue;
            }
            divergence += found.totals.divergence;
            positions += found.totals.positions;
            self.streams.iter().rev().for_each(|stream| stream.hand_on(&mut found.tensors));
            let rate = full_rate(self.standing.steps) * self.standing.rate * schedule.at(step);
            self.streams.par_iter_mut().for_each(|stream| stream.learn(&found.tensors, rate, BETAS));
            self.standing.step += 1;
            self.progress.advance(1);
        }
        self.fit(divergence / positions.max(1) as f64)?;
        self.progress.end();
        if stopped { Ok(()) } else { self.keep() }
    }

    /// Steps that fit into `time` in all if one takes `seconds`.
    fn fitting(&self, time: Duration, seconds: f64) -> usize {
        // Looks at the held-out text cost as much as a step each and a half.
        let left = (time.as_secs_f64() - self.started.elapsed().as_secs_f64()).max(0.0);
        let more = left / (seconds * (1.0 + 1.5 / EVERY as f64));
        (self.standing.step + more as usize).min(20 * LONGEST)
    }

    /// What the streams are now; `weights` follow.
    fn see(&mut self, price: f32) -> Vec<Moment> {
        let independent: Vec<Option<Moment>> =
            self.streams.par_iter().map(|s| s.from.is_none().then(|| s.moment(price, &[]))).collect();
        let mut moments = Vec::with_capacity(independent.len());
        for (stream, moment) in self.streams.iter().zip(independent) {
            let moment = moment.unwrap_or_else(|| stream.moment(price, &self.weights));
            for (tensor, weights) in stream.tensors.iter().zip(&moment.weights) {
                self.weights[*tensor].clone_from(weights);
            }
            moments.push(moment);
        }
        moments
    }

    fn coded(&self, moments: &[Moment]) -> Vec<Vec<u8>> {
        let coded = self.streams.par_iter().zip(moments).enumerate().map(|(i, (stream, moment))| {
            // What never changes has its bytes in the best state, as in every other one.
            stream.bytes(moment).unwrap_or_else(|| self.best[i].clone())
        });
        coded.collect()
    }

    /// Judges a state, steers the price of bits, and keeps all of it.
    fn look(&mut self, moments: &[Moment], training: f64) -> Result<()> {
        let bytes = self.judge(self.coded(moments), training)?;
        self.streams.par_iter_mut().zip(moments).for_each(|(stream, moment)| stream.reprice(moment));
        let over = bytes as f64 / (MARGIN * self.options.budget as f64) - 1.0;
        self.standing.price *= (STEER * over).clamp(-TURN, TURN).exp() as f32;
        self.keep()
    }

    /// Measures the present weights, whose streams are `coded`, on the held-out text; returns the bytes of the file.
    fn judge(&mut self, coded: Vec<Vec<u8>>, training_kl: f64) -> Result<u64> {
        let bytes = (self.options.file_size)(&coded.iter().map(Vec::len).collect::<Vec<_>>())?;
        let data = self.weights.iter().map(|w| Arc::new(w.clone())).collect();
        let totals = self.held_out.measure(self.model.network()?, &self.model.with_data(data).params()?)?;
        let [kl, loss] = [totals.mean_divergence(), totals.mean_loss()];
        let seconds = self.started.elapsed().as_secs_f64();
        self.standing.course.push(Point { step: self.standing.step, kl, loss, bytes, training_kl, seconds });
        let at = self.standing.course.len() - 1;
        let better = self.standing.best.is_none_or(|b| self.goal(at) < self.goal(b));
        if bytes <= self.options.budget && better || self.best.is_empty() {
            self.standing.best = Some(at);
            self.best = coded;
        }
        self.progress.status(&format!("healing, KL {kl:.4}, {} bytes", thousands(bytes)));
        Ok(bytes)
    }

    /// What is to be small, at a point of the course.
    fn goal(&self, at: usize) -> f64 {
        let point = &self.standing.course[at];
        match self.options.objective {
            Objective::Kl => point.kl,
            Objective::Data => point.loss,
            Objective::Both => point.kl + point.loss,
        }
    }

    /// Whether no better state has been found for long.
    fn is_over(&self) -> bool {
        let best = self.standing.best.map_or(0, |b| self.standing.course[b].step);
        self.standing.step >= best + PATIENCE
    }

    /// Ends with a state that fits: where the last one does not, bits at the first of some higher prices at which it does.
    fn fit(&mut self, training: f64) -> Result<()> {
        if self.standing.step == 0 {
            return Ok(());
        }
        let (mut price, mut stride) = (self.standing.price, 1.01f32);
        for _ in 0..FITS {
            let moments = self.see(price);
            let coded = self.coded(&moments);
            if (self.options.file_size)(&coded.iter().map(Vec::len).collect::<Vec<_>>())? <= self.options.budget {
                return self.judge(coded, training).map(drop);
            }
            (price, stride) = (price * stride, stride * stride);
        }
        Ok(())
    }

    /// Goes back to the last good state, with half the rate.
    fn break_down(&mut self, step: usize, good: Option<&(usize, Vec<Vec<f32>>)>) -> Result<()> {
        self.breakdowns += 1;
        let Some((back, good)) = good.filter(|_| self.breakdowns <= BREAKDOWNS) else {
            return Err(Error::compute(format!("healing broke down at step {step}: the loss is not a number"))
                .hint("pack with --heal off"));
        };
        let mut good = good.iter();
        for moments in self.streams.iter_mut().flat_map(Stream::moments) {
            if let Some(values) = good.next() {
                moments.values.clone_from(values);
            }
            moments.adam.reset();
        }
        self.standing.rate *= 0.5;
        self.progress.note(&format!(
            "healing: the loss at step {step} was not a number; going on from step {back} at half the rate",
        ));
        self.standing.step = *back;
        Ok(())
    }

    fn values(&mut self) -> Vec<Vec<f32>> {
        self.streams.iter_mut().flat_map(Stream::moments).map(|m| m.values.clone()).collect()
    }

    fn keep(&mut self) -> Result<()> {
        self.exchange(|run, path| run.save(path))
    }

    /// Saves or loads the state, where there is a place for it.
    fn exchange(&mut self, act: impl FnOnce(Run, &std::path::Path) -> Result<()>) -> Result<()> {
        let Some(path) = &self.options.checkpoint else { return Ok(()) };
        act(Run { standing: &mut self.standing, streams: &mut self.streams, best: &mut self.best }, path)
    }

    fn finish(self, calibration: usize) -> Healed {
        let (length, rows) = (self.model.network().map_or(1, |net| net.context()), self.batch);
        let step_tokens = self.rows.piece(0).rows() * length * rows;
        let course = Course {
            objective: self.options.objective,
            steps: self.standing.step,
            best: self.standing.best.unwrap_or(0),
            step_tokens,
            calibration_tokens: calibration,
            held_out_tokens: self.held_out.tokens(),
            passes: (self.standing.step * self.batch) as f64 / self.rows.pieces().max(1) as f64,
            breakdowns: self.breakdowns,
            points: self.standing.course,
        };
        Healed { streams: self.best, course }
    }
}
