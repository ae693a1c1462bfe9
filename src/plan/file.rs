//! A plan: the recipe and the step size of each stored tensor. It can be written, read, compared and executed.
//!
//! Nothing else is decided anywhere: the same plan on the same model with the same statistics gives the same bytes.

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::recipe::{Grid, Made, Terms};

/// Changes when a plan of an earlier version no longer means the same.
pub const PLAN_VERSION: u32 = 1;
/// Step sizes outside this range are nobody's: their squares would leave the range of f32.
const STEPS: std::ops::RangeInclusive<f64> = 1e-15..=1e15;
/// Gains are coded in 4096ths, in 16 bits.
const GAIN_LIMIT: f64 = 8.0;
const STATES: [usize; 8] = [1, 4, 8, 16, 32, 64, 128, 256];

/// The plan of a whole model.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Plan {
    /// [`PLAN_VERSION`].
    pub plan: u32,
    /// The model it was made for: blake3 of its names, ties and weights, in hexadecimal.
    pub model: String,
    /// One for each stream, in the order of the file.
    pub parts: Vec<Part>,
}

/// One stream.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Part {
    /// First names of the stored tensors in it.
    pub tensors: Vec<String>,
    /// First names of the matrices whose mean, weighted by curvature, is coded in this one's place; empty: it is coded itself.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub mean_of: Vec<String>,
    pub made: Made,
}

impl Plan {
    /// Reads a plan.
    ///
    /// # Errors
    /// Input, when the text is not a plan of this version, or asks for what cannot be: names the part.
    pub fn from_json(text: &str) -> Result<Plan> {
        // The version first: what a later plan holds may not fit this one's form.
        #[derive(Deserialize)]
        struct Version {
            plan: u32,
        }
        let not_one = |e: serde_json::Error| Error::input(format!("not a plan: {e}"));
        let Version { plan } = serde_json::from_str(text).map_err(not_one)?;
        if plan != PLAN_VERSION {
            return Err(Error::input(format!("the plan is of version {plan}, this tiepack executes {PLAN_VERSION}"))
                .hint("use the tiepack that wrote it, or write a new one with --write-plan"));
        }
        let plan: Plan = serde_json::from_str(text).map_err(not_one)?;
        for (i, part) in plan.parts.iter().enumerate() {
            part.check().map_err(|e| e.at(format!("part {i} of the plan ({})", part.tensors.join(", "))))?;
        }
        Ok(plan)
    }

    /// The plan as text that a person can read.
    pub fn to_json(&self) -> String {
        // A plan holds strings and finite numbers only.
        let text = serde_json::to_string_pretty(self).unwrap_or_default();
        text + "\n"
    }
}

impl Part {
    fn check(&self) -> Result<()> {
        let Made { recipe, step } = &self.made;
        if self.made.has_step() && !STEPS.contains(step) {
            return Err(Error::input(format!(
                "a step of {step:e} is impossible; wanted {:e} to {:e}",
                STEPS.start(),
                STEPS.end()
            )));
        }
        let grid = recipe.terms().and_then(|terms| terms.residual.as_ref());
        if let Some(Grid { states, .. }) = grid.filter(|grid| !STATES.contains(&grid.states)) {
            return Err(
                Error::input(format!("there is no trellis of {states} states")).hint(format!("one of {STATES:?}"))
            );
        }
        let gain = recipe.terms().and_then(Terms::gain);
        if let Some(gain) = gain.filter(|gain| gain.is_nan() || gain.abs() >= GAIN_LIMIT) {
            let hint = format!("a gain between -{GAIN_LIMIT} and {GAIN_LIMIT}");
            return Err(Error::input(format!("a gain of {gain} is impossible here")).hint(hint));
        }
        let one = recipe.matrix().is_some();
        if !self.mean_of.is_empty() && !one {
            return Err(Error::input("only a matrix on a grid or a sum can be a mean"));
        }
        match self.tensors.len() {
            0 => Err(Error::input("no tensor is named")),
            n if one && n > 1 => Err(Error::input(format!("a matrix is one tensor, {n} are named"))),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::recipe::{Odd, Prediction, Recipe};

    fn plan(made: Made) -> Plan {
        Plan {
            plan: PLAN_VERSION,
            model: "00".into(),
            parts: vec![Part { tensors: vec!["a".into()], mean_of: Vec::new(), made }],
        }
    }

    #[test]
    fn every_plan_comes_back_from_its_text() {
        let grid = Grid { states: 32, odd: Odd::Plain };
        let step = 0.1f64.sqrt() / 3.0;
        let terms = |from: Option<&str>, gain, rank, residual| {
            let prediction = from.map(|from| Prediction { from: from.to_string(), gain });
            Recipe::Sum(Terms { prediction, rank, residual })
        };
        for (recipe, step) in [
            (Recipe::Exact, 0.0),
            (Recipe::ZERO, 0.0),
            (Recipe::Vectors, step),
            (Recipe::Sum(Terms::alone(grid)), step),
            (terms(Some("b"), Some(1.0), 0, None), step),
            (terms(None, None, 3, Some(Grid { states: 1, odd: Odd::WithZero })), step),
        ] {
            let made = Made { recipe, step };
            let plan = plan(made);
            assert_eq!(Plan::from_json(&plan.to_json()).unwrap(), plan);
        }
    }

    #[test]
    fn impossible_plans_are_refused_by_name() {
        let refusal = |text: &str| Plan::from_json(text).unwrap_err().message;
        assert_eq!(refusal(r#"{"plan": 2, "shapes": []}"#), "the plan is of version 2, this tiepack executes 1");
        assert!(refusal("[]").starts_with("not a plan: "));
        let part =
            |made: &str| refusal(&format!(r#"{{"plan":1,"model":"0","parts":[{{"tensors":["a"],"made":{made}}}]}}"#));
        let grid = r#"{"states":32,"odd":"plain"}"#;
        for step in ["0.0", "-1e-3", "1e-300", "1e300"] {
            let text = part(&format!(r#"{{"matrix":{{"step":{step},"grid":{grid}}}}}"#));
            assert!(text.starts_with("part 0 of the plan (a): a step of"), "{text}");
        }
        assert!(
            part(r#"{"matrix":{"step":1e-3,"grid":{"states":7,"odd":"plain"}}}"#).contains("no trellis of 7 states")
        );
        assert!(part(r#"{"sum":{"step":1e-3,"rank":1,"gain":1.0}}"#).contains("a gain of 1 is impossible here"));
        assert!(part(r#"{"sum":{"step":1e-3,"from":"b","gain":9.0}}"#).contains("a gain of 9 is impossible here"));
        assert!(part(r#"{"sum":{"step":1e-3}}"#).contains("a sum of no terms"));
        assert!(part(&format!(r#"{{"matrix":{{"grid":{grid}}}}}"#)).contains("missing field `step`"));
        assert!(part(r#"{"matrix":{"step":1e-3}}"#).contains("missing field `grid`"));
        assert!(part(r#"{"cube":{}}"#).contains("unknown variant `cube`"));
        assert!(part(r#"{"vectors":{"step":1e-3,"rank":1}}"#).contains("unknown field `rank`"));
    }
}
