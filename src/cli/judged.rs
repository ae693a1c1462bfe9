//! `--evaluator`: the user's own loss before and after, and what becomes of the work where that fails.

use std::path::{Path, PathBuf};

use super::args::PackArgs;
use crate::artifact::{open, save};
use crate::error::{Error, Result};
use crate::model::Model;
use crate::progress::Progress;
use crate::unpack::unpack;
use crate::verify::judge::{Judge, Judged};

/// Where an artifact is kept whose evaluation failed.
pub fn unjudged(output: &Path) -> PathBuf {
    let mut kept = output.as_os_str().to_os_string();
    kept.push(".unjudged");
    PathBuf::from(kept)
}

/// A program that has judged the original.
pub struct Judging {
    judge: Judge,
    original: Vec<f64>,
}

/// Asks about the original, before the hours of work.
///
/// # Errors
/// As [`Judge::losses`].
pub fn before(judge: Judge, model: &Model, progress: &dyn Progress) -> Result<Judging> {
    let original = judge.losses("original", &unpack(model)?.weights, progress)?;
    Ok(Judging { judge, original })
}

/// Asks about an artifact alone, or about both.
///
/// # Errors
/// As [`Judge::losses`] and [`Judge::judged`].
pub fn both(judge: &Judge, original: Option<&Model>, packed: &Model, progress: &dyn Progress) -> Result<Judged> {
    let losses = |which, model: &Model| judge.losses(which, &unpack(model)?.weights, progress);
    let original = original.map(|model| losses("original", model)).transpose()?;
    judge.judged(original.as_deref(), &losses("packed", packed)?)
}

impl Judging {
    /// Asks about what was packed. Where no answer comes, the artifact is kept beside its place: what stood there before
    /// stays, and nothing has to be packed again.
    ///
    /// # Errors
    /// As [`both`]; the hint says where the artifact is.
    pub fn after(&self, args: &PackArgs, artifact: &[u8], progress: &dyn Progress) -> Result<Judged> {
        let packed = open::decode(artifact)?.model;
        let asked = unpack(&packed).and_then(|files| self.judge.losses("packed", &files.weights, progress));
        asked.and_then(|losses| self.judge.judged(Some(&self.original), &losses)).map_err(|e| {
            let kept = unjudged(&args.output);
            match save::save(&kept, artifact) {
                Err(lost) => {
                    Error { message: format!("{}; and the artifact is lost: {}", e.message, lost.message), ..e }
                }
                Ok(()) => {
                    let (kept, model) = (kept.display(), args.model.display());
                    let again = format!("`tiepack verify {kept} --against {model} --evaluator ...` asks again");
                    e.hint(format!("what was packed is sound, and kept as {kept}: {again}"))
                }
            }
        })
    }
}
