//! What a long run says while it works. Always on stderr: stdout belongs to the result.

use std::io::IsTerminal;
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use indicatif::{HumanCount, ProgressBar, ProgressDrawTarget, ProgressState, ProgressStyle};

use crate::escape;

/// Receives the progress of stages that run one after the other. Threads of a stage may call [`Progress::advance`]
/// at the same time.
pub trait Progress: Sync {
    /// A stage of `total` steps begins; 0 when their number is not known. Ends the one before it, if it has not ended.
    fn begin(&self, stage: &str, total: u64);
    /// `n` more steps of the stage are done.
    fn advance(&self, n: u64);
    /// How the stage stands, in a few words, in place of its name.
    fn status(&self, _: &str) {}
    /// Something worth a line of its own.
    fn note(&self, message: &str);
    /// The stage is over.
    fn end(&self);
}

/// Says nothing.
pub struct Silent;

impl Progress for Silent {
    fn begin(&self, _: &str, _: u64) {}

    fn advance(&self, _: u64) {}

    fn note(&self, _: &str) {}

    fn end(&self) {}
}

/// A bar per stage on a terminal, and a line when it is over; elsewhere (a log file, a pipe) notes only.
#[derive(Default)]
pub struct Bars {
    current: Mutex<Option<Stage>>,
}

struct Stage {
    name: String,
    started: Instant,
    bar: ProgressBar,
}

impl Bars {
    pub fn new() -> Self {
        Bars::default()
    }

    fn change(&self, next: Option<Stage>) {
        // A thread that panicked with the lock has left nothing half done: the stage is replaced as a whole.
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(Stage { name, started, bar }) = std::mem::replace(&mut *current, next) {
            bar.finish_and_clear();
            if std::io::stderr().is_terminal() {
                eprintln!("{name}: {:.1} s", started.elapsed().as_secs_f64());
            }
        }
    }

    fn with_bar(&self, act: impl FnOnce(Option<&ProgressBar>)) {
        let current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        act(current.as_ref().map(|stage| &stage.bar));
    }
}

impl Progress for Bars {
    fn begin(&self, stage: &str, total: u64) {
        self.change(None);
        let hidden = !std::io::stderr().is_terminal();
        let target = if hidden { ProgressDrawTarget::hidden() } else { ProgressDrawTarget::stderr() };
        let length = (total > 0).then_some(total);
        let bar = ProgressBar::with_draw_target(length, target);
        let template = match length {
            Some(_) => "{msg:24} [{bar:20}] {human_pos}/{human_len}, {rate}/s, {eta} left",
            None => "{msg:24} {human_pos} done, {rate}/s, {elapsed}",
        };
        // Both templates are constants that parse; a bar in the wrong style would still be no reason to stop.
        if let Ok(style) = ProgressStyle::with_template(template) {
            let style = style.with_key("rate", |state: &ProgressState, out: &mut dyn std::fmt::Write| {
                let _ = out.write_str(&rate(state.per_sec()));
            });
            bar.set_style(style.progress_chars("=> "));
        }
        let stage = escape::line(stage).into_owned();
        bar.set_message(stage.clone());
        self.change(Some(Stage { name: stage, started: Instant::now(), bar }));
    }

    fn advance(&self, n: u64) {
        self.with_bar(|bar| {
            if let Some(bar) = bar {
                bar.inc(n);
            }
        });
    }

    fn status(&self, message: &str) {
        self.with_bar(|bar| {
            if let Some(bar) = bar {
                bar.set_message(escape::line(message).into_owned());
            }
        });
    }

    fn note(&self, message: &str) {
        let message = escape::lines(message);
        self.with_bar(|bar| match bar {
            Some(bar) => bar.suspend(|| eprintln!("{message}")),
            None => eprintln!("{message}"),
        });
    }

    fn end(&self) {
        self.change(None);
    }
}

/// Three digits or more of a number a second.
fn rate(per_second: f64) -> String {
    match per_second {
        r if r >= 100.0 => HumanCount(r as u64).to_string(),
        r if r >= 10.0 => format!("{r:.1}"),
        r => format!("{r:.2}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_short() {
        assert_eq!([13_273.389, 99.96, 12.34, 0.021].map(rate), ["13,273", "100.0", "12.3", "0.02"]);
    }
}
