//! A file appears whole or not at all: it is written beside its place and renamed into it, so that neither an error
//! nor a kill leaves half an artifact or takes away an old one.

use std::fs;
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};

use tempfile::{Builder, NamedTempFile};

use crate::error::{Error, Result};

/// Writes `bytes` to `path`, in place of what is there.
///
/// # Errors
/// Input, when the folder is missing or not writable, the disk is full, or `path` is something other than a file.
pub fn save(path: &Path, bytes: &[u8]) -> Result<()> {
    stage(path, bytes)?.commit()
}

/// A file that is complete on the disk but not yet in its place; it vanishes unless it is committed.
pub struct Staged {
    path: PathBuf,
    target: PathBuf,
    file: NamedTempFile,
}

/// Writes `bytes` beside `path`, so that they can be read back before they replace what is there.
///
/// # Errors
/// As [`save`].
pub fn stage(path: &Path, bytes: &[u8]) -> Result<Staged> {
    let mut staged = begin(path)?;
    staged.write(bytes)?;
    staged.file.as_file().sync_all().map_err(|e| Error::io("write", path, e))?;
    Ok(staged)
}

/// An empty file beside `path`, to be written part by part.
///
/// # Errors
/// As [`save`].
pub fn begin(path: &Path) -> Result<Staged> {
    let (target, file) = open_beside(path)?;
    Ok(Staged { path: path.to_path_buf(), target, file })
}

impl Staged {
    /// Appends bytes.
    ///
    /// # Errors
    /// Input, when the disk is full.
    pub fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.file.write_all(bytes).map_err(|e| Error::io("write", &self.path, e))
    }

    /// Where the bytes are for now.
    pub fn path(&self) -> &Path {
        self.file.path()
    }

    /// Puts the file in its place.
    ///
    /// # Errors
    /// As [`save`]; what was there before is untouched.
    pub fn commit(self) -> Result<()> {
        self.file.as_file().sync_all().map_err(|e| Error::io("write", &self.path, e))?;
        self.file.persist(&self.target).map_err(|e| Error::io("write", &self.path, e.error))?;
        // The rename lies in the folder; some file systems cannot sync one, and the file is in its place by now.
        let _ = fs::File::open(folder_of(&self.target)).and_then(|folder| folder.sync_all());
        Ok(())
    }
}

/// Finds out whether [`save`] could write there, so that hours of work do not end in an error. Leaves no trace.
///
/// # Errors
/// As [`save`].
pub fn check(path: &Path) -> Result<()> {
    open_beside(path).map(drop)
}

/// The file to replace, links followed, and a new one beside it that vanishes unless it is persisted.
fn open_beside(path: &Path) -> Result<(PathBuf, NamedTempFile)> {
    let target = match fs::metadata(path) {
        Ok(meta) if meta.is_file() => fs::canonicalize(path).map_err(|e| Error::io("write", path, e))?,
        // Renaming over a device or a pipe would destroy it.
        Ok(meta) => {
            let what = if meta.is_dir() { "a folder" } else { "not an ordinary file" };
            return Err(Error::input(format!("cannot write {}: it is {what}", path.display())).hint("name a file"));
        }
        Err(e) if e.kind() == ErrorKind::NotFound => path.to_path_buf(),
        Err(e) => return Err(Error::io("write", path, e)),
    };
    if target.file_name().is_none() {
        return Err(Error::input(format!("cannot write {}: it names no file", path.display())));
    }
    let folder = folder_of(&target);
    if !folder.is_dir() {
        return Err(Error::input(format!(
            "cannot write {}: folder {} does not exist",
            path.display(),
            folder.display()
        ))
        .hint("create the folder first"));
    }
    let mut builder = Builder::new();
    builder.prefix(".tiepack-").suffix(".partial");
    // Temporary files are private by default; this one becomes an ordinary file, with what the umask leaves.
    #[cfg(unix)]
    builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666));
    let file = builder.tempfile_in(folder).map_err(|e| {
        Error::input(format!("cannot write {}: folder {} takes no new file: {e}", path.display(), folder.display()))
            .hint("check the folder's permissions and the space left on its disk")
    })?;
    Ok((target, file))
}

fn folder_of(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}
