//! Every tensor exactly as it is, where that fits.

use super::compiled::Compiled;
use super::execute::execute;
use super::job::{Job, Timer};
use super::pieces::file;
use crate::error::Result;
use crate::model::{Dtype, Model};
use crate::plan::{PLAN_VERSION, Part, Plan};
use crate::recipe::{Made, Recipe};

/// Bits per weight from which an exact copy may fit: trained weights in bf16 carry 10 to 11.
const MAYBE_EXACT: f64 = 7.0;

/// Packs the model exactly for those of `caps` that hold it; returns the others, which are to be quantized. `each` gets what was
/// made, and with `lossless` a refusal for a cap that is too small.
///
/// # Errors
/// Those of `each`; Compute, when a stream cannot be made.
pub(super) fn each(
    job: Job,
    caps: &[u64],
    timer: &mut Timer,
    each: &mut dyn FnMut(usize, Result<Compiled>) -> Result<()>,
) -> Result<Vec<usize>> {
    let Job { model, options, .. } = job;
    let mut made: Option<(Plan, Vec<u8>)> = None;
    let mut left = Vec::new();
    for (at, cap) in caps.iter().enumerate() {
        let budget = options.budget(*cap);
        let maybe = options.plan.is_none() && budget as f64 * 8.0 > MAYBE_EXACT * model.weights() as f64;
        if !options.lossless && !maybe {
            left.push(at);
            continue;
        }
        let (plan, bytes) = match made.take() {
            Some(known) => made.insert(known),
            None => {
                let plan = plan(model);
                let pieces = timer.stage("code", || execute(&plan, model, job.metrics, job.progress))?;
                made.insert((plan, file(model, pieces)?))
            }
        };
        if bytes.len() as u64 <= budget {
            if !options.lossless {
                job.progress.note("the exact model fits the cap: nothing needs to be quantized");
            }
            each(at, Ok(Compiled::new(bytes.clone(), plan.clone(), timer.take())))?;
        } else if options.lossless {
            let refusal = options.too_large(budget, bytes.len() as u64);
            each(at, Err(refusal.hint("leave out --lossless, or raise the cap")))?;
        } else {
            left.push(at);
        }
    }
    Ok(left)
}

/// One stream for every matrix, and one for all control tensors of a type.
fn plan(model: &Model) -> Plan {
    let part = |tensors: &[usize]| Part {
        tensors: tensors.iter().map(|i| model.spec(*i).name.clone()).collect(),
        mean_of: Vec::new(),
        made: Made { recipe: Recipe::Exact, step: 0.0 },
    };
    let (small, large): (Vec<usize>, Vec<usize>) = (0..model.stored.len()).partition(|i| !model.is_matrix(*i));
    let mut parts: Vec<Part> = large.iter().map(|i| part(&[*i])).collect();
    for dtype in [Dtype::F32, Dtype::F16, Dtype::Bf16] {
        let group: Vec<usize> = small.iter().copied().filter(|i| model.stored[*i].dtype == dtype).collect();
        if !group.is_empty() {
            parts.push(part(&group));
        }
    }
    Plan { plan: PLAN_VERSION, model: model.digest().to_hex().to_string(), parts }
}
