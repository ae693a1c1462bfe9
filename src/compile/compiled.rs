//! The result of packing.

use super::structure::Structure;
use crate::heal::Course;
use crate::model::Model;
use crate::plan::Plan;

/// An artifact, and how it came about.
pub struct Compiled {
    /// The whole file.
    pub bytes: Vec<u8>,
    /// The plan that it was made by.
    pub plan: Plan,
    /// Stages and their seconds.
    pub stages: Vec<(String, f64)>,
    pub cached_statistics: bool,
    /// Matrices that nothing depends on, though they are not zero: stored as zeros.
    pub dead: Vec<String>,
    /// Matrices of whose curvature nothing was known, though that of others was.
    pub unmeasured: Vec<String>,
    /// The structure that was found, where one was searched.
    pub structure: Option<Structure>,
    pub healed: Option<Healed>,
}

impl Compiled {
    pub(super) fn new(bytes: Vec<u8>, plan: Plan, stages: Vec<(String, f64)>) -> Compiled {
        Compiled {
            bytes,
            plan,
            stages,
            cached_statistics: false,
            dead: Vec::new(),
            unmeasured: Vec::new(),
            structure: None,
            healed: None,
        }
    }
}

/// The loss before healing, and its course.
pub struct Healed {
    /// The model before, as its file would have been.
    pub before: Model,
    pub course: Course,
}
