//! Ctrl-C ends long work early, with the best so far.

use std::sync::atomic::{AtomicBool, Ordering};

/// Somebody pressed Ctrl-C.
static INTERRUPTED: AtomicBool = AtomicBool::new(false);

/// The process is somebody else's, and so is its Ctrl-C.
static GUEST: AtomicBool = AtomicBool::new(false);

/// From now on [`listen`] does nothing.
pub fn never_listen() {
    GUEST.store(true, Ordering::Relaxed);
}

/// Whether somebody wants the work to end.
pub fn interrupted() -> bool {
    INTERRUPTED.load(Ordering::Relaxed)
}

/// From now on the first Ctrl-C ends the work, and the best so far is written; the second one ends the process.
pub fn listen() {
    if GUEST.load(Ordering::Relaxed) {
        return;
    }
    // A process that cannot listen ends at the first one, as any other does.
    let _ = ctrlc::set_handler(|| {
        if INTERRUPTED.swap(true, Ordering::Relaxed) {
            std::process::exit(130);
        }
        eprintln!("ending; the best so far will be written (Ctrl-C again: stop at once)");
    });
}
