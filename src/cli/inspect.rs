//! `tiepack inspect`: where the bytes go.

use super::args::InspectArgs;
use super::files;
use crate::error::Result;
use crate::ingest::{self, folder};
use crate::inspect::{Inventory, artifact, model};

/// # Errors
/// A file is unusable or damaged.
pub fn run(args: &InspectArgs) -> Result<Inventory> {
    if files::is_artifact(&args.model)? {
        return artifact(&args.model);
    }
    let located = folder::locate(&args.model, &args.files.overrides(None, &[]))?;
    model(ingest::read(&located)?, args.files.retie())
}
