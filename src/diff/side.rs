//! One of two files.

use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use super::About;
use crate::artifact::open::{decode, structure};
use crate::artifact::read::{Parsed, parse};
use crate::error::{Error, Result};
use crate::inspect::{self, Depth, Inventory};
use crate::model::Model;

/// A file to compare.
pub struct Side {
    path: PathBuf,
    inventory: Option<Inventory>,
    settings: Map<String, Value>,
    pub(super) content: Content,
}

pub(super) enum Content {
    Nothing,
    Artifact { bytes: Vec<u8>, parsed: Parsed },
    Model(Model),
}

impl Side {
    /// An artifact, of which nothing is decoded.
    ///
    /// # Errors
    /// Input when it cannot be read, Verification when it is damaged; names the path.
    pub fn artifact(path: &Path) -> Result<Side> {
        let bytes = std::fs::read(path).map_err(|e| Error::io("read", path, e))?;
        let side = || {
            let parsed = parse(&bytes)?;
            let settings = structure(&parsed.header)?.0.fields;
            let inventory = Some(inspect::of_bytes(path, &bytes, Depth::Container)?);
            Ok((inventory, settings, parsed))
        };
        let (inventory, settings, parsed) = side().map_err(|e: Error| e.at(path.display()))?;
        Ok(Side { path: path.into(), inventory, settings, content: Content::Artifact { bytes, parsed } })
    }

    /// A model and the inventory of its files.
    pub fn model(path: &Path, inventory: Inventory, model: Model) -> Side {
        let settings = model.config.fields.clone();
        Side { path: path.into(), inventory: Some(inventory), settings, content: Content::Model(model) }
    }

    /// What a file is compared with that has been added or removed.
    pub fn nothing(path: &Path) -> Side {
        Side { path: path.into(), inventory: None, settings: Map::new(), content: Content::Nothing }
    }

    /// What it holds, decoded; `None` for nothing.
    ///
    /// # Errors
    /// Verification, when an artifact is damaged.
    pub fn decoded(&self) -> Result<Option<Model>> {
        match &self.content {
            Content::Nothing => Ok(None),
            Content::Artifact { bytes, .. } => {
                decode(bytes).map(|opened| Some(opened.model)).map_err(|e| e.at(self.path.display()))
            }
            Content::Model(model) => Ok(Some(model.clone())),
        }
    }

    pub fn is_nothing(&self) -> bool {
        matches!(self.content, Content::Nothing)
    }

    pub(super) fn is_model(&self) -> bool {
        matches!(self.content, Content::Model(_))
    }

    pub(super) fn inventory(&self) -> Option<&Inventory> {
        self.inventory.as_ref()
    }

    pub(super) fn settings(&self) -> &Map<String, Value> {
        &self.settings
    }

    pub(super) fn about(&self) -> About {
        let inventory = self.inventory.as_ref();
        About {
            path: self.path.display().to_string(),
            kind: inventory.map(|i| i.kind),
            arch: inventory.map(|i| i.arch.clone()),
            layers: inventory.map_or(0, |i| i.layers),
            copies: inventory.map_or_else(Vec::new, |i| i.copies.clone()),
            stored: inventory.map_or(0, |i| i.stored),
            weights: inventory.map_or(0, |i| i.weights),
            bytes: inventory.map_or(0, |i| i.bytes),
            bits_per_weight: inventory.and_then(|i| i.bits_per_weight),
        }
    }
}
