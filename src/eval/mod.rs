//! Runs a network over token rows and compares what two versions of it predict.

pub mod compare;
pub mod logits;
pub mod windows;
