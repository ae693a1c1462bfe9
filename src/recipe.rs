//! Recipes of tensors: W = α·P + A·B + S ∘ Q, where P is an earlier matrix, A·B of low rank and Q on a grid.
//!
//! A plan is recipes with step sizes, a scheme is recipes without; an artifact's streams are recipes that were carried out.

use std::fmt::{self, Display, Formatter};

use serde::de::{Error as _, Unexpected};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// The recipe of the tensors of a stream. `T` refers to a tensor, `G` describes a grid.
#[derive(Debug, Clone, PartialEq)]
pub enum Recipe<T, G = Grid> {
    /// Bit for bit.
    Exact,
    /// Control tensors on uniform grids.
    Vectors,
    /// One matrix as a sum, or zeros: a sum of nothing.
    Sum(Terms<T, G>),
}

/// The terms of a sum, each of which may be absent.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Terms<T, G = Grid> {
    /// α·P.
    pub prediction: Option<Prediction<T>>,
    /// Components of A·B; 0: there is no such term.
    pub rank: usize,
    /// Grid of S ∘ Q.
    pub residual: Option<G>,
}

/// A multiple of an earlier matrix.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Prediction<T> {
    pub from: T,
    /// α; `None`: the best by least squares.
    pub gain: Option<f64>,
}

/// A trellis-coded grid.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Grid {
    /// States of the trellis: 1 (a uniform grid), 4, 8, 16, 32, 64, 128 or 256.
    pub states: usize,
    pub odd: Odd,
}

/// The points of the second of the trellis' two grids.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Odd {
    /// Odd multiples of the step.
    Plain,
    /// Odd multiples of the step, and zero.
    WithZero,
}

/// A grid that is not chosen yet. As text: `true`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AnyGrid;

impl<T, G> Terms<T, G> {
    /// No term: zeros.
    pub const ZERO: Terms<T, G> = Terms { prediction: None, rank: 0, residual: None };

    /// A grid alone.
    pub const fn alone(grid: G) -> Self {
        Terms { prediction: None, rank: 0, residual: Some(grid) }
    }

    /// The tensor that it starts from.
    pub fn from(&self) -> Option<&T> {
        self.prediction.as_ref().map(|prediction| &prediction.from)
    }

    /// α, where it is fixed.
    pub fn gain(&self) -> Option<f64> {
        self.prediction.as_ref().and_then(|prediction| prediction.gain)
    }

    /// The tensor that this is a copy of: it may have a low-rank term of its own but no residual.
    pub fn copy_of(&self) -> Option<&T> {
        self.from().filter(|_| self.residual.is_none())
    }

    pub fn is_zero(&self) -> bool {
        self.prediction.is_none() && self.rank == 0 && self.residual.is_none()
    }

    /// Whether a grid is all that it has.
    pub fn is_alone(&self) -> bool {
        self.prediction.is_none() && self.rank == 0 && self.residual.is_some()
    }

    /// The same with the tensor that it starts from referred to in another way.
    pub fn refer<U>(self, to: impl FnOnce(T) -> U) -> Terms<U, G> {
        let prediction = self.prediction.map(|Prediction { from, gain }| Prediction { from: to(from), gain });
        Terms { prediction, rank: self.rank, residual: self.residual }
    }

    /// The same with this grid, if it has one.
    pub fn on<H>(self, grid: H) -> Terms<T, H> {
        Terms { prediction: self.prediction, rank: self.rank, residual: self.residual.map(|_| grid) }
    }
}

impl<T, G> Recipe<T, G> {
    /// Nothing but zeros.
    pub const ZERO: Recipe<T, G> = Recipe::Sum(Terms::ZERO);

    /// The terms of a sum.
    pub fn terms(&self) -> Option<&Terms<T, G>> {
        match self {
            Recipe::Sum(terms) => Some(terms),
            Recipe::Exact | Recipe::Vectors => None,
        }
    }

    /// The terms of a matrix that is not left out.
    pub fn matrix(&self) -> Option<&Terms<T, G>> {
        self.terms().filter(|terms| !terms.is_zero())
    }

    /// The tensor that it starts from.
    pub fn from(&self) -> Option<&T> {
        self.terms().and_then(Terms::from)
    }

    /// In one word: what `--json` calls it.
    pub fn kind(&self) -> &'static str {
        match self {
            Recipe::Exact => "exact",
            Recipe::Vectors => "vectors",
            Recipe::Sum(terms) if terms.is_zero() => "zero",
            Recipe::Sum(terms) if terms.is_alone() => "alone",
            Recipe::Sum(_) => "sum",
        }
    }

    /// The same with the tensor that it starts from referred to in another way.
    pub fn refer<U>(self, to: impl FnOnce(T) -> U) -> Recipe<U, G> {
        match self {
            Recipe::Exact => Recipe::Exact,
            Recipe::Vectors => Recipe::Vectors,
            Recipe::Sum(terms) => Recipe::Sum(terms.refer(to)),
        }
    }
}

/// `alone`, `zeros`, `0.62 x blocks.0.mlp.fc.weight + rank 4 + grid`.
impl<T: Display, G> Display for Terms<T, G> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        if self.is_zero() {
            return f.write_str("zeros");
        }
        if self.is_alone() {
            return f.write_str("alone");
        }
        let prediction = self.prediction.as_ref().map(|Prediction { from, gain }| match gain {
            None | Some(1.0) => from.to_string(),
            Some(gain) => format!("{gain:.2} x {from}"),
        });
        let rank = (self.rank > 0).then(|| format!("rank {}", self.rank));
        let residual = self.residual.as_ref().map(|_| "grid".to_string());
        f.write_str(&[prediction, rank, residual].into_iter().flatten().collect::<Vec<_>>().join(" + "))
    }
}

impl<T: Display, G> Display for Recipe<T, G> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Recipe::Exact => f.write_str("exact"),
            Recipe::Vectors => f.write_str("vectors"),
            Recipe::Sum(terms) => terms.fmt(f),
        }
    }
}

/// `uniform`, `32 states`.
impl Display for Grid {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self.states {
            1 => f.write_str("uniform"),
            states => write!(f, "{states} states"),
        }
    }
}

/// The text of a recipe, specified in `formats/plan.md`. In a plan it says the step size as well.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
enum Text<T, G> {
    Exact,
    Zero,
    Vectors {
        #[serde(skip_serializing_if = "Option::is_none")]
        step: Option<f64>,
    },
    Matrix {
        #[serde(skip_serializing_if = "Option::is_none")]
        step: Option<f64>,
        grid: G,
    },
    Sum {
        #[serde(skip_serializing_if = "Option::is_none")]
        step: Option<f64>,
        #[serde(skip_serializing_if = "Option::is_none")]
        from: Option<T>,
        #[serde(skip_serializing_if = "Option::is_none")]
        gain: Option<f64>,
        #[serde(default, skip_serializing_if = "is_zero")]
        rank: usize,
        #[serde(skip_serializing_if = "Option::is_none")]
        residual: Option<G>,
    },
}

fn is_zero(rank: &usize) -> bool {
    *rank == 0
}

impl<T, G> Text<T, G> {
    fn new(recipe: Recipe<T, G>, step: Option<f64>) -> Self {
        let Terms { prediction, rank, residual } = match recipe {
            Recipe::Exact => return Text::Exact,
            Recipe::Vectors => return Text::Vectors { step },
            Recipe::Sum(terms) if terms.is_zero() => return Text::Zero,
            Recipe::Sum(terms) => terms,
        };
        let (from, gain) = prediction.map_or((None, None), |Prediction { from, gain }| (Some(from), gain));
        match (from, rank, residual) {
            (None, 0, Some(grid)) => Text::Matrix { step, grid },
            (from, rank, residual) => Text::Sum { step, from, gain, rank, residual },
        }
    }

    /// The recipe, and the step size where one is given.
    fn parts<E: serde::de::Error>(self) -> Result<(Recipe<T, G>, Option<f64>), E> {
        Ok(match self {
            Text::Exact => (Recipe::Exact, None),
            Text::Zero => (Recipe::ZERO, None),
            Text::Vectors { step } => (Recipe::Vectors, step),
            Text::Matrix { step, grid } => (Recipe::Sum(Terms::alone(grid)), step),
            Text::Sum { step, from, gain, rank, residual } => {
                let prediction = match (from, gain) {
                    (None, Some(gain)) => {
                        return Err(E::custom(format!("a gain of {gain} is impossible here: it needs `from`")));
                    }
                    (from, gain) => from.map(|from| Prediction { from, gain }),
                };
                let terms = Terms { prediction, rank, residual };
                if terms.is_zero() {
                    return Err(E::custom("a sum of no terms: give `from`, `rank` or `residual`, or make it \"zero\""));
                }
                (Recipe::Sum(terms), step)
            }
        })
    }
}

/// A scheme's: it has no step size.
impl<T: Serialize + Clone, G: Serialize + Clone> Serialize for Terms<T, G> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        Text::new(Recipe::Sum(self.clone()), None).serialize(serializer)
    }
}

impl<'de, T: Deserialize<'de>, G: Deserialize<'de>> Deserialize<'de> for Terms<T, G> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match Text::deserialize(deserializer)?.parts()? {
            (Recipe::Sum(terms), None) => Ok(terms),
            _ => Err(D::Error::custom("the terms of a sum, without a step, are wanted here")),
        }
    }
}

/// A recipe and how finely: the step size of a weight of unit curvature, in nats^½; the steps of a matrix follow from its
/// curvature ([`crate::code::quantize::step_rule`] of the library).
#[derive(Debug, Clone, PartialEq)]
pub struct Made {
    /// Tensors by their first names.
    pub recipe: Recipe<String>,
    /// 0 for what needs none: what is exact, and zeros.
    pub step: f64,
}

impl Made {
    /// Whether the recipe is carried out at a step size.
    pub fn has_step(&self) -> bool {
        !matches!(&self.recipe, Recipe::Exact) && self.recipe != Recipe::ZERO
    }
}

impl Serialize for Made {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        Text::new(self.recipe.clone(), Some(self.step)).serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Made {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let (recipe, step) = Text::deserialize(deserializer)?.parts()?;
        let made = Made { recipe, step: step.unwrap_or_default() };
        if step.is_none() && made.has_step() { Err(D::Error::missing_field("step")) } else { Ok(made) }
    }
}

impl Serialize for AnyGrid {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bool(true)
    }
}

impl<'de> Deserialize<'de> for AnyGrid {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        if bool::deserialize(deserializer)? {
            Ok(AnyGrid)
        } else {
            Err(D::Error::invalid_value(Unexpected::Bool(false), &"true"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn recipes_are_said_in_a_few_words() {
        let grid = Grid { states: 8, odd: Odd::Plain };
        let from = |gain| Some(Prediction { from: "a", gain });
        let sum = |prediction, rank, residual| Recipe::Sum(Terms { prediction, rank, residual }).to_string();
        assert_eq!(sum(None, 0, None), "zeros");
        assert_eq!(sum(None, 0, Some(grid)), "alone");
        assert_eq!(sum(None, 3, None), "rank 3");
        assert_eq!(sum(from(None), 0, None), "a");
        assert_eq!(sum(from(Some(1.0)), 4, Some(grid)), "a + rank 4 + grid");
        assert_eq!(sum(from(Some(0.625)), 0, Some(grid)), "0.62 x a + grid");
        assert_eq!([Recipe::Exact, Recipe::Vectors].map(|r: Recipe<String>| r.to_string()), ["exact", "vectors"]);
    }

    /// Logs of searches name schemes by digests of this text.
    #[test]
    fn a_schemes_terms_have_no_steps() {
        let terms = |from: Option<usize>, rank, residual| Terms {
            prediction: from.map(|from| Prediction { from, gain: None }),
            rank,
            residual,
        };
        for (terms, text) in [
            (Terms::ZERO, r#""zero""#),
            (terms(Some(1), 4, None), r#"{"sum":{"from":1,"rank":4}}"#),
            (terms(Some(1), 0, Some(AnyGrid)), r#"{"sum":{"from":1,"residual":true}}"#),
            (terms(None, 2, None), r#"{"sum":{"rank":2}}"#),
        ] {
            assert_eq!(serde_json::to_string(&terms).unwrap(), text);
            assert_eq!(serde_json::from_str::<Terms<usize, AnyGrid>>(text).unwrap(), terms);
        }
        for bad in [r#""exact""#, r#"{"sum":{"step":1.0,"rank":2}}"#, r#"{"sum":{"rank":2,"residual":false}}"#] {
            assert!(serde_json::from_str::<Terms<usize, AnyGrid>>(bad).is_err(), "{bad}");
        }
    }
}
