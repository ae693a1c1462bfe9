//! What gives way to an output: nothing but a file that shows by its content that tiepack wrote it, a file of its kind.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use super::{files, frontier};
use crate::bundle;
use crate::compile::trials;
use crate::error::{Error, Result};
use crate::heal::state;
use crate::report;

/// Bytes at either end of a file that are looked at.
const SEEN: usize = 1 << 16;

/// A file that a command is to write.
#[derive(Debug, Clone)]
pub struct Output {
    pub path: PathBuf,
    pub kind: OutputKind,
}

/// What is to be written, which tells whether a file that is there is of that kind and of tiepack.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum OutputKind {
    Artifact,
    /// `--report`.
    Page,
    /// `--svg`.
    Picture,
    /// `--csv`.
    Table,
    /// The script of a bundle.
    Bundle,
    /// The weights that a bundle reads, which is this one.
    Weights(PathBuf),
    /// `--search-log`.
    SearchLog,
    /// `--heal-checkpoint`.
    HealState,
    /// A page of `man`.
    Manual,
    /// Plans and configurations, which people write as well; losses and unpacked models, which look like anybody's.
    Anonymous,
}

impl OutputKind {
    pub fn at(self, path: impl Into<PathBuf>) -> Output {
        Output { path: path.into(), kind: self }
    }

    fn name(&self) -> &'static str {
        match self {
            OutputKind::Artifact => "artifact",
            OutputKind::Page => "page",
            OutputKind::Picture => "picture",
            OutputKind::Table => "table",
            OutputKind::Bundle => "bundle",
            OutputKind::Weights(_) => "weights of the bundle beside it",
            OutputKind::SearchLog => "log of a search",
            OutputKind::HealState => "state of a healing",
            OutputKind::Manual => "manual page",
            OutputKind::Anonymous => "file",
        }
    }

    /// Whether tiepack wrote `path`, and wrote such a file.
    fn wrote(&self, path: &Path) -> std::io::Result<bool> {
        let (head, tail) = ends(path)?;
        let holds = |part: &[u8], mark: &str| part.windows(mark.len()).any(|at| at == mark.as_bytes());
        Ok(match self {
            OutputKind::Artifact => files::begins_as_artifact(&head),
            OutputKind::Page => head.starts_with(b"<!doctype html>") && holds(&head, report::MARK),
            OutputKind::Picture => head.starts_with(b"<svg ") && holds(&head, report::MARK),
            OutputKind::Table => head.starts_with(frontier::TABLE_HEAD.as_bytes()),
            OutputKind::Bundle => bundle::is_bundle(&head) || bundle::is_bundle(&tail),
            OutputKind::Weights(script) => {
                // That script says what it reads.
                let (head, _) = ends(script).unwrap_or_default();
                bundle::reads(&head, File::open(path)?)?
            }
            OutputKind::SearchLog => trials::is_log(&head),
            OutputKind::HealState => state::is_state(&head),
            OutputKind::Manual => holds(&head, ".TH tiepack"),
            OutputKind::Anonymous => false,
        })
    }
}

impl Output {
    /// Refuses to replace what tiepack is not seen to have written. A file of no bytes holds nothing to lose.
    ///
    /// # Errors
    /// Input, naming the file.
    pub fn check(&self) -> Result<()> {
        let there = std::fs::metadata(&self.path).is_ok_and(|file| file.len() > 0);
        if !there || self.kind.wrote(&self.path).map_err(|e| Error::io("read", &self.path, e))? {
            return Ok(());
        }
        let what = match self.kind {
            OutputKind::Anonymous => "it is already there".to_string(),
            _ => format!("a file is there which is no {} that tiepack wrote", self.kind.name()),
        };
        Err(refusal(&self.path, &what))
    }
}

/// The refusal to replace a file, `what` says why.
pub fn refusal(path: &Path, what: &str) -> Error {
    Error::input(format!("cannot write {}: {what}", path.display()))
        .hint("name another place, or replace it with --force")
}

/// The first bytes of a file and its last.
fn ends(path: &Path) -> std::io::Result<(Vec<u8>, Vec<u8>)> {
    let mut file = File::open(path)?;
    let (mut head, mut tail) = (Vec::new(), Vec::new());
    file.by_ref().take(SEEN as u64).read_to_end(&mut head)?;
    let from = file.metadata()?.len().saturating_sub(SEEN as u64);
    file.seek(SeekFrom::Start(from))?;
    file.take(SEEN as u64).read_to_end(&mut tail)?;
    Ok((head, tail))
}
