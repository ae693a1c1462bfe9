//! Decides how the bytes are spent: [`budget`] finds the step sizes, a [`Plan`] says what came of it.

pub mod budget;
pub mod climb;
pub mod evaluator;
mod file;
pub mod moves;
pub mod scheme;
pub mod shape;

pub use file::{PLAN_VERSION, Part, Plan};
