//! The length of a healing, and the record of its course.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::train::objective::Objective;

/// The length of a healing.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Length {
    Steps(usize),
    /// As many steps as fit.
    Time(Duration),
    /// As long as it gains.
    Gaining,
}

/// The held-out text at one moment.
///
/// Of the first point all is rounded and nothing was trained, of the last one all is rounded; in between `frozen` of the columns
/// are, and the others are still real.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Point {
    pub step: usize,
    /// Share of the columns that are frozen on grid points.
    #[serde(rename = "bound")]
    pub frozen: f64,
    /// KL(original ‖ packed), nats per token, on held-out calibration text.
    pub kl: f64,
    /// Nats per token on that text.
    pub loss: f64,
    /// Bytes of the file, as far as they are known by then.
    pub bytes: u64,
    /// KL(original ‖ packed) on the text of the steps since the point before; 0 at first.
    pub training_kl: f64,
    /// Seconds since the start.
    pub seconds: f64,
}

/// The record of a healing.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Course {
    pub objective: Objective,
    pub steps: usize,
    pub points: Vec<Point>,
    /// Index of the point that was packed: the first, or the last.
    pub best: usize,
    /// Tokens of a step, of calibration, and those set aside.
    pub step_tokens: usize,
    pub calibration_tokens: usize,
    pub held_out_tokens: usize,
    /// Times that training went over its text.
    pub passes: f64,
    pub breakdowns: usize,
}
