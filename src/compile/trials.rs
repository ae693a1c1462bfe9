//! Every trial of a search as a line of JSON, and a search that goes on from such lines.
//!
//! Trials follow from their arguments, so one that stands in the log need not be made again: a search that was ended goes the
//! same way to where it was, at no cost, and on from there.

use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Instant;

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::plan::evaluator::{Evaluator, Fidelity, Packed, Probe, Threshold};
use crate::plan::moves::Candidate;

/// First line: what run the log belongs to.
#[derive(Debug, Serialize, Deserialize)]
struct LogHeader {
    /// Version of the log.
    search: u32,
    /// Digest of the model, the calibration tokens and all options that trials depend on.
    run: String,
}

const VERSION: u32 = 2;

/// One trial.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Line {
    trial: usize,
    name: String,
    /// Digest of the scheme.
    scheme: String,
    /// Digest of the scheme of the base, for what is measured against one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    base: Option<String>,
    seconds: f64,
    #[serde(flatten)]
    found: Found,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Found {
    #[serde(rename = "look")]
    Probe(Probe),
    Packed(Packed),
    /// The same, healed for a few steps only.
    Rough(Packed),
    /// Nats that a byte buys where this scheme is the base.
    Price(f64),
}

impl Line {
    fn key(&self) -> Key {
        let kind = match self.found {
            Found::Probe(_) => TrialKind::Probe,
            Found::Packed(_) => TrialKind::Pack(Fidelity::Full),
            Found::Rough(_) => TrialKind::Pack(Fidelity::Rough),
            Found::Price(_) => TrialKind::Price,
        };
        (kind, self.base.clone(), self.scheme.clone())
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum TrialKind {
    Probe,
    Pack(Fidelity),
    Price,
}

type Key = (TrialKind, Option<String>, String);

/// An evaluator whose trials are logged and, where the log has them, not made again.
pub(super) struct Logged<J> {
    evaluator: J,
    log: Option<(PathBuf, File)>,
    known: HashMap<Key, Found>,
    trial: usize,
    base: Option<(Candidate, Packed)>,
    /// Whether the base has been set in the evaluator.
    base_is_set: bool,
}

/// Whether a file that begins so is the log of a search, of whatever version.
pub fn is_log(start: &[u8]) -> bool {
    let line = start.split(|b| *b == b'\n').next().unwrap_or_default();
    serde_json::from_slice::<LogHeader>(line).is_ok()
}

impl<J: Evaluator> Logged<J> {
    /// Logs to `path`; goes on from what is there with `resume`, or begins anew.
    ///
    /// # Errors
    /// Input, when the file cannot be read or written, or is the log of another run.
    pub fn new(evaluator: J, path: Option<&Path>, resume: bool, run: &str) -> Result<Self> {
        let mut logged =
            Logged { evaluator, log: None, known: HashMap::new(), trial: 0, base: None, base_is_set: false };
        let Some(path) = path else { return Ok(logged) };
        let mut kept = String::new();
        if resume && path.exists() {
            let text = std::fs::read_to_string(path).map_err(|e| Error::io("read", path, e))?;
            kept = logged.recall(&text, run).map_err(|e| e.at(path.display()))?;
        }
        let head = serde_json::to_string(&LogHeader { search: VERSION, run: run.to_string() }).unwrap_or_default();
        let text = if kept.is_empty() { head + "\n" } else { kept };
        // The incomplete last line of an interrupted run is dropped.
        std::fs::write(path, text).map_err(|e| Error::io("write", path, e))?;
        let file = OpenOptions::new().append(true).open(path).map_err(|e| Error::io("write", path, e))?;
        logged.log = Some((path.to_path_buf(), file));
        Ok(logged)
    }

    /// Takes the trials of a log over; returns its whole lines.
    fn recall(&mut self, text: &str, run: &str) -> Result<String> {
        let mut lines = text.split_inclusive('\n');
        let first = lines.next().unwrap_or_default();
        let head: LogHeader = serde_json::from_str(first)
            .map_err(|e| Error::input(format!("not the log of a search: {e}")).hint("start anew without --resume"))?;
        if head.search != VERSION || head.run != run {
            return Err(Error::input(
                "the log is of another run: its model, calibration tokens, cap or options differ",
            )
            .hint("repeat the command line that wrote it, or start anew without --resume"));
        }
        let mut kept = first.to_string();
        for (at, line) in lines.enumerate() {
            match serde_json::from_str::<Line>(line) {
                Ok(found) => {
                    kept.push_str(line);
                    self.trial = self.trial.max(found.trial + 1);
                    self.known.insert(found.key(), found.found);
                }
                // A run that was killed may have left half a line.
                Err(_) if !line.ends_with('\n') => {}
                Err(e) => return Err(Error::input(format!("line {} is no trial: {e}", at + 2))),
            }
        }
        Ok(kept)
    }

    fn digest(&self) -> Option<String> {
        self.base.as_ref().map(|(base, _)| base.scheme.digest())
    }

    fn write(&mut self, candidate: &Candidate, base: Option<String>, seconds: f64, found: Found) -> Result<()> {
        let (name, scheme) = (candidate.change.to_string(), candidate.scheme.digest());
        let line = Line { trial: self.trial, name, scheme, base, seconds, found };
        self.trial += 1;
        if let Some((path, file)) = &mut self.log {
            let text = serde_json::to_string(&line).unwrap_or_default() + "\n";
            // At once: the log of a run that is killed is what it goes on from.
            file.write_all(text.as_bytes()).map_err(|e| Error::io("write", path, e))?;
        }
        self.known.insert(line.key(), line.found);
        Ok(())
    }

    /// Those of `candidates` that the log does not have.
    fn unknown(&self, kind: TrialKind, base: &Option<String>, candidates: &[Candidate]) -> Vec<Candidate> {
        let known = |c: &&Candidate| self.known.contains_key(&(kind, base.clone(), c.scheme.digest()));
        candidates.iter().filter(|c| !known(c)).cloned().collect()
    }

    fn get(&self, kind: TrialKind, base: &Option<String>, candidate: &Candidate) -> Result<Found> {
        let found = self.known.get(&(kind, base.clone(), candidate.scheme.digest()));
        found.cloned().ok_or_else(|| Error::compute(format!("nobody judged {}", candidate.change)))
    }

    /// Sets the base in the evaluator, if that was not done yet: a search that only repeats its log needs none.
    fn settle_now(&mut self) -> Result<()> {
        if let (Some((base, packed)), false) = (&self.base, self.base_is_set) {
            self.evaluator.set_base(base, packed)?;
            self.base_is_set = true;
        }
        Ok(())
    }
}

impl<J: Evaluator> Evaluator for Logged<J> {
    fn pack(&mut self, candidates: &[Candidate], fidelity: Fidelity, limit: f64) -> Result<Vec<Packed>> {
        let missing = self.unknown(TrialKind::Pack(fidelity), &None, candidates);
        if !missing.is_empty() {
            let start = Instant::now();
            let packed = self.evaluator.pack(&missing, fidelity, limit)?;
            let seconds = start.elapsed().as_secs_f64() / missing.len() as f64;
            for (candidate, packed) in missing.iter().zip(packed) {
                let found = if fidelity == Fidelity::Full { Found::Packed(packed) } else { Found::Rough(packed) };
                self.write(candidate, None, seconds, found)?;
            }
        }
        let packed = |c: &Candidate| match self.get(TrialKind::Pack(fidelity), &None, c)? {
            Found::Packed(packed) | Found::Rough(packed) => Ok(packed),
            _ => Err(Error::compute("a trial of another kind")),
        };
        candidates.iter().map(packed).collect()
    }

    fn set_base(&mut self, base: &Candidate, packed: &Packed) -> Result<f64> {
        (self.base, self.base_is_set) = (Some((base.clone(), packed.clone())), false);
        if let Some(Found::Price(price)) = self.known.get(&(TrialKind::Price, None, base.scheme.digest())) {
            return Ok(*price);
        }
        let start = Instant::now();
        let price = self.evaluator.set_base(base, packed)?;
        self.base_is_set = true;
        self.write(base, None, start.elapsed().as_secs_f64(), Found::Price(price))?;
        Ok(price)
    }

    fn probe(&mut self, candidates: &[Candidate], threshold: &Threshold) -> Result<Vec<Probe>> {
        let base = self.digest();
        let missing = self.unknown(TrialKind::Probe, &base, candidates);
        if !missing.is_empty() {
            self.settle_now()?;
            let start = Instant::now();
            let probes = self.evaluator.probe(&missing, threshold)?;
            let seconds = start.elapsed().as_secs_f64() / missing.len() as f64;
            for (candidate, probe) in missing.iter().zip(probes) {
                self.write(candidate, base.clone(), seconds, Found::Probe(probe))?;
            }
        }
        let probe = |c: &Candidate| match self.get(TrialKind::Probe, &base, c)? {
            Found::Probe(probe) => Ok(probe),
            _ => Err(Error::compute("a trial of another kind")),
        };
        candidates.iter().map(probe).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::moves::Move;
    use crate::plan::scheme::Scheme;

    /// Counts what it is asked.
    struct Counting<'a>(&'a mut usize);

    impl Evaluator for Counting<'_> {
        fn pack(&mut self, candidates: &[Candidate], _: Fidelity, _: f64) -> Result<Vec<Packed>> {
            *self.0 += candidates.len();
            let packed = |_| Packed {
                step: 0.1,
                bytes: 7,
                fits: true,
                predicted: 1.0 / 3.0,
                rows: vec![0.1, 1e-17],
                complete: true,
            };
            Ok(candidates.iter().map(packed).collect())
        }

        fn set_base(&mut self, _: &Candidate, _: &Packed) -> Result<f64> {
            *self.0 += 1;
            Ok(1.0 / 7.0)
        }

        fn probe(&mut self, candidates: &[Candidate], _: &Threshold) -> Result<Vec<Probe>> {
            *self.0 += candidates.len();
            let probe = |_| Probe { kl: 0.3, error: 0.1, complete: false, saved: 9.0, predicted: 2.0 };
            Ok(candidates.iter().map(probe).collect())
        }
    }

    fn go(path: &Path, resume: bool, run: &str) -> Result<(usize, String)> {
        let mut asked = 0;
        let mut evaluator = Logged::new(Counting(&mut asked), Some(path), resume, run)?;
        let one = Candidate { change: Move::Declared, scheme: Scheme::default() };
        let other = Candidate { change: Move::Apart, scheme: Scheme::default().tied(1, 2, 0) };
        evaluator.pack(std::slice::from_ref(&one), Fidelity::Rough, 1.0)?;
        let packed = evaluator.pack(std::slice::from_ref(&one), Fidelity::Full, 1.0)?.remove(0);
        let price = evaluator.set_base(&one, &packed)?;
        let probes = evaluator.probe(&[one, other], &Threshold { kl: 1.0, price, slack: 1.0 })?;
        Ok((asked, format!("{packed:?} {price:?} {probes:?}")))
    }

    #[test]
    fn what_is_in_the_log_is_not_done_again() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        let (asked, found) = go(&path, false, "a").unwrap();
        assert_eq!(asked, 5);
        let text = std::fs::read_to_string(&path).unwrap();
        assert_eq!(go(&path, true, "a").unwrap(), (0, found.clone()));
        assert_eq!(std::fs::read_to_string(&path).unwrap(), text);
        // Half a line at the end is what a killed run leaves: the base and the last look are done again.
        std::fs::write(&path, &text[..text.len() - 9]).unwrap();
        assert_eq!(go(&path, true, "a").unwrap(), (2, found.clone()));
        assert_eq!(go(&path, false, "b").unwrap(), (5, found));
        assert!(go(&path, true, "a").unwrap_err().message.contains("of another run"));
        for (bad, why) in [("", "not the log"), ("{}\n", "not the log"), ("[1]\n", "not the log")] {
            std::fs::write(&path, bad).unwrap();
            assert!(go(&path, true, "a").unwrap_err().message.contains(why), "{bad}");
        }
        std::fs::write(&path, text.replace("every matrix", "every \"matrix")).unwrap();
        assert!(go(&path, true, "a").unwrap_err().message.contains("is no trial"));
    }
}
