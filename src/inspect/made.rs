//! The recipe of a row, as `--json` prints it: `formats/inspect.schema.json`.

use serde::{Serialize, Serializer};

use crate::artifact::construction::Construction;
use crate::recipe::Terms;

#[derive(Serialize)]
struct Made<'a> {
    way: &'static str,
    /// First name of the tensor that it starts from, and what that is multiplied by.
    from: Option<&'a String>,
    gain: Option<f32>,
    rank: usize,
    /// Trellis states of its grid, 1 for a uniform one; `None`: no grid.
    states: Option<usize>,
    log2_step: Option<f64>,
}

pub(super) fn serialize<S: Serializer>(made: &Option<Construction<String>>, serializer: S) -> Result<S::Ok, S::Error> {
    let made = made.as_ref().map(|Construction { recipe, log2_step }| Made {
        way: recipe.kind(),
        from: recipe.from(),
        // A multiple of 1/4096: an f32 holds it.
        gain: recipe.terms().and_then(Terms::gain).map(|gain| gain as f32),
        rank: recipe.terms().map_or(0, |terms| terms.rank),
        states: recipe.terms().and_then(|terms| terms.residual).map(|grid| grid.states),
        log2_step: *log2_step,
    });
    made.serialize(serializer)
}
