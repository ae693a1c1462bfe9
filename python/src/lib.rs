//! The Python module `tiepack._native`: commands of tiepack in this process, and decoded artifacts.
//!
//! A command runs on a thread of its own without the interpreter's lock, while Python's thread looks for Ctrl-C.

use std::any::Any;
use std::ffi::OsString;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::Duration;

use pyo3::exceptions::PyRuntimeError;
use pyo3::prelude::*;
use pyo3::types::PyBytes;
use tiepack::artifact::open::{Opened, open};
use tiepack::artifact::root::{Decoded, tensor_hash};
use tiepack::cli;
use tiepack::error::Error;
use tiepack::nets::Form;
use tiepack::nets::names::form_of;
use tiepack::progress::{Bars, Progress, Silent};
use tiepack::text::type_name;
use tiepack::unpack::bytes_of;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// How often Python looks whether somebody pressed Ctrl-C.
const PATIENCE: Duration = Duration::from_millis(50);

/// What unwinds the stack when the user wants no more of it.
struct Stopped;

/// Passes progress on until it is told to stop: then the next report of progress ends the run.
struct Stoppable {
    inner: Box<dyn Progress + Send>,
    stop: Arc<AtomicBool>,
}

impl Stoppable {
    fn look(&self) {
        if self.stop.load(Ordering::Relaxed) {
            // Not a panic: no hook says anything. Files in the making remove themselves.
            resume_unwind(Box::new(Stopped));
        }
    }
}

impl Progress for Stoppable {
    fn begin(&self, stage: &str, total: u64) {
        self.look();
        self.inner.begin(stage, total);
    }

    fn advance(&self, n: u64) {
        self.look();
        self.inner.advance(n);
    }

    fn note(&self, message: &str) {
        self.inner.note(message);
    }

    fn end(&self) {
        self.inner.end();
    }
}

/// Runs `work` beside the interpreter.
fn beside<T: Send + 'static>(
    py: Python<'_>,
    quiet: bool,
    work: impl FnOnce(&dyn Progress) -> T + Send + 'static,
) -> PyResult<T> {
    let stop = Arc::new(AtomicBool::new(false));
    let inner: Box<dyn Progress + Send> = if quiet { Box::new(Silent) } else { Box::new(Bars::new()) };
    let progress = Stoppable { inner, stop: stop.clone() };
    let (send, mut receive) = channel();
    std::thread::spawn(move || {
        let done: Result<T, Box<dyn Any + Send>> = catch_unwind(AssertUnwindSafe(|| work(&progress)));
        // Nobody listens any more only if the interpreter is gone.
        let _ = send.send(done);
    });
    let mut interrupted = None;
    loop {
        let received;
        (received, receive) = py.detach(move || (receive.recv_timeout(PATIENCE), receive));
        match (received, interrupted.take()) {
            (Ok(_), Some(e)) => return Err(e),
            (Ok(Ok(result)), None) => return Ok(result),
            (Ok(Err(_)), None) | (Err(RecvTimeoutError::Disconnected), _) => {
                return Err(PyRuntimeError::new_err("tiepack panicked; what it said is on stderr"));
            }
            (Err(RecvTimeoutError::Timeout), before) => {
                interrupted = before.or_else(|| py.check_signals().err());
                stop.store(interrupted.is_some(), Ordering::Relaxed);
            }
        }
    }
}

/// Runs the command that `args` ask for; its exit code, and its report or its error as a JSON document.
#[pyfunction]
fn run(py: Python<'_>, args: Vec<OsString>, quiet: bool) -> PyResult<(u8, String)> {
    beside(py, quiet, move |progress| cli::json(args, progress))
}

/// The command line: prints, and returns the exit code.
#[pyfunction]
fn main(py: Python<'_>, args: Vec<OsString>) -> PyResult<u8> {
    beside(py, true, move |_| cli::code(args))
}

/// A stored tensor: shape, element type, little-endian values, and of a weight its hash.
type Stored = (Vec<usize>, &'static str, Py<PyBytes>, Option<String>);

/// Names with the stored tensor of each, the stored tensors, the configuration and the root.
type Loaded = (Vec<(String, usize)>, Vec<Stored>, String, String);

/// An artifact, or an error as [`run`] gives it.
#[pyfunction]
fn load(py: Python<'_>, path: PathBuf) -> PyResult<(Option<(u8, String)>, Option<Loaded>)> {
    let opened = beside(py, true, move |_| open(&path).map_err(|e| failure(&e)))?;
    let Opened { model, parsed, .. } = match opened {
        Ok(opened) => opened,
        Err(error) => return Ok((Some(error), None)),
    };
    let labels = model.labels.iter().map(|(label, spec)| (label.clone(), model.source[*spec]));
    let beside = model.kept.iter().enumerate().map(|(i, kept)| (kept.name.clone(), model.stored.len() + i));
    let names = labels.chain(beside).collect();
    let stored = model.stored.iter().enumerate().map(|(i, stored)| {
        let shape = model.shape(i);
        let ((dtype, bytes), hash) =
            py.detach(|| (bytes_of(stored), tensor_hash(Decoded { shape, data: &stored.data })));
        (shape.to_vec(), type_name(dtype), PyBytes::new(py, &bytes).unbind(), Some(hex(&hash)))
    });
    let kept = model
        .kept
        .iter()
        .map(|kept| (kept.shape.clone(), kept.element.name(), PyBytes::new(py, &kept.bytes).unbind(), None));
    let stored = stored.chain(kept);
    let root = hex(&parsed.root);
    Ok((None, Some((names, stored.collect(), parsed.header.config, root))))
}

fn hex(hash: &[u8]) -> String {
    hash.iter().map(|b| format!("{b:02x}")).collect()
}

fn failure(error: &Error) -> (u8, String) {
    (error.exit_code(), cli::error_json(error))
}

/// Whether a tensor of this shape is a matrix to tiepack where no network says what it is.
#[pyfunction]
fn is_matrix(shape: Vec<usize>) -> bool {
    form_of(&shape) != Form::Vector
}

#[pymodule]
fn _native(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add("version", env!("CARGO_PKG_VERSION"))?;
    module.add_function(wrap_pyfunction!(run, module)?)?;
    module.add_function(wrap_pyfunction!(main, module)?)?;
    module.add_function(wrap_pyfunction!(load, module)?)?;
    module.add_function(wrap_pyfunction!(is_matrix, module)?)
}
