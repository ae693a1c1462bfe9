//! `tiepack verify`: does the file hold what it claims, and what did packing cost?

use serde::Serialize;

use super::args::VerifyArgs;
use super::files::{self, Validation};
use super::{interrupt, judged};
use crate::artifact::open::open;
use crate::error::Result;
use crate::ingest::folder;
use crate::nets::Net;
use crate::progress::Progress;
use crate::verify::verdict::{Budget, Note, Verdict};
use crate::verify::{against, alone};

/// A verified artifact.
#[derive(Debug, Serialize)]
pub struct Verified {
    pub verdict: Verdict,
}

/// # Errors
/// Verification when the artifact is damaged or not of the model; Cap when it does not fit `--cap`; Input when a file
/// is unusable.
pub fn run(args: &VerifyArgs, progress: &dyn Progress) -> Result<Verified> {
    let device = args.device.open()?;
    let overrides = args.files.overrides(Some(&args.validation), (&[], Some(&args.reading)));
    let includes = files::includes(&args.include)?;
    let judge = args.judging.judge();
    if judge.is_some() {
        interrupt::listen();
    }
    let mut verdict = match &args.against {
        Some(path) => {
            let located = folder::locate(path, &overrides)?;
            let model = files::read_as_it_is(&located, &args.files)?;
            let model = model.on(&device).at(args.precision.dtype());
            let read = |net: &dyn Net| Validation::of(&located).read(net.vocab_size(), args.val_rows);
            let network = model.network().ok().filter(|_| judge.is_none());
            let trial = network.map(read).transpose()?.flatten();
            let mut verdict = against(&args.artifact, (path, &model), trial.as_ref(), None, progress)?;
            if let Some(judge) = &judge {
                verdict.judged = Some(judged::both(judge, Some(&model), &open(&args.artifact)?.model, progress)?);
                verdict.notes.clear();
            }
            verdict.notes.splice(0..0, model.remarks.iter().cloned().map(Note::Input));
            verdict
        }
        None => {
            let validation = Validation::beside(&args.artifact, &overrides)?;
            let place = (&device, args.precision.dtype());
            let read = |vocab| if judge.is_some() { Ok(None) } else { validation.read(vocab, args.val_rows) };
            let mut verdict = alone(&args.artifact, place, read, progress)?;
            if let Some(judge) = &judge {
                verdict.judged = Some(judged::both(judge, None, &open(&args.artifact)?.model, progress)?);
                verdict.notes.clear();
            }
            verdict
        }
    };
    if let Some(cap) = args.cap {
        verdict.budget = Some(Budget::new(verdict.artifact.bytes, includes, cap)?);
    }
    Ok(Verified { verdict })
}
