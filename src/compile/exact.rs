//! The plan that keeps every tensor exactly as it is.

use crate::model::{Dtype, Model};
use crate::nets::Form;
use crate::plan::{PLAN_VERSION, Part, Plan};
use crate::recipe::{Made, Recipe};

/// One stream for every matrix, and one for all control tensors of a type.
pub(super) fn plan(model: &Model) -> Plan {
    let part = |tensors: &[usize]| Part {
        tensors: tensors.iter().map(|i| model.spec(*i).name.clone()).collect(),
        mean_of: Vec::new(),
        made: Made { recipe: Recipe::Exact, step: 0.0 },
    };
    let (small, large): (Vec<usize>, Vec<usize>) =
        (0..model.stored.len()).partition(|i| model.spec(*i).form == Form::Vector);
    let mut parts: Vec<Part> = large.iter().map(|i| part(&[*i])).collect();
    for dtype in [Dtype::F32, Dtype::F16, Dtype::Bf16] {
        let group: Vec<usize> = small.iter().copied().filter(|i| model.stored[*i].dtype == dtype).collect();
        if !group.is_empty() {
            parts.push(part(&group));
        }
    }
    Plan { plan: PLAN_VERSION, model: model.digest().to_hex().to_string(), parts }
}
