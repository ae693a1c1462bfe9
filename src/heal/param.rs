//! References to the parameters that training changes, one by one, so that a state can be saved and restored, in memory and on disk.

use crate::train::adam::Adam;

/// A parameter that training changes.
pub enum ParamRef<'a> {
    Floats(&'a mut Vec<f32>),
    Integers(&'a mut Vec<i32>),
    Count(&'a mut i32),
}

/// Values that Adam moves.
pub fn adam<'a>(values: &'a mut Vec<f32>, adam: &'a mut Adam) -> [ParamRef<'a>; 4] {
    let Adam { first, second, steps } = adam;
    [ParamRef::Floats(values), ParamRef::Floats(first), ParamRef::Floats(second), ParamRef::Count(steps)]
}

/// The saved value of a parameter.
#[derive(Clone)]
pub enum Saved {
    Floats(Vec<f32>),
    Integers(Vec<i32>),
    Count(i32),
}

impl ParamRef<'_> {
    pub fn save(&self) -> Saved {
        match self {
            ParamRef::Floats(x) => Saved::Floats(x.to_vec()),
            ParamRef::Integers(x) => Saved::Integers(x.to_vec()),
            ParamRef::Count(x) => Saved::Count(**x),
        }
    }

    /// # Panics
    /// If it was saved from a parameter of another kind.
    pub fn restore(self, kept: &Saved) {
        match (self, kept) {
            (ParamRef::Floats(x), Saved::Floats(kept)) => x.clone_from(kept),
            (ParamRef::Integers(x), Saved::Integers(kept)) => x.clone_from(kept),
            (ParamRef::Count(x), Saved::Count(kept)) => *x = *kept,
            _ => unreachable!("slots come in a fixed order"),
        }
    }
}
