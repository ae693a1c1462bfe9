//! Verifies several artifacts of one model, which runs once for all of them.

use std::path::Path;

use super::verdict::{Evaluation, File};
use super::{Trial, agree, decode, describe};
use crate::error::Result;
use crate::eval::compare::compare_all;
use crate::eval::logits::predict;
use crate::model::Model;
use crate::progress::Progress;

/// Weights of packed models that are held at once, in bytes.
const HELD: usize = 1 << 30;

/// What was found out about each artifact: the file, and on validation tokens what it costs.
///
/// # Errors
/// As [`super::against`].
pub fn several(
    paths: &[&Path],
    (model_path, model): (&Path, &Model),
    trial: Option<&Trial>,
    progress: &dyn Progress,
) -> Result<Vec<(File, Option<Evaluation>)>> {
    let size: usize = 4 * model.stored.iter().map(|stored| stored.data.len()).sum::<usize>();
    let mut found = Vec::with_capacity(paths.len());
    let windows = trial.map(|trial| trial.windows(model.network()?.context())).transpose()?;
    for group in paths.chunks((HELD / size.max(1)).clamp(1, 64)) {
        let (mut files, mut packed) = (Vec::new(), Vec::new());
        for path in group {
            let opened = decode(path, (model.device(), model.precision()), progress)?;
            let place = |e: crate::error::Error| {
                e.at(path.display()).hint(format!("was it packed from {}?", model_path.display()))
            };
            agree(&opened.model, model).map_err(place)?;
            files.push(describe(path, &opened)?);
            if windows.is_some() {
                packed.push(opened.model.params()?);
            }
        }
        let (Some(windows), Some(trial)) = (&windows, trial) else {
            found.extend(files.into_iter().map(|file| (file, None)));
            continue;
        };
        let net = model.network()?;
        progress.begin("compare on validation", windows.rows() as u64);
        let changed: Vec<_> = packed.iter().map(|params| (net, params)).collect();
        let original = model.params()?;
        let before = |rows| predict(net, &original, windows, rows);
        let compared = compare_all(&before, &changed, windows, &|n| progress.advance(n))?;
        progress.end();
        let sample = trial.sample(windows);
        let evaluations = compared.iter().map(|comparison| Some(Evaluation::of(comparison, sample)));
        found.extend(files.into_iter().zip(evaluations));
    }
    Ok(found)
}
