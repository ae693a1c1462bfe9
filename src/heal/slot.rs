//! What training changes, one thing at a time: so that a state can be kept and taken back, here and on disk.

use crate::train::adam::Adam;

/// One thing that training changes.
pub enum Slot<'a> {
    Floats(&'a mut Vec<f32>),
    Integers(&'a mut Vec<i32>),
    Count(&'a mut i32),
}

/// Values that Adam moves.
pub fn adam<'a>(values: &'a mut Vec<f32>, adam: &'a mut Adam) -> [Slot<'a>; 4] {
    let Adam { first, second, steps } = adam;
    [Slot::Floats(values), Slot::Floats(first), Slot::Floats(second), Slot::Count(steps)]
}

/// What was in a slot at some time.
#[derive(Clone)]
pub enum Kept {
    Floats(Vec<f32>),
    Integers(Vec<i32>),
    Count(i32),
}

impl Slot<'_> {
    pub fn keep(&self) -> Kept {
        match self {
            Slot::Floats(x) => Kept::Floats(x.to_vec()),
            Slot::Integers(x) => Kept::Integers(x.to_vec()),
            Slot::Count(x) => Kept::Count(**x),
        }
    }

    /// # Panics
    /// If it was kept of a slot of another kind.
    pub fn take_back(self, kept: &Kept) {
        match (self, kept) {
            (Slot::Floats(x), Kept::Floats(kept)) => x.clone_from(kept),
            (Slot::Integers(x), Kept::Integers(kept)) => x.clone_from(kept),
            (Slot::Count(x), Kept::Count(kept)) => *x = *kept,
            _ => unreachable!("slots come in a fixed order"),
        }
    }
}
