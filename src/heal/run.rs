//! The run: groups of columns, steps between them, held-out text, bytes.

mod fit;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rayon::prelude::*;

use super::course::{Course, Length, Point};
use super::param::Saved;
use super::state::{Checkpoint, RunState};
use super::student::Student;
use super::text::{PIECE_TOKENS, Pace, Split, enough, split};
use super::trainable::TrainedStream;
use crate::error::{Error, Result};
use crate::model::Model;
use crate::nets::Form;
use crate::progress::Progress;
use crate::text::thousands;
use crate::train::adam::Betas;
use crate::train::gradient::{LANES, gradient, logits_at_once};
use crate::train::held_out::HeldOut;
use crate::train::objective::Objective;
use crate::train::rows::Rows;
use crate::train::teacher::{self, Teacher};

/// Groups of columns that are frozen one after the other, at most.
const GROUPS: usize = 16;
/// The rate, in steps of the grid for an axis on which an error of one step costs the same as on all others: so much over the
/// root of the steps between two groups. Where fewer columns are frozen there is less error to compensate: it starts lower, with the
/// root of their share.
const RATE: f32 = 0.055;
const HIGHEST: f32 = 0.03;
const BETAS: Betas = Betas { first: 0.9, second: 0.95 };
/// Where there is something to learn before anything is frozen, it gets so many shares of the steps more than what comes
/// between two groups.
const FIRST: usize = 4;
/// Control tensors learn at this share of the rate.
const VECTORS: f32 = 0.6;
/// Iterations between two measurements on the held-out text.
const EVERY: usize = 20;
/// Steps between two groups, at most, of a run that lasts as long as it gains; and the least share of the objective that a look
/// must have gained for it to go on before the next group.
const MOST: usize = 100;
const GAIN: f64 = 0.005;
/// Steps whose time says how many fit into a given time.
const TIMED_ITERATIONS: usize = 4;
/// Time of a measurement on the held-out text, in iterations, where time is planned.
const PROBE_ITERATIONS: f64 = 0.75;
/// The price of a bit grows by this power of what the free columns must save, at most by [`TURN`] at a time.
const STEER: f64 = 20.0;
const TURN: f64 = 0.2;
/// Squared error of a matrix, over its squares, that is more than arithmetic makes.
const APART: f32 = 1e-6;
/// Prices tried for the last group.
const FITS: usize = 9;
/// Breakdowns after which a run ends.
const BREAKDOWNS: usize = 3;

/// Limits and settings of a healing.
#[derive(Clone)]
pub struct Options<'a> {
    pub length: Length,
    pub pace: Pace,
    pub objective: Objective,
    pub seed: u64,
    /// Bytes that the file may have.
    pub budget: u64,
    /// Where the state is kept from time to time.
    pub checkpoint: Option<PathBuf>,
    /// Go on from the checkpoint, if there is one.
    pub resume: bool,
    /// Asked between steps: whether to end with the best so far.
    pub stop: &'a (dyn Fn() -> bool + Sync),
}

/// A packed model that is to be healed.
pub struct Packed<'a> {
    pub streams: Vec<TrainedStream>,
    /// The bytes of every stream untrained.
    pub coded: Vec<Vec<u8>>,
    /// What they decode to, by stored tensor.
    pub decoded: Vec<Vec<f32>>,
    /// Of all that the run depends on beside its options: blake3 in hexadecimal.
    pub key: String,
    /// Bytes of the file whose streams have these sizes.
    pub file_size: &'a (dyn Fn(&[usize]) -> Result<u64> + Sync),
}

/// The best streams that were found, and how.
pub struct Healed {
    pub streams: Vec<Vec<u8>>,
    pub course: Course,
}

/// Bytes that a healing holds, activations inside the layers left out: weights of teacher and student, their gradients in
/// every lane, values, moments, indices, factors of the curvature and their axes; log-probabilities of a piece in every lane; what
/// the teacher keeps of `tokens`.
fn memory(model: &Model, length: usize, vocab: usize, tokens: usize) -> usize {
    const COPIES: usize = 13;
    let weights: usize = model.stored.iter().map(|s| s.data.len()).sum();
    let piece = PIECE_TOKENS.div_ceil(length) * length;
    let embeddings = model.specs.iter().filter(|spec| spec.form == Form::Embedding);
    let width = embeddings.map(|spec| spec.shape[1]).max().unwrap_or(0);
    let logits = logits_at_once(model.device(), piece, vocab);
    4 * weights * (COPIES + LANES) + LANES * logits * 4 * 4 + teacher::KEPT.min(4 * tokens * width)
}

/// Trains `packed` on `calib`, towards `teacher`, the original.
///
/// # Errors
/// Input, when there is too little text or the checkpoint is another run's; whatever goes wrong in a pass.
pub fn heal(
    model: &Model,
    teacher: &Teacher,
    packed: Packed,
    calib: &[u32],
    options: &Options,
    progress: &dyn Progress,
) -> Result<Healed> {
    let Packed { streams, coded, decoded, key, file_size } = packed;
    let net = model.network()?;
    let length = net.context();
    enough(length, calib.len())?;
    let seen = match options.length {
        Length::Steps(steps) => calib.len().min(steps * options.pace.iteration_tokens),
        Length::Time(_) | Length::Gaining => calib.len(),
    };
    let memory = memory(model, length, net.vocab_size(), seen).div_ceil(1_000_000) as u64;
    progress.note(&format!("healing takes about {} MB of memory beside the statistics", thousands(memory)));
    let Split { piece_rows, pieces, batch, held } = split(length, calib.len(), options.pace);
    let every = pieces / held;
    let aside = |i: usize| i % every == every - 1 && i / every < held;
    let rows = Rows::new(calib, length, piece_rows, options.seed, |i| !aside(i));
    let held_out: Vec<_> = (0..pieces).filter(|i| aside(*i)).map(|i| rows.piece(i)).collect();
    let held_out = HeldOut::new(teacher, &held_out)?;
    let mut healing = HealingRun {
        model,
        teacher,
        held_out,
        rows,
        batch,
        first: 1,
        groups: GROUPS,
        student: Student::new(streams, decoded.clone()),
        coded,
        state: RunState { key, step: 0, steps: 0, group: 0, price: 1.0, rate: 1.0, course: Vec::new() },
        seen: (0.0, 0),
        options,
        file_size,
        progress,
        started: Instant::now(),
        freezing_time: Duration::ZERO,
        breakdowns: 0,
    };
    healing.run(&decoded)?;
    Ok(healing.finish(calib.len()))
}

struct HealingRun<'a> {
    model: &'a Model,
    teacher: &'a Teacher<'a>,
    held_out: HeldOut<'a>,
    rows: Rows<'a>,
    batch: usize,
    /// Groups that are frozen when training begins: 1, or 0 where there is something to learn before.
    first: usize,
    groups: usize,
    student: Student,
    /// Bytes of every stream untrained, later of the best state.
    coded: Vec<Vec<u8>>,
    state: RunState,
    /// KL(original ‖ packed) of the steps since the last look, summed over so many positions.
    seen: (f64, usize),
    options: &'a Options<'a>,
    file_size: &'a (dyn Fn(&[usize]) -> Result<u64> + Sync),
    progress: &'a dyn Progress,
    started: Instant,
    /// How long freezing the last group took.
    freezing_time: Duration,
    breakdowns: usize,
}

impl HealingRun<'_> {
    fn run(&mut self, untrained: &[Vec<f32>]) -> Result<()> {
        // Copies of matrices that were trained apart, and factors of low rank, lose before anything is rounded.
        let apart = self.student.differs(self.model, APART);
        self.first = usize::from(self.options.objective == Objective::Kl && !apart);
        if let Length::Steps(steps) = self.options.length {
            self.groups = GROUPS.min(steps + self.first).max(1);
        }
        self.state.steps = match self.options.length {
            Length::Steps(steps) => steps,
            Length::Time(_) | Length::Gaining => MOST * self.shares(self.groups),
        };
        if self.options.resume {
            self.exchange(|run, path| run.load(path))?;
            // The order of the text is that of an unbroken run.
            (0..self.state.step).for_each(|_| drop(self.rows.batch(self.batch)));
        }
        if self.state.course.is_empty() {
            self.measure(untrained, (self.file_size)(&self.coded.iter().map(Vec::len).collect::<Vec<_>>())?)?;
        }
        self.student.refresh();
        self.progress.begin("healing", self.state.steps as u64);
        self.progress.advance(self.state.step as u64);
        loop {
            if self.state.group >= self.first {
                self.save()?;
                if self.segment()? {
                    break;
                }
            }
            if self.state.group + 1 >= self.groups {
                break;
            }
            let begun = Instant::now();
            self.state.group += 1;
            self.student.freeze(self.state.group as f64 / self.groups as f64, self.state.price);
            self.steer();
            self.freezing_time = begun.elapsed();
        }
        self.fit()?;
        self.progress.end();
        Ok(())
    }

    /// Shares of the steps that are done before so many groups are frozen.
    fn shares(&self, group: usize) -> usize {
        // What comes before the first group may have to bring together what was trained apart.
        let begun = if self.first == 0 { FIRST } else { 0 };
        if group > self.first { group - self.first + begun } else { usize::from(self.groups <= self.first) }
    }

    /// Steps before the next group.
    fn allotted(&self) -> usize {
        if self.options.length == Length::Gaining {
            return if self.state.group == 0 { MOST * (1 + FIRST) } else { MOST };
        }
        let (of, group) = (self.shares(self.groups), self.state.group);
        let until = |group: usize| self.state.steps * self.shares(group) / of;
        if group + 1 >= self.groups { self.state.steps - until(group) } else { until(group + 1) - until(group) }
    }

    /// Trains until the next group is to be frozen; returns whether the run was stopped.
    fn segment(&mut self) -> Result<bool> {
        let start = self.student.snapshot();
        // Long segments end with their best state, if only the one that they began with.
        let watched = self.allotted() >= EVERY;
        let mut best = None;
        if watched {
            best = Some((self.watch()?, start.clone()));
        }
        let share = match self.state.group {
            0 => 1.0,
            group => ((group + 1) as f32 / self.groups as f32).sqrt(),
        };
        let mut timer = Instant::now();
        let mut done = 0;
        while done < self.allotted() {
            if (self.options.stop)() {
                return Ok(true);
            }
            let batch = self.rows.batch(self.batch);
            let found =
                gradient(self.model, &self.student.weights, Some(self.teacher), &batch, self.options.objective)?;
            let sound = found.totals.divergence.is_finite() && found.totals.loss.is_finite();
            if !sound || found.tensors.par_iter().any(|g| g.iter().any(|v| !v.is_finite())) {
                self.break_down(done, &start)?;
                done = 0;
                continue;
            }
            self.seen.0 += found.totals.divergence;
            self.seen.1 += found.totals.positions;
            let rate = self.state.rate * share * (RATE / (self.allotted() as f32).sqrt()).min(HIGHEST);
            self.student.learn(found.tensors, [rate, VECTORS * rate], BETAS);
            done += 1;
            self.state.step += 1;
            self.progress.advance(1);
            if let Length::Time(time) = self.options.length {
                // The first steps are slower: memory is still being found for them.
                match self.state.step {
                    1 => timer = Instant::now(),
                    step if step == 1 + TIMED_ITERATIONS => {
                        self.plan(time, timer.elapsed().as_secs_f64() / TIMED_ITERATIONS as f64)
                    }
                    _ => {}
                }
            }
            let due = done.is_multiple_of(EVERY) || done == self.allotted();
            if let (Some((least, kept)), true) = (&mut best, due) {
                let now = self.watch()?;
                let gained = 1.0 - now / *least;
                if now < *least {
                    (*least, *kept) = (now, self.student.snapshot());
                }
                if self.options.length == Length::Gaining && gained < GAIN {
                    break;
                }
            }
        }
        match best {
            Some((least, kept)) if self.objective_at(self.state.course.len() - 1) > least => {
                self.student.restore(&kept);
            }
            None if self.state.course.last().is_none_or(|point| point.step + EVERY <= self.state.step) => {
                self.watch()?;
            }
            _ => {}
        }
        if self.options.length == Length::Gaining {
            self.state.steps -= self.allotted() - done;
            self.progress.begin("healing", self.state.steps as u64);
            self.progress.advance(self.state.step as u64);
        }
        Ok(false)
    }

    /// How many steps fit into `time` in all if one takes `seconds`.
    fn plan(&mut self, time: Duration, seconds: f64) {
        let freezing_time = (self.groups - self.state.group + FITS / 2) as f64 * self.freezing_time.as_secs_f64();
        let left = (time.as_secs_f64() - self.started.elapsed().as_secs_f64() - freezing_time).max(0.0);
        // Where there are so many steps between groups that the held-out text is watched, it is twice.
        let more = left / (seconds * (1.0 + 2.0 * PROBE_ITERATIONS / EVERY as f64));
        self.state.steps = self.state.step + more as usize;
        self.progress.begin("healing", self.state.steps as u64);
        self.progress.advance(self.state.step as u64);
    }

    /// Sets the price of a bit so that the free columns save the bytes that the frozen ones took beyond their share.
    fn steer(&mut self) {
        let (over, left) = self.student.bits();
        if left > 0.0 {
            self.state.price = (STEER * over / left).clamp(-TURN, TURN).exp() as f32;
        }
    }

    /// Measures on the held-out text while some columns are free; returns the objective.
    fn watch(&mut self) -> Result<f64> {
        let untrained = self.state.course.first().map_or(0, |point| point.bytes);
        let bytes = (untrained as f64 + self.student.bits().0 / 8.0).round() as u64;
        let weights = std::mem::take(&mut self.student.weights);
        let measured = self.measure(&weights, bytes);
        self.student.weights = weights;
        measured?;
        Ok(self.objective_at(self.state.course.len() - 1))
    }

    /// Measures weights on the held-out text.
    fn measure(&mut self, weights: &[Vec<f32>], bytes: u64) -> Result<()> {
        let data = weights.iter().map(|w| Arc::new(w.clone())).collect();
        let totals = self.held_out.measure(self.model.network()?, &self.model.with_data(data).params()?)?;
        let [kl, loss] = [totals.mean_divergence(), totals.mean_loss()];
        let training_kl = self.seen.0 / self.seen.1.max(1) as f64;
        self.seen = (0.0, 0);
        let first = self.state.course.is_empty();
        self.state.course.push(Point {
            step: self.state.step,
            frozen: if first { 1.0 } else { self.state.group as f64 / self.groups as f64 },
            kl,
            loss,
            bytes,
            training_kl,
            seconds: self.started.elapsed().as_secs_f64(),
        });
        self.progress.status(&format!("healing, KL {kl:.4}, {} bytes", thousands(bytes)));
        Ok(())
    }

    /// The objective that training minimises, at a point of the course.
    fn objective_at(&self, at: usize) -> f64 {
        let point = &self.state.course[at];
        match self.options.objective {
            Objective::Kl => point.kl,
            Objective::Data => point.loss,
            Objective::Both => point.kl + point.loss,
        }
    }

    /// Times that training went over its text.
    fn passes(&self) -> f64 {
        (self.state.step * self.batch) as f64 / self.rows.pieces().max(1) as f64
    }

    /// Goes back to where the last group was frozen, with half the rate.
    fn break_down(&mut self, done: usize, start: &[Saved]) -> Result<()> {
        let step = self.state.step;
        self.breakdowns += 1;
        if self.breakdowns > BREAKDOWNS {
            return Err(Error::compute(format!("healing broke down at step {step}: the loss is not a number"))
                .hint("pack with --heal off"));
        }
        self.student.restore(start);
        self.state.rate *= 0.5;
        self.state.step -= done;
        self.progress.note(&format!(
            "healing: the loss at step {step} was not a number; going on from step {} at half the rate",
            self.state.step
        ));
        Ok(())
    }

    fn save(&mut self) -> Result<()> {
        self.exchange(|run, path| run.save(path))
    }

    /// Saves or loads the state, where there is a place for it.
    fn exchange(&mut self, act: impl FnOnce(Checkpoint, &std::path::Path) -> Result<()>) -> Result<()> {
        let Some(path) = &self.options.checkpoint else { return Ok(()) };
        act(Checkpoint { state: &mut self.state, streams: &mut self.student.streams }, path)
    }

    fn finish(self, calibration: usize) -> Healed {
        let length = self.model.network().map_or(1, |net| net.context());
        let passes = self.passes();
        let points = self.state.course;
        Healed {
            streams: self.coded,
            course: Course {
                objective: self.options.objective,
                steps: self.state.step,
                best: if self.state.group == self.groups { points.len() - 1 } else { 0 },
                step_tokens: self.rows.piece(0).rows() * length * self.batch,
                calibration_tokens: calibration,
                held_out_tokens: self.held_out.tokens(),
                passes,
                breakdowns: self.breakdowns,
                points,
            },
        }
    }
}
