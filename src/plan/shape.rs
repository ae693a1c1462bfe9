//! Shapes that people believe in: which layers share their matrices, said in a word.

use std::collections::BTreeMap;
use std::fmt::{self, Display, Formatter};
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::scheme::{Choice, Scheme};
use crate::error::{Error, Result};
use crate::recipe::{Prediction, Terms};

/// The matrices of a model by layer and role.
#[derive(Debug, Clone)]
pub struct Table {
    /// For every layer and every shared role the stored matrix, if there is one. Declared ties repeat a number.
    pub layers: Vec<Vec<Option<usize>>>,
    /// Names of the shared roles.
    pub roles: Vec<String>,
}

/// The source of the weights of a shared block (Relaxed Recursive Transformers, arXiv:2410.20672).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Init {
    /// The first layers.
    First,
    /// Layers at equal distances.
    Stepwise,
    /// The mean of all that share it, weighted by curvature.
    Average,
}

/// Which layers share. Its text is what a person would write.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub enum Shape {
    /// Whatever a search finds.
    Auto,
    /// As the model declares it.
    Declared,
    /// One block for all layers (ALBERT, arXiv:1909.11942).
    Albert,
    /// Layer l runs block l mod k (Universal and Recursive Transformers).
    Cycle { blocks: usize, init: Init },
    /// Layers of their own, a trunk of one block, and late layers that are the trunk plus a low-rank term; of rank 0: late
    /// layers of their own.
    Trunk { early: usize, late: usize, rank: usize },
    /// All layers but these.
    Without(Vec<usize>),
}

const WANTED: &str =
    "wanted auto, declared, albert, cycle=K, cycle=K:first, cycle=K:stepwise, early=E,late=L,rank=R or without=L,L";

impl FromStr for Shape {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Self, String> {
        let wrong = || WANTED.to_string();
        let number = |text: &str| text.parse::<usize>().map_err(|_| wrong());
        match text {
            "auto" => return Ok(Shape::Auto),
            "declared" => return Ok(Shape::Declared),
            "albert" => return Ok(Shape::Albert),
            _ => {}
        }
        if let Some(cycle) = text.strip_prefix("cycle=") {
            let (blocks, init) = cycle.split_once(':').unwrap_or((cycle, "average"));
            let init = match init {
                "first" => Init::First,
                "stepwise" => Init::Stepwise,
                "average" => Init::Average,
                _ => return Err(wrong()),
            };
            return match number(blocks)? {
                0 => Err("a cycle has at least one block".into()),
                blocks => Ok(Shape::Cycle { blocks, init }),
            };
        }
        if let Some(layers) = text.strip_prefix("without=") {
            return layers.split(',').map(number).collect::<std::result::Result<_, _>>().map(Shape::Without);
        }
        let (mut early, mut late, mut rank) = (None, None, None);
        for part in text.split(',') {
            let (key, value) = part.split_once('=').ok_or_else(wrong)?;
            let place = match key {
                "early" => &mut early,
                "late" => &mut late,
                "rank" => &mut rank,
                _ => return Err(wrong()),
            };
            if place.replace(number(value)?).is_some() {
                return Err(format!("{key} is given twice"));
            }
        }
        Ok(Shape::Trunk { early: early.unwrap_or(0), late: late.unwrap_or(0), rank: rank.unwrap_or(0) })
    }
}

impl Table {
    /// Stored matrices of a layer.
    pub fn of(&self, layer: usize) -> impl Iterator<Item = (usize, usize)> + '_ {
        self.layers[layer].iter().enumerate().filter_map(|(role, stored)| stored.map(|stored| (role, stored)))
    }

    /// For every layer the first one that shares a matrix with it, directly or not: declared ties stay.
    fn declared(&self) -> Vec<usize> {
        let mut class: Vec<usize> = (0..self.layers.len()).collect();
        let mut first: BTreeMap<usize, usize> = BTreeMap::new();
        for layer in 0..self.layers.len() {
            for (_, stored) in self.of(layer) {
                let other = *first.entry(stored).or_insert(layer);
                unite(&mut class, layer, other);
            }
        }
        class
    }
}

fn unite(class: &mut [usize], a: usize, b: usize) {
    let (low, high) = (class[a].min(class[b]), class[a].max(class[b]));
    class.iter_mut().filter(|c| **c == high).for_each(|c| *c = low);
}

impl Shape {
    /// The scheme of this shape. Layers that declared ties join stay together, so a shape may come out with fewer blocks.
    ///
    /// # Errors
    /// Input, when the model has no such layers.
    pub fn scheme(&self, table: &Table) -> Result<Scheme> {
        let n = table.layers.len();
        let few = |asked: usize| Error::input(format!("the shape speaks of {asked} layers, the model has {n}"));
        let mut class = table.declared();
        let (mut ranks, mut init, mut blocks) = (vec![0; n], Init::Average, n);
        match self {
            Shape::Auto | Shape::Declared => return Ok(Scheme::default()),
            Shape::Without(layers) => {
                if let Some(layer) = layers.iter().find(|layer| **layer >= n) {
                    return Err(Error::input(format!(
                        "the shape leaves out layer {layer}, the model has 0 to {}",
                        n.saturating_sub(1)
                    )));
                }
                let gone: Vec<usize> = layers.iter().flat_map(|l| table.of(*l)).map(|(_, stored)| stored).collect();
                return Ok(gone.into_iter().fold(Scheme::default(), |s, stored| s.with(stored, Choice::ZERO)));
            }
            Shape::Albert => (1..n).for_each(|layer| unite(&mut class, 0, layer)),
            Shape::Cycle { blocks: k, .. } if *k > n => return Err(few(*k)),
            Shape::Cycle { blocks: k, init: how } => {
                (init, blocks) = (*how, *k);
                (*k..n).for_each(|layer| unite(&mut class, layer % k, layer));
            }
            Shape::Trunk { early, late, rank } => {
                if early + late >= n {
                    return Err(few(early + late + 1));
                }
                let end = if *rank > 0 { n } else { n - late };
                (early + 1..end).for_each(|layer| unite(&mut class, *early, layer));
                ranks[n - late..].fill(*rank);
            }
        }
        let mut scheme = Scheme::default();
        for representative in (0..n).filter(|layer| class[*layer] == *layer) {
            for role in 0..table.roles.len() {
                let member = |layer: &usize| table.layers[*layer][role].map(|stored| (stored, *layer));
                let mut members: Vec<(usize, usize)> =
                    (0..n).filter(|layer| class[*layer] == representative).filter_map(|layer| member(&layer)).collect();
                members.sort_unstable();
                members.dedup_by_key(|(stored, _)| *stored);
                let Some((first, _)) = members.first().copied() else { continue };
                for (stored, layer) in &members[1..] {
                    // Only of a mean is a multiple nearer than the matrix itself.
                    let gain = (init != Init::Average).then_some(1.0);
                    let prediction = Some(Prediction { from: first, gain });
                    scheme = scheme.with(*stored, Terms { prediction, rank: ranks[*layer], residual: None });
                }
                let of = match init {
                    Init::First => vec![first],
                    // Block b of k begins with layer b·(n−1)/(k−1).
                    Init::Stepwise => {
                        let at = if blocks > 1 { representative * (n - 1) / (blocks - 1) } else { 0 };
                        table.layers[at][role].into_iter().collect()
                    }
                    Init::Average => members.iter().map(|(stored, _)| *stored).collect(),
                };
                scheme = scheme.with_mean(first, of);
            }
        }
        Ok(scheme)
    }
}

/// What a person would write.
impl Display for Shape {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Shape::Auto => f.write_str("auto"),
            Shape::Declared => f.write_str("declared"),
            Shape::Albert => f.write_str("albert"),
            Shape::Cycle { blocks, init } => {
                let init = match init {
                    Init::First => ":first",
                    Init::Stepwise => ":stepwise",
                    Init::Average => "",
                };
                write!(f, "cycle={blocks}{init}")
            }
            Shape::Trunk { early, late, rank } => write!(f, "early={early},late={late},rank={rank}"),
            Shape::Without(layers) => {
                write!(f, "without={}", layers.iter().map(ToString::to_string).collect::<Vec<_>>().join(","))
            }
        }
    }
}

impl From<Shape> for String {
    fn from(shape: Shape) -> String {
        shape.to_string()
    }
}

impl TryFrom<String> for Shape {
    type Error = String;

    fn try_from(text: String) -> std::result::Result<Self, String> {
        text.parse()
    }
}

/// Shapes that a search starts from, for a model of so many layers.
pub fn starts(layers: usize) -> Vec<Shape> {
    let mut shapes = Vec::new();
    if layers > 3 {
        let cycle = |blocks: usize, init: Init| Shape::Cycle { blocks, init };
        shapes.push(Shape::Albert);
        shapes.extend([2, 3].map(|k| cycle(k, Init::Average)));
        shapes.extend([2, 3].map(|k| cycle(k, Init::Stepwise)));
        shapes.push(cycle(3, Init::First));
        let edge = layers.div_ceil(4);
        shapes.extend([0, 8].map(|rank| Shape::Trunk { early: edge, late: edge, rank }));
    }
    shapes
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Four layers of two roles; `copies` as a tie map has them.
    fn table(copies: &[usize]) -> Table {
        let layers = copies.iter().map(|l| vec![Some(10 * l), Some(10 * l + 1)]).collect();
        Table { layers, roles: vec!["q".into(), "v".into()] }
    }

    fn shape(text: &str, table: &Table) -> String {
        let shape: Shape = text.parse().unwrap();
        assert_eq!(shape.to_string().parse::<Shape>().unwrap(), shape);
        let scheme = shape.scheme(table).unwrap();
        let mut out = Vec::new();
        for stored in table.layers.iter().flat_map(|layer| layer[0]) {
            let mean = scheme.mean_of(stored);
            let choice = scheme.choice(stored);
            let how = match choice.copy_of() {
                Some(from) => {
                    let gain = if choice.gain().is_some() { "!" } else { "" };
                    format!("{from}{gain}{}", format!("+{}", choice.rank).repeat(choice.rank.min(1)))
                }
                None if choice.is_zero() => "zero".into(),
                None if mean.is_empty() => "own".to_string(),
                None => format!("mean {mean:?}"),
            };
            out.push(how);
        }
        out.join(", ")
    }

    #[test]
    fn shapes_are_what_they_say() {
        let untied = table(&[0, 1, 2, 3]);
        assert_eq!(shape("declared", &untied), "own, own, own, own");
        assert_eq!(shape("albert", &untied), "mean [0, 10, 20, 30], 0, 0, 0");
        assert_eq!(shape("cycle=2", &untied), "mean [0, 20], mean [10, 30], 0, 10");
        assert_eq!(shape("cycle=2:stepwise", &untied), "own, mean [30], 0!, 10!");
        assert_eq!(shape("cycle=3:first", &untied), "own, own, own, 0!");
        assert_eq!(shape("early=1,late=1,rank=8", &untied), "own, mean [10, 20, 30], 10, 10+8");
        assert_eq!(shape("early=1,late=1", &untied), "own, mean [10, 20], 10, own");
        assert_eq!(shape("without=1,2", &untied), "own, zero, zero, own");
        // Layers 1 and 2 are one already, so the two blocks of a cycle are one as well.
        assert_eq!(shape("cycle=2", &table(&[0, 1, 1, 3])), "mean [0, 10, 30], 0, 0, 0");
    }

    #[test]
    fn impossible_shapes_are_refused() {
        let untied = table(&[0, 1, 2, 3]);
        let refuse = |text: &str| text.parse::<Shape>().unwrap().scheme(&untied).unwrap_err().message;
        assert_eq!(refuse("cycle=5"), "the shape speaks of 5 layers, the model has 4");
        assert_eq!(refuse("early=2,late=2"), "the shape speaks of 5 layers, the model has 4");
        assert_eq!(refuse("without=4"), "the shape leaves out layer 4, the model has 0 to 3");
        for text in ["", "cycle=0", "cycle=x", "cycle=2:last", "early=1,early=2", "middle=3", "without=a"] {
            assert!(text.parse::<Shape>().is_err(), "{text}");
        }
    }
}
