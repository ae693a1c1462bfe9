//! `tiepack inspect`: where the bytes go, and what they are worth.

use std::path::Path;

use serde::Serialize;

use super::args::InspectArgs;
use super::files;
use crate::artifact::open::open;
use crate::compile::predict::{Cost, predict};
use crate::compile::{Options, Source};
use crate::error::{Error, Result};
use crate::ingest::{self, folder};
use crate::inspect::{By, Depth, Distortion, Group, Inventory, artifact, model, of_bundle};
use crate::model::Model;
use crate::progress::Progress;
use crate::verify::verdict::Note;

/// A file looked into.
#[derive(Debug, Serialize)]
pub struct Inspected {
    #[serde(flatten)]
    pub inventory: Inventory,
    /// What the groups have in common.
    pub by: By,
    /// The same bytes by that, largest first.
    pub groups: Vec<Group>,
    /// The model that it was held against.
    pub against: Option<String>,
    /// Nats per token that all errors cost by the measured curvature; `None`: that was not asked for or is not known.
    pub predicted_loss: Option<f64>,
    pub notes: Vec<Note>,
    /// Lines to show of it; `None`: all.
    #[serde(skip)]
    pub shown: Option<usize>,
}

/// # Errors
/// A file is unusable or damaged, or the artifact is not of the model that it is held against.
pub fn run(args: &InspectArgs, progress: &dyn Progress) -> Result<Inspected> {
    let mut notes = Vec::new();
    let (mut against, mut predicted_loss) = (None, None);
    let depth = if args.indices { Depth::Indices } else { Depth::Container };
    let inventory = if let Some(brought) = files::bundle(&args.model)? {
        if args.against.is_some() {
            return Err(Error::usage(format!("--against wants an artifact, {} is a bundle", args.model.display()))
                .hint("inspect the artifact that it was made of"));
        }
        let place = |e: Error| e.at(args.model.display());
        let found = brought.artifact(None).map_err(place)?;
        of_bundle(&args.model, &found, (brought.bytes, brought.is_bare()), depth).map_err(place)?
    } else if let Some(found) = files::artifact(&args.model)? {
        let mut inventory = artifact(&found, depth)?;
        if let Some(path) = &args.against {
            predicted_loss = hold(args, (&found, path), &mut inventory, &mut notes, progress)?;
            against = Some(path.display().to_string());
        }
        inventory
    } else {
        if args.against.is_some() || args.indices {
            let option = if args.indices { "--indices" } else { "--against" };
            return Err(Error::usage(format!("{option} wants an artifact, {} is a model", args.model.display()))
                .hint("pack it first, or compare two models with `tiepack diff`"));
        }
        let located = folder::locate(&args.model, &args.files.overrides(None, (&[], None)))?;
        model(ingest::read(&located)?, args.files.retie())?.0
    };
    let groups = inventory.groups(args.tables.by);
    let shown = args.tables.rows.limit();
    Ok(Inspected { inventory, by: args.tables.by, groups, against, predicted_loss, notes, shown })
}

/// Holds an artifact against the model that it was made of; the predicted loss of all of it.
fn hold(
    args: &InspectArgs,
    (found, path): (&Path, &Path),
    inventory: &mut Inventory,
    notes: &mut Vec<Note>,
    progress: &dyn Progress,
) -> Result<Option<f64>> {
    let measuring = &args.measuring;
    let overrides = args.files.overrides(None, (&measuring.calib, Some(&args.reading)));
    let (located, original) = files::model(path, &args.files, &overrides)?;
    let mut curvature = measuring.curvature(&original).unwrap_or(Source::Flat);
    let calib = match curvature {
        Source::Measured if located.train.is_empty() && folder::sampled(&measuring.calib)?.is_none() => {
            curvature = Source::Flat;
            None
        }
        Source::Measured => Some(measuring.calibration((path, &original), &located, notes, progress)?),
        _ => None,
    };
    if matches!(curvature, Source::Flat) {
        notes.push(Note::NoCurvature);
    }
    let options = Options {
        seed: measuring.seed,
        calib_rows: measuring.rows(),
        cache: measuring.folder(notes)?,
        curvature,
        ..Options::new(0, measuring.effort)
    };
    let packed = open(found)?.model;
    let costs = predict(&original, &packed, calib.as_deref(), &options, progress)
        .map_err(|e| e.at(found.display()).hint(format!("was it packed from {}?", path.display())))?;
    Ok(fill(inventory, &original, &costs))
}

/// Puts what each stored tensor costs into the row that holds it.
fn fill(inventory: &mut Inventory, model: &Model, costs: &[Cost]) -> Option<f64> {
    let total = costs.iter().map(|cost| cost.loss).sum::<Option<f64>>();
    let of = |name: &String| (0..costs.len()).find(|i| model.spec(*i).name == *name);
    for row in &mut inventory.rows {
        let tensors: Vec<usize> = row.tensors.iter().filter_map(of).collect();
        let Some(first) = tensors.first() else { continue };
        // Energies add up, relative errors do not.
        let (mut energy, mut error) = (0.0, 0.0);
        for i in &tensors {
            let own: f64 = model.stored[*i].data.iter().map(|v| f64::from(v * v)).sum();
            energy += own;
            error += own * costs[*i].relative_error.powi(2);
        }
        let predicted_loss = tensors.iter().map(|i| costs[*i].loss).sum::<Option<f64>>();
        row.fidelity = Some(Distortion {
            relative_error: if error > 0.0 { (error / energy).sqrt() } else { 0.0 },
            predicted_loss,
            loss_share: predicted_loss.zip(total).map(|(loss, total)| if total > 0.0 { loss / total } else { 0.0 }),
            gaussian_bound: costs[*first].bound.filter(|_| tensors.len() == 1),
        });
    }
    total
}
