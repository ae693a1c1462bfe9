//! Ctrl-C ends long work early, with the best so far where there is one.

use std::sync::atomic::{AtomicBool, Ordering};

use crate::verify::judge;

/// Somebody pressed Ctrl-C.
static INTERRUPTED: AtomicBool = AtomicBool::new(false);

/// Some work was told so and ended early.
static HEEDED: AtomicBool = AtomicBool::new(false);

/// The process is somebody else's, and so is its Ctrl-C.
static GUEST: AtomicBool = AtomicBool::new(false);

/// From now on [`listen`] does nothing.
pub fn never_listen() {
    GUEST.store(true, Ordering::Relaxed);
}

/// Whether somebody wants the work to end; whoever asks and hears so ends it.
pub fn interrupted() -> bool {
    let interrupted = INTERRUPTED.load(Ordering::Relaxed);
    HEEDED.fetch_or(interrupted, Ordering::Relaxed);
    interrupted
}

/// Whether some work ended early.
pub fn heeded() -> bool {
    HEEDED.load(Ordering::Relaxed)
}

/// From now on the first Ctrl-C ends the work, and the best so far is written; the second one ends the process.
pub fn listen() {
    if GUEST.load(Ordering::Relaxed) {
        return;
    }
    // A process that cannot listen ends at the first one, as any other does.
    let _ = ctrlc::set_handler(|| {
        if INTERRUPTED.swap(true, Ordering::Relaxed) {
            judge::abandon();
            std::process::exit(130);
        }
        eprintln!("ending; the best so far will be written, if there is one yet (Ctrl-C again: stop at once)");
    });
}
