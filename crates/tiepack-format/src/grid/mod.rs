//! The grids that quantized weights lie on: which points there are, and how far apart. Reader and writer share them.

pub mod step_sizes;
pub mod trellis;
