//! Decides how the bytes are spent: [`budget`] finds the step sizes, a [`Plan`] says what came of it.

pub mod budget;
pub mod climb;
pub mod moves;
mod recipe;
pub mod scheme;
pub mod shape;

pub use recipe::{Grid, Made, Odd, PLAN_VERSION, Part, Plan};
