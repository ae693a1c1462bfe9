//! `tiepack unpack`: safetensors, config.json and ties.json again.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::Serialize;

use super::args::UnpackArgs;
use super::output::{Output, OutputKind, refusal};
use super::{files, guard};
use crate::artifact::open::open;
use crate::error::{Error, Result};
use crate::progress::Progress;
use crate::save;
use crate::unpack::unpack;

/// What was written.
#[derive(Debug, Serialize)]
pub struct Unpacked {
    pub files: Vec<Written>,
    /// Tensors of each element type, by its name.
    pub types: BTreeMap<&'static str, usize>,
}

#[derive(Debug, Serialize)]
pub struct Written {
    pub path: PathBuf,
    pub bytes: u64,
    /// The file was there with this content.
    pub kept: bool,
}

/// # Errors
/// Verification when the artifact is damaged; Input when a file cannot be written, or is there with other content and
/// `--force` is not given. In both cases nothing has been written.
pub fn run(args: &UnpackArgs, progress: &dyn Progress) -> Result<Unpacked> {
    let artifact = files::only_artifact(&args.artifact)?;
    let (weights, folder) = target(&args.output)?;
    let beside = [weights.with_file_name("config.json"), weights.with_file_name("ties.json")];
    let outputs = [&weights].into_iter().chain(beside.iter().filter(|_| folder));
    let outputs: Vec<Output> = outputs.map(|path| OutputKind::Anonymous.at(path)).collect();
    // What is there may be just what is to be written: that is known once there is something to compare.
    guard::outputs(&outputs, std::slice::from_ref(&artifact), true)?;
    progress.begin("decode the artifact", 0);
    let model = open(&artifact)?.model;
    let unpacked = unpack(&model)?;
    progress.end();

    let mut contents = vec![(weights, unpacked.weights)];
    if folder {
        let [config, ties] = beside;
        contents.extend(unpacked.config.map(|text| (config, text.into_bytes())));
        contents.extend(unpacked.ties.map(|text| (ties, text.into_bytes())));
    }
    // All of them before the first is written: half a model is worse than none.
    let there =
        contents.iter().map(|(path, content)| same(path, content, args.writing.force)).collect::<Result<Vec<_>>>()?;
    let mut files = Vec::new();
    for ((path, content), kept) in contents.into_iter().zip(there) {
        if !kept {
            save::save(&path, &content)?;
        }
        files.push(Written { path, bytes: content.len() as u64, kept });
    }
    Ok(Unpacked { files, types: unpacked.types })
}

/// The weights file to write, and whether it is to be one file of a folder: a name that does not end in `.safetensors` is
/// that of a folder.
fn target(output: &Path) -> Result<(PathBuf, bool)> {
    if output.extension().is_some_and(|e| e == "safetensors") && !output.is_dir() {
        return Ok((output.to_path_buf(), false));
    }
    if output.exists() && !output.is_dir() {
        return Err(Error::input(format!("{} is neither a folder nor a .safetensors file", output.display()))
            .hint("name a file that ends in .safetensors, or a folder"));
    }
    std::fs::create_dir_all(output).map_err(|e| Error::io("create", output, e))?;
    Ok((output.join("model.safetensors"), true))
}

/// Whether a file is there with this content. One with other content is somebody's work.
fn same(path: &Path, content: &[u8], force: bool) -> Result<bool> {
    if !path.exists() {
        return Ok(false);
    }
    let found = std::fs::read(path).map_err(|e| Error::io("read", path, e))?;
    if found == content {
        return Ok(true);
    }
    // A configuration that says the same in another order or with other spaces need not be touched.
    let json = |bytes: &[u8]| serde_json::from_slice::<serde_json::Value>(bytes).ok();
    if path.extension().is_some_and(|e| e == "json") && json(&found).is_some_and(|found| Some(found) == json(content)) {
        return Ok(true);
    }
    if force {
        return Ok(false);
    }
    Err(refusal(path, "it is already there with other content"))
}
