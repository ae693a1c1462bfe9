//! `tiepack eval`: the loss of a model or an artifact.

use std::path::{Path, PathBuf};

use serde::Serialize;

use super::args::EvalArgs;
use super::files::{self, Validation};
use crate::artifact::open::open;
use crate::error::{Error, Result};
use crate::eval::sliding::{Scoring, score};
use crate::ingest::tokenizer::Lengths;
use crate::ingest::{TokenBytes, TokenStream};
use crate::progress::Progress;
use crate::save::{self, Staged};
use crate::verify::verdict::{Evaluation, Loss, Note};

/// What every `.npy` begins with.
const NUMPY: &[u8] = b"\x93NUMPY";

/// A measured loss.
#[derive(Debug, Serialize)]
pub struct Evaluated {
    /// What a person calls the model.
    pub model: String,
    /// Tokens that the window moved by; the row length when rows do not overlap.
    pub stride: usize,
    /// Documents that windows kept to; `None`: the text was not cut into any.
    pub documents: Option<usize>,
    pub evaluation: Evaluation,
    /// Where the loss of every token was written.
    pub losses: Option<PathBuf>,
    pub notes: Vec<Note>,
}

/// # Errors
/// A file is unusable, there are no validation tokens, or the stride or the document mark does not fit the model.
pub fn run(args: &EvalArgs, progress: &dyn Progress) -> Result<Evaluated> {
    let device = args.device.open()?;
    let overrides = args.files.overrides(Some(&args.validation), (&[], Some(&args.reading)));
    let (model, validation) = if let Some(path) = files::artifact(&args.model)? {
        (open(&path)?.model, Validation::beside(&path, &overrides)?)
    } else {
        let (located, model) = files::model(&args.model, &args.files, &overrides)?;
        (model, Validation::of(&located))
    };
    let model = model.on(&device).at(args.precision.dtype());
    let net = model.network()?;
    let (length, vocab) = (net.context(), net.vocab_size());
    let stride = args.stride.unwrap_or(length);
    if !(1..=length).contains(&stride) {
        return Err(Error::usage(format!(
            "--stride {stride}: the model's rows are {length} tokens, wanted 1 to {length}"
        )));
    }
    let table = validation.table(vocab)?;
    validation.some_shards(&args.model)?;
    let mut stream = TokenStream::open(&validation.shards, &validation.reading, vocab)?;
    let rows_available = stream.tokens().saturating_sub(1) / length;
    if rows_available == 0 {
        let (found, wanted) = (stream.tokens(), length + 1);
        return Err(Error::input(format!("{found} validation tokens fill no row, one takes {wanted}")));
    }
    let rows = args.val_rows.limit().unwrap_or(usize::MAX).min(rows_available);
    let tokens = args.limit.unwrap_or(usize::MAX).min(rows * length);
    if let Some(mark) = args.documents {
        check_mark(mark, &mut stream, tokens, vocab)?;
        stream.rewind();
    }
    let lengths = table.as_ref().map(|table| lengths(table, &mut stream)).transpose()?.flatten();
    let scoring = Scoring { length, stride, documents: args.documents, tokens };

    let mut losses = args.losses.as_deref().map(|path| losses_file(path, tokens)).transpose()?;
    let mut each = |nats: &[f32]| match &mut losses {
        Some(file) => file.write(&nats.iter().flat_map(|x| x.to_le_bytes()).collect::<Vec<_>>()),
        None => Ok(()),
    };
    progress.begin("evaluate on validation", tokens as u64);
    let params = model.params()?;
    let scored = score((net, &params), &mut stream, scoring, table.as_ref(), &mut each, &|n| progress.advance(n));
    let scored = scored.map_err(|e| model.full(e, 0, 2 * length))?;
    progress.end();
    losses.map(Staged::commit).transpose()?;

    let text_bytes = table.is_some().then_some(scored.bytes);
    let evaluation = Evaluation {
        rows: tokens.div_ceil(length),
        rows_available,
        row_length: length,
        tokens,
        text_bytes,
        packed: Loss::new(scored.nats, tokens, text_bytes),
        cost: None,
    };
    let mut notes: Vec<Note> = model.remarks.iter().cloned().map(Note::Input).collect();
    if table.is_none() {
        notes.push(Note::NoTokenizer);
    }
    notes.extend(Note::lengths(lengths));
    Ok(Evaluated {
        model: files::name(&args.model),
        stride,
        documents: args.documents.map(|_| scored.documents),
        evaluation,
        losses: args.losses.clone(),
        notes,
    })
}

/// Bytes of all tokens as their table counts and as their text has them, if that is known.
fn lengths(table: &TokenBytes, stream: &mut TokenStream) -> Result<Option<(u64, u64)>> {
    let (mut lengths, mut part) = (Lengths::of(table), Vec::new());
    while stream.read(&mut part, 1 << 15)? > 0 {
        lengths.push(&part);
        part.clear();
    }
    stream.rewind();
    Ok(lengths.end(stream.text_bytes()))
}

/// Refuses a document mark that stands nowhere in the text: the option would change nothing.
fn check_mark(mark: u32, stream: &mut TokenStream, tokens: usize, vocab: usize) -> Result<()> {
    if mark as usize >= vocab {
        return Err(Error::usage(format!("--documents {mark}: the model knows only ids below {vocab}")));
    }
    let (mut part, mut seen) = (Vec::new(), 0);
    while seen < tokens && stream.read(&mut part, (tokens - seen).min(1 << 15))? > 0 {
        if part.contains(&mark) {
            return Ok(());
        }
        seen += part.len();
        part.clear();
    }
    Err(Error::input(format!(
        "--documents {mark}: no document begins in {tokens} validation tokens, {mark} is not there"
    ))
    .hint("name the token that every document begins with; the challenge's is 1"))
}

/// The beginning of a `.npy` file (version 1.0) of so many f32; it takes its place when it is complete.
fn losses_file(path: &Path, tokens: usize) -> Result<Staged> {
    let mut file = save::begin(path)?;
    let mut header = format!("{{'descr': '<f4', 'fortran_order': False, 'shape': ({tokens},), }}");
    // The data begin at a multiple of 64 bytes, after a line feed.
    let before = NUMPY.len() + 4;
    header.extend(std::iter::repeat_n(' ', (64 - (before + header.len() + 1) % 64) % 64));
    header.push('\n');
    let length = header.len() as u16;
    file.write(&[NUMPY, &[1, 0], &length.to_le_bytes(), header.as_bytes()].concat())?;
    Ok(file)
}
