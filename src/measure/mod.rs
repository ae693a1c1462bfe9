//! Finds how much every stored tensor matters: the curvature of the KL divergence to the original model.

pub mod curvature;
pub mod fisher;
