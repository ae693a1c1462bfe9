//! The user's own loss: a program of theirs is asked what weights are worth, before packing and after it.
//!
//! Every question starts the program anew, so that it holds no memory while the packer works. It gets one line of JSON, names
//! the losses of its rows in one line of JSON, and ends. formats/evaluator.md has the protocol.

use std::collections::VecDeque;
use std::io::{BufRead, BufReader, Read, Write};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::sync::{Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

#[cfg(unix)]
use nix::sys::signal::{Signal, killpg};
#[cfg(unix)]
use nix::unistd::Pid;
use serde::{Deserialize, Serialize};

use super::statistics::Estimate;
use crate::error::{Error, Result};
use crate::progress::Progress;

/// How often a waiting tiepack looks whether somebody wants it to end.
const PATIENCE: Duration = Duration::from_millis(50);
/// Most bytes of an answer: a million losses with all their digits.
const LONGEST: u64 = 32 << 20;
/// Last lines on stderr that an error repeats.
const REPEATED: usize = 8;

/// What the user's program found.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Judged {
    pub command: String,
    /// Losses of each of the two answers.
    pub rows: usize,
    /// Means, in the program's unit. `None`: the artifact was not held against a model.
    pub original: Option<f64>,
    pub packed: f64,
    /// Packed minus original, row by row.
    pub difference: Option<Estimate>,
}

/// A program that judges weights.
#[derive(Debug, Clone)]
pub struct Judge {
    /// For the shell.
    pub command: String,
    /// How long an answer may take.
    pub limit: Duration,
    /// Whether somebody wants the work to end. Only what is said while the program runs counts: a search that was ended before
    /// still wants its answer.
    pub stop: fn() -> bool,
}

/// The program that runs, if one does.
static RUNNING: Mutex<Option<Group>> = Mutex::new(None);

/// Ends the program that runs, with all that it started, as the process is about to end.
pub fn abandon() {
    if let Some(group) = RUNNING.lock().unwrap_or_else(PoisonError::into_inner).take() {
        group.end();
    }
}

/// A program and the processes that it started.
#[derive(Debug, Clone, Copy)]
struct Group {
    #[cfg(unix)]
    leader: Pid,
}

#[cfg(unix)]
impl Group {
    /// A group of its own for the program: a child of its own that outlives it would hold what the program held.
    fn lead(command: &mut Command) {
        std::os::unix::process::CommandExt::process_group(command, 0);
    }

    fn of(child: &Child) -> Group {
        Group { leader: Pid::from_raw(child.id().cast_signed()) }
    }

    /// Fails only where nobody of it is left.
    fn end(self) {
        let _ = killpg(self.leader, Signal::SIGKILL);
    }
}

/// Elsewhere the program alone is ended.
#[cfg(not(unix))]
impl Group {
    fn lead(_: &mut Command) {}

    fn of(_: &Child) -> Group {
        Group {}
    }

    fn end(self) {}
}

impl Judge {
    /// The losses of `weights`, which are a safetensors file of what `which` names, `original` or `packed`: at least one, all finite.
    ///
    /// # Errors
    /// Input, when the program cannot be started, fails, says nothing within the limit or something else than losses.
    pub fn losses(&self, which: &str, weights: &[u8], progress: &dyn Progress) -> Result<Vec<f64>> {
        let folder = tempfile::tempdir().map_err(|e| Error::io("write", &std::env::temp_dir(), e))?;
        let path = folder.path().join("model.safetensors");
        std::fs::write(&path, weights).map_err(|e| Error::io("write", &path, e))?;
        progress.begin(&format!("evaluate the {which} model"), 0);
        let question = serde_json::json!({"schema": 1, "evaluate": which, "weights": path.to_string_lossy()});
        let losses = self.ask(&question.to_string(), progress);
        progress.end();
        losses
    }

    /// Holds the losses of a packed model against those of the original, if there are some.
    ///
    /// # Errors
    /// Input, when they are not of the same number of rows.
    pub fn judged(&self, original: Option<&[f64]>, packed: &[f64]) -> Result<Judged> {
        let (command, rows) = (self.command.clone(), packed.len());
        if let Some(before) = original.filter(|before| before.len() != rows) {
            return Err(self.fault(format!("gave {} losses before and {rows} after", before.len()), "").hint(
                "losses are compared row by row: evaluate the same rows in the same order, whatever the weights",
            ));
        }
        let differences = original.map(|before| packed.iter().zip(before).map(|(a, b)| a - b).collect::<Vec<f64>>());
        let mean = |losses: &[f64]| Estimate::of(losses).value;
        let (original, packed) = (original.map(mean), mean(packed));
        Ok(Judged { command, rows, original, packed, difference: differences.as_deref().map(Estimate::of) })
    }

    fn ask(&self, question: &str, progress: &dyn Progress) -> Result<Vec<f64>> {
        let mut running = self.start()?;
        // Who does not read has ended, or will answer without it; what comes of that is seen below.
        let _ = running.child.stdin.take().map(|mut stdin| writeln!(stdin, "{question}"));
        let told = (self.stop)();
        let stopped = || !told && (self.stop)();
        let Some((status, answer)) = running.end(self.limit, &stopped, progress) else {
            if stopped() {
                return Err(Error::interrupted("the evaluator was at work"));
            }
            let limit = self.limit.as_secs_f64();
            return Err(self
                .fault(format!("gave no answer within {limit} s"), "")
                .hint("allow it more time with --evaluator-timeout"));
        };
        // Both pipes are closed by now.
        let said = running.stderr.take().and_then(|thread| thread.join().ok()).unwrap_or_default();
        if !status.success() {
            return Err(self.fault(format!("failed, {status}"), &said));
        }
        let text = answer.map_err(|e| self.fault(format!("cannot be read: {e}"), &said))?;
        self.read(&text, &said)
    }

    fn start(&self) -> Result<Running> {
        let (shell, flag) = if cfg!(windows) { ("cmd", "/C") } else { ("sh", "-c") };
        let mut command = Command::new(shell);
        command.arg(flag).arg(&self.command).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        Group::lead(&mut command);
        let mut child = command.spawn().map_err(|e| self.fault(format!("cannot be started: {e}"), ""))?;
        let group = Group::of(&child);
        *RUNNING.lock().unwrap_or_else(PoisonError::into_inner) = Some(group);
        let (send, answer) = channel();
        if let Some(stdout) = child.stdout.take() {
            std::thread::spawn(move || {
                let mut bytes = Vec::new();
                let read = stdout.take(LONGEST).read_to_end(&mut bytes);
                // Nobody waits any more after the limit.
                let _ = send.send(read.map(|_| String::from_utf8_lossy(&bytes).into_owned()));
            });
        }
        let stderr = child.stderr.take().map(|stderr| std::thread::spawn(move || last_lines(stderr)));
        Ok(Running { child, group, ended: false, answer, stderr })
    }

    fn read(&self, text: &str, said: &str) -> Result<Vec<f64>> {
        #[derive(Deserialize)]
        struct Answer {
            losses: Vec<f64>,
        }
        let hint = "it has to print one line, {\"losses\": [...]}, and nothing else; formats/evaluator.md says more";
        let mut lines = text.lines().filter(|line| !line.trim().is_empty());
        let Some(line) = lines.next() else {
            return Err(self.fault("ended without an answer", said).hint(hint));
        };
        let short: String = line.chars().take(80).collect();
        let infinite = ["NaN", "nan", "Infinity", "inf"].iter().any(|word| line.contains(word));
        let losses = match serde_json::from_str::<Answer>(line) {
            Ok(answer) if lines.next().is_none() => answer.losses,
            Ok(_) => return Err(self.fault("printed more than its answer", said).hint(hint)),
            Err(_) if infinite => return Err(self.fault(format!("gave a loss that is no number: {short}"), said)),
            Err(e) => return Err(self.fault(format!("answered {short:?}: {e}"), said).hint(hint)),
        };
        match losses.iter().find(|loss| !loss.is_finite()) {
            Some(loss) => Err(self.fault(format!("gave a loss that is no number: {loss}"), said)),
            None if losses.is_empty() => Err(self.fault("gave no losses", said).hint(hint)),
            None => Ok(losses),
        }
    }

    fn fault(&self, what: impl std::fmt::Display, said: &str) -> Error {
        let said = if said.is_empty() { String::new() } else { format!("; it said:\n{said}") };
        Error::input(format!("the evaluator `{}` {what}{said}", self.command))
    }
}

/// A program at work. It is ended when nobody wants its answer any more.
struct Running {
    child: Child,
    group: Group,
    /// By itself: what it left running is none of ours.
    ended: bool,
    answer: Receiver<std::io::Result<String>>,
    stderr: Option<JoinHandle<String>>,
}

impl Running {
    /// How it ended and all it printed; `None`: it did not end in time, or is wanted no more.
    fn end(
        &mut self,
        limit: Duration,
        stopped: &dyn Fn() -> bool,
        progress: &dyn Progress,
    ) -> Option<(ExitStatus, std::io::Result<String>)> {
        let started = Instant::now();
        let mut answer = None;
        while started.elapsed() < limit && !stopped() {
            progress.advance(0);
            if answer.is_none() {
                answer = match self.answer.recv_timeout(PATIENCE) {
                    Ok(answer) => Some(answer),
                    Err(RecvTimeoutError::Timeout) => continue,
                    Err(RecvTimeoutError::Disconnected) => Some(Ok(String::new())),
                };
            }
            // It may close its output some time before it ends.
            if let Ok(Some(status)) = self.child.try_wait() {
                self.ended = true;
                return answer.map(|answer| (status, answer));
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        None
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        RUNNING.lock().unwrap_or_else(PoisonError::into_inner).take();
        if self.ended {
            return;
        }
        self.group.end();
        // Both fail only where it has ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn last_lines(stream: impl Read) -> String {
    let mut last = VecDeque::new();
    for line in BufReader::new(stream).split(b'\n').map_while(|line| line.ok()) {
        if last.len() == REPEATED {
            last.pop_front();
        }
        last.push_back(String::from_utf8_lossy(&line).trim_end().to_string());
    }
    Vec::from(last).join("\n")
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;
    use crate::progress::Silent;

    fn asked(command: &str) -> std::result::Result<Vec<f64>, String> {
        let judge = Judge { command: command.into(), limit: Duration::from_millis(800), stop: || false };
        judge.losses("original", b"weights", &Silent).map_err(|e| e.message)
    }

    #[test]
    fn losses_are_read_and_the_question_is_what_it_says() {
        assert_eq!(asked(r#"cat > /dev/null; echo '{"losses": [2.5, 1e-3], "rows": 2}'"#), Ok(vec![2.5, 1e-3]));
        // Whoever does not read the question is believed as well.
        assert_eq!(asked(r#"echo '{"losses": [1]}'"#), Ok(vec![1.0]));
        let script = r#"read q; f=$(echo "$q" | sed 's/.*"weights":"//; s/".*//'); [ "$(cat $f)" = weights ] &&
            echo "$q" | grep -q '"evaluate":"original"' && echo '{"losses": [3]}'"#;
        assert_eq!(asked(script), Ok(vec![3.0]));
    }

    #[test]
    fn everything_else_is_an_error() {
        for (command, words) in [
            ("echo sorry >&2; exit 3", "failed, exit status: 3; it said:\nsorry"),
            ("kill -9 $$", "failed, signal: 9"),
            ("no-such-program-here", "failed, exit status: 127"),
            ("true", "ended without an answer"),
            ("sleep 30", "gave no answer within 0.8 s"),
            ("exec 1>&-; sleep 30", "gave no answer within 0.8 s"),
            ("echo loading; echo '{\"losses\": [1]}'", "answered \"loading\""),
            ("echo '{\"losses\": [1]}'; echo done", "printed more than its answer"),
            ("echo '{\"losses\": [1, NaN]}'", "a loss that is no number"),
            ("echo '{\"losses\": [1e999]}'", "answered"),
            ("echo '{\"losses\": []}'", "gave no losses"),
            ("echo '{\"loss\": 1}'", "missing field"),
            ("echo '{\"losses\": [1]}'; exit 1", "failed, exit status: 1"),
        ] {
            let told = asked(command).expect_err(command);
            assert!(told.contains(words), "{command}: {told}");
        }
    }

    /// A child that does not belong to the shell any more, and would write a file a second later.
    #[test]
    fn nothing_that_an_overdue_program_started_outlives_it() {
        let folder = tempfile::tempdir().unwrap();
        let late = folder.path().join("late");
        for ending in ["sleep 30", "exit 0"] {
            let child = format!("(sleep 2; echo alive > {}) & {ending}", late.display());
            let told = asked(&child).expect_err(&child);
            assert!(told.contains("gave no answer within 0.8 s"), "{child}: {told}");
        }
        std::thread::sleep(Duration::from_millis(2_500));
        assert!(!late.exists(), "a child went on");
    }

    #[test]
    fn a_program_that_is_wanted_no_more_is_ended() {
        static STOP: std::sync::atomic::AtomicBool = std::sync::atomic::AtomicBool::new(false);
        let stop = || STOP.load(std::sync::atomic::Ordering::Relaxed);
        let judge = Judge { command: "sleep 30".into(), limit: Duration::from_secs(30), stop };
        let started = Instant::now();
        let told = std::thread::scope(|scope| {
            let asked = scope.spawn(|| judge.losses("packed", b"weights", &Silent));
            std::thread::sleep(Duration::from_millis(200));
            STOP.store(true, std::sync::atomic::Ordering::Relaxed);
            asked.join().unwrap().unwrap_err()
        });
        assert_eq!(told.kind, crate::error::Kind::Interrupted);
        assert!(started.elapsed() < Duration::from_secs(20));
        // A search that was ended before still wants its answer.
        let judge = Judge { command: "echo '{\"losses\": [1]}'".into(), ..judge };
        assert_eq!(judge.losses("packed", b"weights", &Silent).unwrap(), [1.0]);
    }

    #[test]
    fn differences_are_paired() {
        let judge = Judge { command: "x".into(), limit: Duration::ZERO, stop: || false };
        let judged = judge.judged(Some(&[1.0, 5.0]), &[1.25, 5.25]).unwrap();
        assert_eq!((judged.original, judged.packed, judged.rows), (Some(3.0), 3.25, 2));
        assert_eq!(judged.difference, Some(Estimate { value: 0.25, standard_error: Some(0.0) }));
        assert_eq!(judge.judged(None, &[2.0]).unwrap().difference, None);
        assert!(judge.judged(Some(&[1.0]), &[1.0, 2.0]).unwrap_err().message.contains("1 losses before and 2 after"));
    }
}
