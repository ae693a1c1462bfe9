//! How a command comes by the curvature of a model's loss: `--calib`, `--statistics`, `--cache` and what goes with them.

use std::path::{Path, PathBuf};

use super::args::Measuring;
use super::{files, given};
use crate::compile::Source;
use crate::error::{Error, Result};
use crate::eval::sample::sample;
use crate::ingest::folder::{self, SELF};
use crate::ingest::tokens::encode::Encoder;
use crate::ingest::{Located, Overlap, overlap};
use crate::model::Model;
use crate::progress::Progress;
use crate::verify::verdict::Note;

impl Measuring {
    /// Where the curvature of `model` comes from.
    ///
    /// # Errors
    /// The statistics are unusable, or there is no network to measure any with.
    pub fn curvature(&self, model: &Model) -> Result<Source> {
        let curvature = given::curvature(self.statistics.as_deref(), model)?;
        if matches!(curvature, Source::Measured) {
            model.network().map_err(|e| match e.hint {
                Some(hint) => Error { hint: Some(format!("{hint}; or give curvature with --statistics")), ..e },
                None => e,
            })?;
        }
        Ok(curvature)
    }

    /// Rows to measure on; `None`: as the effort says.
    pub fn rows(&self) -> Option<usize> {
        // More rows than there are is all of them.
        self.calib_rows.map(|rows| rows.limit().unwrap_or(usize::MAX))
    }

    /// The calibration tokens of the model at a path, without the rows that share text with the validation tokens.
    ///
    /// # Errors
    /// There are none, they are unusable, or share text with the validation tokens.
    pub fn calibration(
        &self,
        (path, model): (&Path, &Model),
        located: &Located,
        notes: &mut Vec<Note>,
        progress: &dyn Progress,
    ) -> Result<Vec<u32>> {
        if let Some(tokens) = folder::sampled(&self.calib)? {
            return self.written(tokens, model, located, progress);
        }
        let (train, val) = (&located.train, &located.val);
        if train.is_empty() {
            let model = path.display();
            return Err(Error::input(format!("no calibration tokens: there is no train_*.bin beside {model}"))
                .hint(format!("name tokens or text with --calib, let the model write some with --calib {SELF}65536, or pack with --lossless, which needs none")));
        }
        let vocab = model.network()?.vocab_size();
        let train = files::shards(train, &located.reading, vocab)?;
        // Also with --no-eval: the artifact will be judged on these tokens sooner or later.
        let val = files::shards(val, &located.reading, vocab)?;
        let (mut shared, mut longest, mut start) = (Vec::new(), None::<Overlap>, 0);
        for shard in &train {
            for val in &val {
                let Some(found) = overlap::find(&shard.tokens, &val.tokens) else { continue };
                if !self.allow_overlap {
                    overlap::refuse(&found, (&shard.path, &shard.tokens), &val.path)?;
                }
                shared.extend(found.runs.iter().map(|run| run.start + start..run.end + start));
                longest = longest.into_iter().chain([found]).max_by_key(|found| found.tokens);
            }
            start += shard.tokens.len();
        }
        let given: Vec<u32> = train.into_iter().flat_map(|shard| shard.tokens).collect();
        let length = model.network()?.context();
        let tokens = match longest {
            None => given,
            Some(longest) if self.allow_overlap => {
                notes.push(Note::Overlap(longest.tokens));
                given
            }
            Some(longest) => {
                let (kept, left_out) = overlap::without(&given, &shared, length);
                overlap::enough(given.len(), kept.len())?;
                notes.push(Note::LeftOut { rows: left_out, of: given.len().div_ceil(length), longest: longest.tokens });
                kept
            }
        };
        fill_a_row(tokens.len(), length)?;
        Ok(tokens)
    }

    /// Tokens that the model writes itself. They begin with what its tokenizer puts before a text.
    fn written(&self, tokens: usize, model: &Model, located: &Located, progress: &dyn Progress) -> Result<Vec<u32>> {
        let net = model.network()?;
        fill_a_row(tokens, net.context())?;
        // Where it is a mere table of lengths no text begins with anything.
        let encoder = located.tokenizer.as_deref().and_then(|path| Encoder::read(path).ok());
        let start = encoder.and_then(|encoder| encoder.start()).filter(|id| (*id as usize) < net.vocab_size());
        progress.begin("let the model write", tokens as u64);
        let params = model.params()?;
        let written = sample((net, &params), tokens, (self.seed, start), &|n| progress.advance(n));
        progress.end();
        written.map_err(|e| model.full(e, 0, net.context()))
    }

    /// The folder for measured statistics, there by now; `None`: none are kept.
    ///
    /// # Errors
    /// A folder that `--cache` names cannot be made.
    pub fn folder(&self, notes: &mut Vec<Note>) -> Result<Option<PathBuf>> {
        if self.no_cache {
            return Ok(None);
        }
        if let Some(folder) = &self.cache {
            std::fs::create_dir_all(folder).map_err(|e| Error::io("create", folder, e))?;
            return Ok(Some(folder.clone()));
        }
        // Nobody asked for this one: that it cannot be had is worth a note, not a failure.
        let made = user_cache().ok_or_else(|| "there is no home folder".to_string()).and_then(|folder| {
            std::fs::create_dir_all(&folder).map(|()| folder.clone()).map_err(|e| format!("{}: {e}", folder.display()))
        });
        match made {
            Ok(folder) => Ok(Some(folder)),
            Err(why) => {
                notes.push(Note::NoCache(why));
                Ok(None)
            }
        }
    }
}

/// Refuses tokens that are not enough for one row of so many.
fn fill_a_row(found: usize, length: usize) -> Result<()> {
    let wanted = length + 1;
    if found < wanted {
        return Err(Error::input(format!("{found} calibration tokens fill no row, one takes {wanted}"))
            .hint("name other tokens with --calib, or pack with --lossless"));
    }
    Ok(())
}

/// `tiepack` in the folder that the platform has for caches.
fn user_cache() -> Option<PathBuf> {
    let set = |name: &str| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let home = |below: &str| set("HOME").map(|home| home.join(below));
    let base = if cfg!(windows) {
        set("LOCALAPPDATA")
    } else if cfg!(target_os = "macos") {
        home("Library/Caches")
    } else {
        set("XDG_CACHE_HOME").or_else(|| home(".cache"))
    };
    base.map(|base| base.join(Path::new("tiepack")))
}
