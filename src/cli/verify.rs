//! `tiepack verify`: does the file hold what it claims, and what did packing cost?

use serde::Serialize;

use super::args::VerifyArgs;
use super::files::{self, Validation};
use super::{interrupt, judged};
use crate::artifact::open::open;
use crate::error::{Error, Result};
use crate::model::Model;
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
    let brought = match args.artifact.is_file() {
        true => files::bundle(&args.artifact)?,
        false => None,
    };
    let folder = tempfile::tempdir().map_err(|e| Error::io("create", &std::env::temp_dir(), e))?;
    // What a bundle brings is verified as the artifact that it is, or was.
    let place = |model: Option<&Model>| match &brought {
        None => files::only_artifact(&args.artifact),
        Some(brought) => {
            let path = folder.path().join("bundle.tiepack");
            let bytes = brought.artifact(model).map_err(|e| e.at(args.artifact.display()))?;
            std::fs::write(&path, bytes).map_err(|e| Error::io("write", &path, e))?;
            Ok(path)
        }
    };
    let device = args.device.open()?;
    let overrides = args.files.overrides(Some(&args.validation), (&[], Some(&args.reading)));
    let includes = files::includes(&args.include)?;
    let judge = args.judging.judge();
    if judge.is_some() {
        interrupt::listen();
    }
    let mut verdict = match &args.against {
        Some(path) => {
            let located = files::locate(path, &overrides)?;
            let model = files::read_as_it_is(&located, &args.files)?;
            let model = model.on(&device).at(args.precision.dtype());
            let read = |net: &dyn Net| Validation::of(&located).read(net.vocab_size(), args.val_rows);
            let network = model.network().ok().filter(|_| judge.is_none());
            let trial = network.map(read).transpose()?.flatten();
            let artifact = place(Some(&model))?;
            let mut verdict = against(&artifact, (path, &model), trial.as_ref(), None, progress)?;
            if let Some(judge) = &judge {
                verdict.judged = Some(judged::both(judge, Some(&model), &open(&artifact)?.model, progress)?);
                verdict.notes.clear();
            }
            verdict.notes.splice(0..0, model.remarks.iter().cloned().map(Note::Input));
            verdict
        }
        None => {
            let artifact = place(None)?;
            let validation =
                Validation::beside(if brought.is_some() { &args.artifact } else { &artifact }, &overrides)?;
            let place = (&device, args.precision.dtype());
            let read = |vocab| if judge.is_some() { Ok(None) } else { validation.read(vocab, args.val_rows) };
            let mut verdict = alone(&artifact, place, read, progress)?;
            if let Some(judge) = &judge {
                verdict.judged = Some(judged::both(judge, None, &open(&artifact)?.model, progress)?);
                verdict.notes.clear();
            }
            verdict
        }
    };
    if let Some(brought) = &brought {
        verdict.artifact = verdict.artifact.within(&args.artifact, brought.bytes)?;
    }
    if let Some(cap) = args.cap {
        verdict.budget = Some(Budget::new(verdict.artifact.bytes, includes, cap)?);
    }
    Ok(Verified { verdict })
}
