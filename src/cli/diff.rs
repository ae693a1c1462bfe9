//! `tiepack diff`: what changed between two models or artifacts.

use std::path::Path;

use serde::Serialize;

use super::args::DiffArgs;
use super::files::{self, Validation};
use crate::diff::{Difference, Side, diff};
use crate::error::{Error, Result};
use crate::eval::compare::compare_networks;
use crate::ingest::{self, Reading, folder};
use crate::inspect;
use crate::progress::Progress;
use crate::verify::verdict::{Evaluation, Note};

/// Two files compared.
#[derive(Debug, Serialize)]
pub struct Compared {
    #[serde(flatten)]
    pub difference: Difference,
    /// Losses of both on the same tokens: `packed` is what is, `cost` what that adds to what was.
    pub evaluation: Option<Evaluation>,
    pub notes: Vec<Note>,
    /// Lines to show of each table; `None`: all.
    #[serde(skip)]
    pub shown: Option<usize>,
    /// That they differ is to be the exit code.
    #[serde(skip)]
    pub exit_code: bool,
}

/// # Errors
/// A file is unusable or damaged.
pub fn run(args: &DiffArgs, progress: &dyn Progress) -> Result<Compared> {
    let [before, after] = [side(args, &args.before)?, side(args, &args.after)?];
    if before.is_nothing() && after.is_nothing() {
        return Err(Error::input(format!(
            "there is nothing in {} and {}",
            args.before.display(),
            args.after.display()
        )));
    }
    let difference = diff(&before, &after, args.tables.by, args.weights || !args.val.is_empty())?;
    let mut notes = Vec::new();
    if let (Some(a), Some(b)) = (&difference.before.arch, &difference.after.arch)
        && a != b
    {
        notes.push(Note::OtherArchitecture(a.clone(), b.clone()));
    }
    let evaluation = match args.val.is_empty() {
        true => None,
        false => evaluate(args, &before, &after, &mut notes, progress)?,
    };
    let (shown, exit_code) = (args.tables.rows.limit(), args.exit_code);
    Ok(Compared { difference, evaluation, notes, shown, exit_code })
}

/// One of the two. A file of no bytes is what git gives for one that is not there.
fn side(args: &DiffArgs, path: &Path) -> Result<Side> {
    let metadata = std::fs::metadata(path).map_err(|e| Error::io("read", path, e))?;
    if !metadata.is_dir() && metadata.len() == 0 {
        return Ok(Side::nothing(path));
    }
    if files::is_artifact(path)? {
        return Side::artifact(path);
    }
    let located = folder::locate(path, &args.files.overrides(None, (&[], None)))?;
    let (inventory, model) = inspect::model(ingest::read(&located)?, args.files.retie())?;
    Ok(Side::model(path, inventory, model))
}

/// Runs both on the validation tokens; `None`, with a note, where that cannot be.
fn evaluate(
    args: &DiffArgs,
    before: &Side,
    after: &Side,
    notes: &mut Vec<Note>,
    progress: &dyn Progress,
) -> Result<Option<Evaluation>> {
    let (Some(a), Some(b)) = (before.decoded()?, after.decoded()?) else { return Ok(None) };
    let (net, other) = (a.network()?, b.network()?);
    let vocab = net.vocab_size();
    if vocab != other.vocab_size() {
        notes.push(Note::OtherVocabulary(vocab, other.vocab_size()));
        return Ok(None);
    }
    let mut overrides = args.files.overrides(None, (&[], None));
    (overrides.val, overrides.tokenizer) = (args.val.clone(), args.tokenizer.clone());
    overrides.reading = args.reading.reading();
    let beside = [&args.before, &args.after].into_iter().map(|path| Validation::near(path, &overrides));
    let beside = beside.collect::<Result<Vec<_>>>()?;
    let tokenizer = beside.iter().find_map(|found| found.reading.tokenizer.clone());
    let shards = beside.into_iter().next().map_or_else(Vec::new, |found| found.shards);
    let Some(trial) =
        (Validation { shards, reading: Reading { tokenizer, ..overrides.reading } }).read(vocab, args.val_rows)?
    else {
        return Ok(None);
    };
    if trial.table.is_none() {
        notes.push(Note::NoTokenizer);
    }
    notes.extend(Note::lengths(trial.lengths));
    // Rows that both can take.
    let windows = trial.windows(net.context().min(other.context()))?;
    progress.begin("compare on validation", windows.rows() as u64);
    let (p, q) = (a.params()?, b.params()?);
    let comparison = compare_networks((net, &p), (other, &q), &windows, &|n| progress.advance(n))?;
    progress.end();
    Ok(Some(Evaluation::of(&comparison, trial.sample(&windows))))
}
