//! Decides how the bytes are spent: [`budget`] finds the step sizes, a [`Plan`] says what came of it.

pub mod budget;
mod recipe;

pub use recipe::{Grid, Made, Odd, PLAN_VERSION, Part, Plan};
