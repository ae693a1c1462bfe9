//! Trials in other processes, which share nothing but a folder: here or on other machines, started by us or by anybody.
//!
//! `N.task` is a task, `N.claim` marks it as taken by a worker, `N.result` holds its result, and `end` tells all workers to exit.
//! Files appear whole: they are written under another name and renamed.

use std::path::{Path, PathBuf};
use std::process::Child;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::plan::evaluator::{Evaluator, Fidelity, Packed, Probe, Threshold};
use crate::plan::moves::Candidate;

/// Time between two polls of the folder.
const PAUSE: Duration = Duration::from_millis(20);
/// A worker exits by itself when no task has come for so long.
const PATIENCE: Duration = Duration::from_secs(900);
const END: &str = "end";

#[derive(Debug, Clone, Serialize, Deserialize)]
struct Task {
    /// Digest of its run: a worker with other options would find another result.
    run: String,
    candidate: Candidate,
    what: What,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum What {
    /// Pack it; above `limit` nats the KL need not be measured to the end (`None`: no limit).
    Pack {
        #[serde(rename = "care")]
        fidelity: Fidelity,
        limit: Option<f64>,
    },
    /// Probe it as a change of a base.
    #[serde(rename = "look")]
    Probe {
        base: Candidate,
        packed: Packed,
        #[serde(rename = "worth")]
        threshold: Threshold,
    },
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Answer {
    Packed(Packed),
    #[serde(rename = "look")]
    Probe(Probe),
    Failed(String),
}

fn path(folder: &Path, task: usize, what: &str) -> PathBuf {
    folder.join(format!("{task:06}.{what}"))
}

/// Writes a file that is whole as soon as it is there.
fn put(path: &Path, value: &impl Serialize) -> Result<()> {
    let text =
        serde_json::to_string(value).map_err(|e| Error::compute(format!("cannot write {}: {e}", path.display())))?;
    let part = path.with_extension(format!("part{}", std::process::id()));
    std::fs::write(&part, text).map_err(|e| Error::io("write", &part, e))?;
    std::fs::rename(&part, path).map_err(|e| Error::io("write", path, e))
}

/// Hands trials out. The price of a byte is measured here.
pub(super) struct WorkerPool<J> {
    local: J,
    folder: PathBuf,
    workers: Vec<Child>,
    run: String,
    next: usize,
    base: Option<(Candidate, Packed)>,
}

impl<J: Evaluator> WorkerPool<J> {
    /// # Errors
    /// Input, when tasks of another run lie in the folder.
    pub fn new(local: J, folder: &Path, workers: Vec<Child>, run: &str) -> Result<Self> {
        let pool =
            WorkerPool { local, folder: folder.to_path_buf(), workers, run: run.to_string(), next: 0, base: None };
        match path(folder, 0, "task").exists() || folder.join(END).exists() {
            true => Err(Error::input(format!("{}: tasks of another search lie there", folder.display()))
                .hint("name an empty folder with --job-folder")),
            false => Ok(pool),
        }
    }

    fn ask(&mut self, tasks: Vec<Task>) -> Result<Vec<Answer>> {
        let first = self.next;
        for task in &tasks {
            put(&path(&self.folder, self.next, "task"), task)?;
            self.next += 1;
        }
        (first..self.next).map(|task| self.wait(task)).collect()
    }

    fn wait(&mut self, task: usize) -> Result<Answer> {
        let result = path(&self.folder, task, "result");
        while !result.exists() {
            for (at, worker) in self.workers.iter_mut().enumerate() {
                if let Ok(Some(status)) = worker.try_wait()
                    && !result.exists()
                {
                    return Err(Error::compute(format!("worker {at} ended ({status}) before the search did"))
                        .hint("what it said stands above; without --jobs the search runs in this process"));
                }
            }
            std::thread::sleep(PAUSE);
        }
        let text = std::fs::read_to_string(&result).map_err(|e| Error::io("read", &result, e))?;
        match serde_json::from_str(&text) {
            Ok(Answer::Failed(why)) => Err(Error::compute(format!("a worker failed: {why}"))),
            Ok(answer) => Ok(answer),
            Err(e) => Err(nonsense(&result, &e.to_string())),
        }
    }
}

fn nonsense(path: &Path, why: &str) -> Error {
    Error::compute(format!("{}: a worker answered nonsense: {why}", path.display()))
        .hint("are all workers of this version of tiepack?")
}

impl<J: Evaluator> Evaluator for WorkerPool<J> {
    fn pack(&mut self, candidates: &[Candidate], fidelity: Fidelity, limit: f64) -> Result<Vec<Packed>> {
        let task = |c: &Candidate| Task {
            run: self.run.clone(),
            candidate: c.clone(),
            what: What::Pack { fidelity, limit: limit.is_finite().then_some(limit) },
        };
        let answer = self.ask(candidates.iter().map(task).collect())?;
        let packed = |answer| match answer {
            Answer::Packed(packed) => Ok(packed),
            other => Err(nonsense(&self.folder, &format!("{other:?} to a pack"))),
        };
        answer.into_iter().map(packed).collect()
    }

    fn set_base(&mut self, base: &Candidate, packed: &Packed) -> Result<f64> {
        self.base = Some((base.clone(), packed.clone()));
        self.local.set_base(base, packed)
    }

    fn probe(&mut self, candidates: &[Candidate], threshold: &Threshold) -> Result<Vec<Probe>> {
        let base = self.base.clone();
        let (base, packed) = base.ok_or_else(|| Error::compute("nothing was made the base of a search"))?;
        let task = |c: &Candidate| Task {
            run: self.run.clone(),
            candidate: c.clone(),
            what: What::Probe { base: base.clone(), packed: packed.clone(), threshold: *threshold },
        };
        let answer = self.ask(candidates.iter().map(task).collect())?;
        let probe = |answer| match answer {
            Answer::Probe(probe) => Ok(probe),
            other => Err(nonsense(&self.folder, &format!("{other:?} to a look"))),
        };
        answer.into_iter().map(probe).collect()
    }
}

impl<J> Drop for WorkerPool<J> {
    /// Tells the workers to exit and waits for them. They may be at a task whose result is no longer needed.
    fn drop(&mut self) {
        // If this cannot be written the workers end when nothing comes.
        let _ = std::fs::write(self.folder.join(END), "");
        for worker in &mut self.workers {
            let _ = worker.wait();
        }
    }
}

/// Does the tasks of a folder until it is told to end; returns how many it did.
///
/// # Errors
/// Input, when the folder cannot be read. What goes wrong with a task is told to whoever waits for it.
pub(super) fn serve<J: Evaluator>(evaluator: &mut J, folder: &Path, run: &str) -> Result<usize> {
    let (mut done, mut next, mut last) = (0, 0, Instant::now());
    let mut base_digest: Option<String> = None;
    loop {
        if folder.join(END).exists() || !folder.is_dir() || last.elapsed() > PATIENCE {
            return Ok(done);
        }
        let task = path(folder, next, "task");
        if !task.exists() {
            std::thread::sleep(PAUSE);
            continue;
        }
        let claim = path(folder, next, "claim");
        next += 1;
        // Only one can make it.
        if std::fs::OpenOptions::new().write(true).create_new(true).open(&claim).is_err() {
            continue;
        }
        let answer = work(evaluator, &task, run, &mut base_digest).unwrap_or_else(|e| Answer::Failed(e.message));
        put(&path(folder, next - 1, "result"), &answer)?;
        (done, last) = (done + 1, Instant::now());
    }
}

fn work<J: Evaluator>(evaluator: &mut J, path: &Path, run: &str, base_digest: &mut Option<String>) -> Result<Answer> {
    let text = std::fs::read_to_string(path).map_err(|e| Error::io("read", path, e))?;
    let task: Task = serde_json::from_str(&text).map_err(|e| Error::input(format!("{}: {e}", path.display())))?;
    if task.run != run {
        return Err(Error::input("the worker was started for another model, or with other options"));
    }
    let one = std::slice::from_ref(&task.candidate);
    let nothing = || Error::compute("a judge that says nothing");
    match &task.what {
        What::Pack { fidelity, limit } => {
            let packed = evaluator.pack(one, *fidelity, limit.unwrap_or(f64::INFINITY))?.pop().ok_or_else(nothing)?;
            Ok(Answer::Packed(packed))
        }
        What::Probe { base, packed, threshold } => {
            let scheme = base.scheme.digest();
            if base_digest.as_ref() != Some(&scheme) {
                evaluator.set_base(base, packed)?;
                *base_digest = Some(scheme);
            }
            Ok(Answer::Probe(evaluator.probe(one, threshold)?.pop().ok_or_else(nothing)?))
        }
    }
}

#[cfg(test)]
mod tests {
    use std::process::Stdio;

    use super::*;
    use crate::plan::moves::{Move, Piece};
    use crate::plan::scheme::Scheme;

    /// Says the layer that it is asked to leave out.
    struct Echo;

    impl Evaluator for Echo {
        fn pack(&mut self, candidates: &[Candidate], _: Fidelity, limit: f64) -> Result<Vec<Packed>> {
            let bytes = |c: &Candidate| match &c.change {
                Move::Without(piece) => Ok(piece.layer as u64),
                other => Err(Error::compute(format!("{other} leaves nothing out"))),
            };
            let packed = |c: &Candidate| {
                let rows = vec![limit.min(9.0), 1.0 / 3.0];
                Ok(Packed { step: 0.1, bytes: bytes(c)?, fits: true, predicted: 0.0, rows, complete: true })
            };
            candidates.iter().map(packed).collect()
        }

        fn set_base(&mut self, _: &Candidate, _: &Packed) -> Result<f64> {
            Ok(0.5)
        }

        fn probe(&mut self, candidates: &[Candidate], threshold: &Threshold) -> Result<Vec<Probe>> {
            let probe = |_| Probe { kl: threshold.kl, error: 0.0, complete: true, saved: 1.0, predicted: 0.0 };
            Ok(candidates.iter().map(probe).collect())
        }
    }

    fn without(layer: usize) -> Candidate {
        Candidate { change: Move::Without(Piece { layer, branch: None }), scheme: Scheme::default() }
    }

    #[test]
    fn several_workers_do_each_task_once() {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().to_path_buf();
        let workers: Vec<_> = (0..3)
            .map(|_| {
                let folder = folder.clone();
                std::thread::spawn(move || serve(&mut Echo, &folder, "run").unwrap())
            })
            .collect();
        let mut pool = WorkerPool::new(Echo, &folder, Vec::new(), "run").unwrap();
        let names: Vec<Candidate> = (0..20).map(without).collect();
        let packed = pool.pack(&names, Fidelity::Full, f64::INFINITY).unwrap();
        assert_eq!(packed.iter().map(|p| p.bytes).collect::<Vec<_>>(), (0..20).collect::<Vec<_>>());
        assert_eq!(packed[7], Echo.pack(&names[7..8], Fidelity::Full, f64::INFINITY).unwrap()[0]);
        pool.set_base(&names[0], &packed[0]).unwrap();
        let threshold = Threshold { kl: 0.7, price: 0.1, slack: 1.0 };
        assert_eq!(pool.probe(&names[..2], &threshold).unwrap()[1].kl, 0.7);
        // What fails in a worker fails the search; the rest goes on working.
        assert!(
            pool.pack(&[Candidate { change: Move::Declared, ..without(0) }], Fidelity::Rough, 1.0)
                .unwrap_err()
                .message
                .contains("a worker failed: declared leaves nothing out")
        );
        assert_eq!(pool.pack(&names[..1], Fidelity::Full, 1.0).unwrap()[0].rows, [1.0, 1.0 / 3.0]);
        assert!(WorkerPool::new(Echo, &folder, Vec::new(), "run").is_err(), "a folder that was used");
        drop(pool);
        assert_eq!(workers.into_iter().map(|w| w.join().unwrap()).sum::<usize>(), 24);
    }

    #[test]
    fn dead_foreign_and_raving_workers_are_named() {
        let dir = tempfile::tempdir().unwrap();
        let dead = std::process::Command::new(std::env::current_exe().unwrap())
            .arg("--help")
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        let mut pool = WorkerPool::new(Echo, dir.path(), vec![dead], "run").unwrap();
        let refused = pool.pack(&[without(1)], Fidelity::Full, 1.0).unwrap_err();
        assert!(refused.message.starts_with("worker 0 ended"), "{}", refused.message);
        std::fs::write(path(dir.path(), 1, "result"), "[]").unwrap();
        assert!(pool.pack(&[without(1)], Fidelity::Full, 1.0).unwrap_err().message.contains("nonsense"));
        let task = |what: &str| work(&mut Echo, &path(dir.path(), 0, what), "other", &mut None).unwrap_err().message;
        assert!(task("task").contains("another model"));
    }
}
