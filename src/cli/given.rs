//! What a pack is given instead of finding it out: curvature measured elsewhere, a plan.

use std::path::Path;

use crate::compile::{Source, check};
use crate::error::{Error, Result};
use crate::measure::file::from_bytes;
use crate::model::Model;
use crate::plan::Plan;

/// Where `--statistics` says that the curvature comes from.
///
/// # Errors
/// Input, when the file cannot be read or is not of this model: names the path.
pub fn curvature(statistics: Option<&Path>, model: &Model) -> Result<Source> {
    match statistics {
        None => Ok(Source::Measured),
        Some(none) if none.as_os_str() == "none" => Ok(Source::Flat),
        Some(path) => {
            let bytes = std::fs::read(path).map_err(|e| Error::io("read", path, e))?;
            from_bytes(&bytes, model).map(Source::Given).map_err(|e| e.at(path.display()))
        }
    }
}

/// The plan in a file, for `model`.
///
/// # Errors
/// Input, when it cannot be read, is not a plan, or not one for the model: names the path.
pub fn plan(path: &Path, model: &Model) -> Result<Plan> {
    let text = std::fs::read_to_string(path).map_err(|e| Error::io("read", path, e))?;
    let plan = Plan::from_json(&text).and_then(|plan| check(&plan, model).map(|()| plan));
    plan.map_err(|e| e.at(path.display()))
}
