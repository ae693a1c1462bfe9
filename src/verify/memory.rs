//! What a model predicts on validation tokens, kept between verdicts: verifying the next artifact of the same model need not
//! run the original again.
//!
//! Kept is the residual stream after the last step, from which the head gives every probability bit for bit; the
//! probabilities themselves would be many times larger.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use safetensors::SafeTensors;
use safetensors::tensor::{Dtype, TensorView, serialize};

use crate::artifact::save::save;
use crate::error::{Error, Result};
use crate::eval::logits::{Residual, from_residual, with_residual};
use crate::eval::predictions::Predictions;
use crate::eval::windows::Windows;
use crate::model::Model;
use crate::nets::Params;

/// Changes whenever a forward pass gives other figures.
const VERSION: u32 = 1;
/// Bytes of one file: rows beyond are computed each time.
const MOST_BYTES: usize = 256 << 20;
const RESIDUAL: &str = "residual";
const HASH: &str = "blake3";

/// The residual streams of one model on some rows: those that a file holds, and those computed since.
pub(super) struct Memory {
    path: PathBuf,
    /// (rows, T, D) of the first rows, and D.
    known: Option<(Vec<f32>, usize)>,
    fresh: Mutex<BTreeMap<usize, Residual>>,
}

impl Memory {
    /// What `folder` holds of `model` on the inputs of `windows`; a damaged file counts as none.
    pub fn open(folder: &Path, model: &Model, windows: &Windows) -> Memory {
        let mut hash = blake3::Hasher::new();
        hash.update(&VERSION.to_le_bytes());
        hash.update(model.digest().as_bytes());
        hash.update(format!("{:?} {:?}", model.device().location(), model.precision()).as_bytes());
        hash.update(&(windows.length() as u64).to_le_bytes());
        for row in 0..windows.rows() {
            hash.update(&windows.input(row).iter().flat_map(|t| t.to_le_bytes()).collect::<Vec<u8>>());
        }
        let path = folder.join(format!("{}.residual.safetensors", hash.finalize().to_hex()));
        Memory { known: read(&path, windows.length()), path, fresh: Mutex::default() }
    }

    /// What the model predicts on some rows.
    ///
    /// # Errors
    /// If the forward pass fails.
    pub fn predict<'m>(
        &self,
        model: &'m Model,
        params: &Params,
        windows: &Windows,
        rows: Range<usize>,
    ) -> Result<Predictions<'m>> {
        let (net, length) = (model.network()?, windows.length());
        if let Some((known, width)) = &self.known
            && let Some(residual) = known.get(rows.start * length * width..rows.end * length * width)
        {
            return from_residual(net, params, residual, [rows.len(), length, *width]);
        }
        let (predictions, residual) = with_residual(net, params, windows, rows.clone())?;
        if self.known.is_none() && rows.end * length * residual.width * 4 <= MOST_BYTES {
            self.fresh.lock().unwrap_or_else(PoisonError::into_inner).insert(rows.start, residual);
        }
        Ok(predictions)
    }

    /// Writes down what was computed, unless the file has it.
    ///
    /// # Errors
    /// If the file cannot be written.
    pub fn keep(self, length: usize) -> Result<()> {
        let fresh = self.fresh.into_inner().unwrap_or_else(PoisonError::into_inner);
        let Some(width) = fresh.values().next().map(|r| r.width) else { return Ok(()) };
        let bytes: Vec<u8> = fresh.into_values().flat_map(|r| r.values).flat_map(f32::to_le_bytes).collect();
        let shape = vec![bytes.len() / (4 * length * width), length, width];
        let metadata = [(HASH.to_string(), blake3::hash(&bytes).to_hex().to_string())].into();
        let fail = |e| Error::compute(format!("cannot write {}: {e}", self.path.display()));
        let view = TensorView::new(Dtype::F32, shape, &bytes).map_err(fail)?;
        save(&self.path, &serialize([(RESIDUAL, view)], Some(metadata)).map_err(fail)?)
    }
}

fn read(path: &Path, length: usize) -> Option<(Vec<f32>, usize)> {
    let bytes = std::fs::read(path).ok()?;
    let (_, header) = SafeTensors::read_metadata(&bytes).ok()?;
    let file = SafeTensors::deserialize(&bytes).ok()?;
    let tensor = file.tensor(RESIDUAL).ok()?;
    let &[_, rows_of, width] = tensor.shape() else { return None };
    let hash = header.metadata().as_ref()?.get(HASH)?;
    let whole = rows_of == length && width > 0 && tensor.dtype() == Dtype::F32;
    if !whole || blake3::hash(tensor.data()).to_hex().as_str() != hash {
        return None;
    }
    let values = tensor.data().chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]]));
    Some((values.collect(), width))
}
