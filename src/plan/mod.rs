//! Decides how the bytes are spent.

pub mod budget;
