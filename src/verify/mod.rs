//! Opens an artifact as a stranger would and finds out what it holds: decoding and hashes, the agreement with the
//! model it was made of, and the losses of both on validation tokens.
//!
//! Nothing here takes the packer's word: every figure comes from the file on the disk.

pub mod judge;
mod memory;
mod several;
pub mod statistics;
pub mod verdict;

use std::path::Path;
use std::time::Instant;

use candle_core::{DType, Device};

use crate::artifact::open::{Opened, open};
use crate::error::{Error, Result};
use crate::eval::bits::target_bytes;
use crate::eval::compare::{compare, losses};
use crate::eval::logits::{predict, rows_at_once};
use crate::eval::windows::Windows;
use crate::ingest::TokenBytes;
use crate::model::{Model, bits_per_weight};
use crate::progress::Progress;

use memory::Memory;
pub use several::several;
use verdict::{Against, Evaluation, File, Loss, Note, Sample, Verdict};

/// The step of the progress in which losses are compared.
const COMPARE: &str = "compare on validation";

/// Validation tokens, every id below the model's vocabulary.
#[derive(Debug, Clone)]
pub struct Trial {
    pub tokens: Vec<u32>,
    /// `None`: no losses in bits per byte.
    pub table: Option<TokenBytes>,
    /// Bytes of all tokens as the table counts them and as their text has them, where that is known.
    pub lengths: Option<(u64, u64)>,
    /// At most so many rows, from the first; `None`: all.
    pub rows: Option<usize>,
}

impl Trial {
    /// The rows to evaluate, of `length` tokens.
    ///
    /// # Errors
    /// There are too few tokens for one row.
    pub fn windows(&self, length: usize) -> Result<Windows<'_>> {
        let windows = Windows::new(&self.tokens, length, self.rows);
        if windows.rows() == 0 {
            let (found, wanted) = (self.tokens.len(), length + 1);
            return Err(Error::input(format!("{found} validation tokens fill no row, one takes {wanted}")));
        }
        Ok(windows)
    }

    /// What is known about the rows of [`Trial::windows`].
    pub fn sample(&self, windows: &Windows) -> Sample {
        let rows_available = Windows::new(&self.tokens, windows.length(), None).rows();
        Sample { rows_available, text_bytes: self.table.as_ref().map(|table| target_bytes(windows, table)) }
    }
}

/// Verifies an artifact alone: that it decodes, that its hashes are right, and, given validation tokens, its loss on
/// `device` and in `precision`.
/// `trial` reads these, knowing the size of the artifact's vocabulary.
///
/// # Errors
/// Verification when the file is damaged; Input when it cannot be read or the tokens fill no row; those of `trial`.
pub fn alone(
    path: &Path,
    (device, precision): (&Device, DType),
    trial: impl FnOnce(usize) -> Result<Option<Trial>>,
    progress: &dyn Progress,
) -> Result<Verdict> {
    let started = Instant::now();
    let opened = decode(path, (device, precision), progress)?;
    let artifact = describe(path, &opened)?;
    let trial = opened.model.network().ok().map(|net| trial(net.vocab_size())).transpose()?.flatten();
    let evaluation = match &trial {
        None => None,
        Some(trial) => Some(evaluate(&opened.model, trial, progress)?),
    };
    let notes = notes(&opened.model, trial.as_ref(), evaluation.as_ref());
    Ok(Verdict { artifact, budget: None, against: None, evaluation, judged: None, notes, seconds: seconds(started) })
}

/// Verifies an artifact against the model it was made of: all that [`alone`] does, that architecture and ties are the
/// model's, which tensors are, and what packing cost on the model's device.
///
/// What the original predicts is kept in the folder `memory`, if one is given, and taken from there the next time.
///
/// # Errors
/// As [`alone`], and Verification when the artifact is not of this model.
pub fn against(
    path: &Path,
    original: (&Path, &Model),
    trial: Option<&Trial>,
    memory: Option<&Path>,
    progress: &dyn Progress,
) -> Result<Verdict> {
    let started = Instant::now();
    let (model_path, model) = original;
    let opened = decode(path, (model.device(), model.precision()), progress)?;
    let artifact = describe(path, &opened)?;
    let place = |e: Error| e.at(path.display()).hint(format!("was it packed from {}?", model_path.display()));
    agree(&opened.model, model).map_err(place)?;
    let against = Against {
        path: model_path.display().to_string(),
        tensors: model.specs.len(),
        identical: identical(&opened.model, model),
    };
    let evaluation = match trial {
        None => None,
        Some(trial) => Some(cost(COMPARE, (model, &opened.model), (trial, memory), progress)?),
    };
    let notes = notes(model, trial, evaluation.as_ref());
    let against = Some(against);
    Ok(Verdict { artifact, budget: None, against, evaluation, judged: None, notes, seconds: seconds(started) })
}

/// What it costs to put `changed` in the place of `model`, as the step `what` of the progress; what the original predicts is kept in the folder `memory`.
///
/// # Errors
/// The tokens fill no row, or a forward pass fails.
pub fn cost(
    what: &str,
    (model, changed): (&Model, &Model),
    (trial, memory): (&Trial, Option<&Path>),
    progress: &dyn Progress,
) -> Result<Evaluation> {
    let windows = trial.windows(model.network()?.context())?;
    progress.begin(what, windows.rows() as u64);
    let (net, before, after) = (model.network()?, model.params()?, changed.params()?);
    let memory = memory.map(|folder| Memory::open(folder, model, &windows));
    let original = |rows| match &memory {
        Some(memory) => memory.predict(model, &before, &windows, rows),
        None => predict(net, &before, &windows, rows),
    };
    let comparison = compare(net, &original, &after, &windows, &|n| progress.advance(n));
    let comparison =
        comparison.map_err(|e| model.full(e, 0, rows_at_once(&after, windows.length()) * windows.length()))?;
    progress.end();
    if let Some(Err(e)) = memory.map(|memory| memory.keep(windows.length())) {
        // The next verdict takes longer, this one holds.
        progress.note(&format!("the original's predictions were not kept: {e}"));
    }
    Ok(Evaluation::of(&comparison, trial.sample(&windows)))
}

/// The loss of one model.
///
/// # Errors
/// The tokens fill no row, or the forward pass fails.
pub fn evaluate(model: &Model, trial: &Trial, progress: &dyn Progress) -> Result<Evaluation> {
    let windows = trial.windows(model.network()?.context())?;
    progress.begin("evaluate on validation", windows.rows() as u64);
    let params = model.params()?;
    let losses = losses(model.network()?, &params, &windows, &|n| progress.advance(n));
    let losses = losses.map_err(|e| model.full(e, 0, rows_at_once(&params, windows.length()) * windows.length()))?;
    progress.end();
    Ok(Evaluation::alone(&losses, trial.sample(&windows)))
}

fn decode(path: &Path, (device, precision): (&Device, DType), progress: &dyn Progress) -> Result<Opened> {
    progress.begin("decode the artifact", 0);
    let opened = open(path)?;
    progress.end();
    Ok(Opened { model: opened.model.on(device).at(precision), ..opened })
}

fn describe(path: &Path, opened: &Opened) -> Result<File> {
    let bytes = std::fs::read(path).map_err(|e| Error::io("read", path, e))?;
    if bytes.len() as u64 != opened.size {
        return Err(Error::verification(format!("{} changed while it was being verified", path.display())));
    }
    let model = &opened.model;
    let weights = model.weights();
    Ok(File {
        path: path.display().to_string(),
        bytes: opened.size,
        blake3: blake3::Hasher::new().update_rayon(&bytes).finalize().to_hex().to_string(),
        root: blake3::Hash::from_bytes(opened.parsed.root).to_hex().to_string(),
        arch: model.config.arch.clone(),
        layers: model.layers,
        tensors: model.stored.len(),
        weights,
        bits_per_weight: bits_per_weight(opened.size, weights),
    })
}

/// Refuses an artifact whose architecture or ties are not the model's.
fn agree(packed: &Model, model: &Model) -> Result<()> {
    if packed.config != model.config {
        let key = |(key, value): (&String, &serde_json::Value)| {
            (packed.config.fields.get(key) != Some(value)).then(|| key.clone())
        };
        let foreign = packed.config.fields.keys().find(|key| !model.config.fields.contains_key(*key)).cloned();
        let key = model.config.fields.iter().find_map(key).or(foreign).unwrap_or_else(|| "arch".into());
        let show = |model: &Model| model.config.fields.get(&key).map_or("nothing".into(), ToString::to_string);
        let (here, there) = (show(packed), show(model));
        return Err(Error::verification(format!("the configuration's {key} is {here}, in the model it is {there}")));
    }
    // Equal configurations give equal names and shapes; the ties are the artifact's own.
    for (index, spec) in model.specs.iter().enumerate() {
        // Vectors are small: that equal ones are stored once is the coder's thrift and no tie.
        if !spec.is_matrix() {
            continue;
        }
        let leader = |of: &Model| of.stored[of.source[index]].spec;
        let (here, there) = (leader(packed), leader(model));
        if here != there {
            let say = |leader: usize| match leader == index {
                true => "a tensor of its own".to_string(),
                false => format!("tied to {}", model.specs[leader].name),
            };
            return Err(Error::verification(format!(
                "{} is {}, in the model it is {}",
                spec.name,
                say(here),
                say(there)
            )));
        }
    }
    Ok(())
}

/// Tensors of the architecture that have the same values in both, bit for bit.
fn identical(packed: &Model, model: &Model) -> usize {
    let same = |index: &usize| {
        let data = |of: &Model| of.stored[of.source[*index]].data.clone();
        let (a, b) = (data(packed), data(model));
        a.len() == b.len() && a.iter().zip(b.iter()).all(|(x, y)| x.to_bits() == y.to_bits())
    };
    (0..model.specs.len()).filter(same).count()
}

fn notes(model: &Model, trial: Option<&Trial>, evaluation: Option<&Evaluation>) -> Vec<Note> {
    let vocab = match model.network() {
        Err(why) => return vec![Note::NoNetwork(why.message)],
        Ok(net) => net.vocab_size(),
    };
    let mut notes = match trial {
        None => vec![Note::NoValidation],
        Some(trial) if trial.table.is_none() => vec![Note::NoTokenizer],
        Some(trial) => Note::lengths(trial.lengths).into_iter().collect(),
    };
    let guessing = |loss: &Loss| loss.nats_per_token > (vocab as f64).ln();
    if let Some(evaluation) = evaluation.filter(|e| guessing(&e.packed)) {
        let original = evaluation.cost.as_ref().is_some_and(|cost| guessing(&cost.original));
        notes.push(Note::WorseThanGuessing { original });
    }
    notes
}

fn seconds(started: Instant) -> f64 {
    started.elapsed().as_secs_f64()
}
