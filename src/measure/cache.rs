//! Keeps statistics on disk: they depend on the model and the calibration tokens alone, and cost most of a pack.

use std::io::Write;
use std::path::{Path, PathBuf};

use super::Statistics;
use super::curvature::{Curvature, Factors};
use crate::error::{Error, Result};
use crate::model::Model;

/// Changes whenever the figures that measuring gives change.
const VERSION: u32 = 1;

/// Name of the file for a model, calibration tokens and settings: blake3 of all that the statistics depend on.
pub fn key(model: &Model, tokens: &[u16], rows: usize, seed: u64) -> String {
    let mut hash = blake3::Hasher::new();
    let mut field = |bytes: &[u8]| {
        hash.update(&(bytes.len() as u64).to_le_bytes());
        hash.update(bytes);
    };
    field(&VERSION.to_le_bytes());
    field(model.config.to_json().as_bytes());
    field(&model.source.iter().flat_map(|s| (*s as u64).to_le_bytes()).collect::<Vec<u8>>());
    for stored in &model.stored {
        field(&stored.data.iter().flat_map(|v| v.to_le_bytes()).collect::<Vec<u8>>());
    }
    field(&tokens.iter().flat_map(|t| t.to_le_bytes()).collect::<Vec<u8>>());
    field(&(rows as u64).to_le_bytes());
    field(&seed.to_le_bytes());
    hash.finalize().to_hex().to_string()
}

fn file(folder: &Path, key: &str) -> PathBuf {
    folder.join(format!("{key}.stats"))
}

/// Statistics of `tokens` tokens kept under `key`, if there are any and they are whole: a damaged file counts as none.
pub fn load(folder: &Path, key: &str, model: &Model, tokens: usize) -> Option<Statistics> {
    let bytes = std::fs::read(file(folder, key)).ok()?;
    let (body, check) = bytes.split_last_chunk::<32>()?;
    if blake3::hash(body).as_bytes() != check {
        return None;
    }
    let (words, []) = body.as_chunks::<4>() else { return None };
    let mut values = words.iter().map(|b| f32::from_le_bytes(*b));
    let mut take = |n: usize| -> Option<Vec<f32>> {
        let out: Vec<f32> = values.by_ref().take(n).collect();
        (out.len() == n).then_some(out)
    };
    let mut curvature = Vec::with_capacity(model.stored.len());
    for i in 0..model.stored.len() {
        curvature.push(match (Factors::output_len(model, i), model.shape(i)) {
            (Some(output), &[rows, cols]) => {
                Curvature::Matrix(Factors { rows, cols, input: take(cols * cols)?, output: take(output)? })
            }
            _ => Curvature::Vector(take(model.stored[i].data.len())?),
        });
    }
    let correction = take(model.stored.len())?.into_iter().map(f64::from).collect();
    values.next().is_none().then_some(Statistics { curvature, correction, tokens })
}

/// Keeps `statistics` under `key`.
///
/// # Errors
/// If the folder cannot be written.
pub fn save(folder: &Path, key: &str, statistics: &Statistics) -> Result<()> {
    std::fs::create_dir_all(folder).map_err(|e| Error::io("create", folder, e))?;
    let mut body = Vec::new();
    let mut put = |values: &[f32]| values.iter().for_each(|v| body.extend(v.to_le_bytes()));
    for c in &statistics.curvature {
        match c {
            Curvature::Matrix(f) => {
                put(&f.input);
                put(&f.output);
            }
            Curvature::Vector(v) => put(v),
        }
    }
    put(&statistics.correction.iter().map(|c| *c as f32).collect::<Vec<f32>>());
    let check = blake3::hash(&body);
    let path = file(folder, key);
    let written = tempfile::NamedTempFile::new_in(folder).and_then(|mut temporary| {
        temporary.write_all(&body)?;
        temporary.write_all(check.as_bytes())?;
        temporary.persist(&path).map_err(|e| e.error)?;
        Ok(())
    });
    written.map_err(|e| Error::io("write", &path, e))
}
