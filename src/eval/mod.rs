//! Runs a network over token rows and compares what two versions of it predict.

pub mod bits;
pub mod compare;
pub mod logits;
pub mod predictions;
pub mod prefix;
pub mod sample;
pub mod sliding;
pub mod windows;
