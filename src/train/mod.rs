//! The training core: gradients of a network on batches of rows, optimiser, schedule, sampling.

pub mod adam;
pub mod gradient;
pub mod held_out;
pub mod joined;
pub mod muon;
pub mod objective;
pub mod rows;
pub mod schedule;
pub mod teacher;
