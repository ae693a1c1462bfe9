//! Who makes the trials of a search: this process, or workers that it starts.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use super::args::PackArgs;
use crate::compile::Work;
use crate::error::{Error, Result};

/// Who tries structures, and the temporary folder that goes away with it.
///
/// # Errors
/// Input, when there can be no folder for tasks.
pub fn work(args: &PackArgs) -> Result<(Work, Option<tempfile::TempDir>)> {
    let Some(jobs) = args.jobs else { return Ok((Work::Here, None)) };
    if jobs == 0 && args.job_folder.is_none() {
        return Err(Error::usage("--jobs 0 leaves all the work to others, who need to know where")
            .hint("name a folder with --job-folder, and start workers with --worker"));
    }
    let (folder, kept): (PathBuf, _) = match &args.job_folder {
        Some(folder) => {
            std::fs::create_dir_all(folder).map_err(|e| Error::io("create", folder, e))?;
            (folder.clone(), None)
        }
        None => {
            let made = tempfile::tempdir().map_err(|e| Error::io("create", &std::env::temp_dir(), e))?;
            (made.path().to_path_buf(), Some(made))
        }
    };
    // Threads are shared out: a worker each would be slower.
    let threads = (rayon::current_num_threads() / jobs.max(1)).max(1);
    let start = move |folder: &Path| -> Result<Vec<Child>> { (0..jobs).map(|_| worker(folder, threads)).collect() };
    Ok((Work::Workers { folder, start: Box::new(start) }, kept))
}

/// This very command as a worker.
fn worker(folder: &Path, threads: usize) -> Result<Child> {
    let program = std::env::current_exe().map_err(|e| Error::compute(format!("cannot find this program: {e}")))?;
    let mut command = Command::new(program);
    let mut args = std::env::args_os().skip(1);
    while let Some(arg) = args.next() {
        let text = arg.to_string_lossy();
        let ours = ["--jobs", "--job-folder", "--search-log", "--threads"];
        if ours.contains(&&*text) {
            args.next();
        } else if *text != *"--resume" && !ours.iter().any(|option| text.starts_with(&format!("{option}="))) {
            command.arg(arg);
        }
    }
    command.arg("--worker").arg(folder).args(["--quiet", "--threads", &threads.to_string()]);
    let started = command.stdin(Stdio::null()).stdout(Stdio::null()).spawn();
    started.map_err(|e| Error::compute(format!("cannot start a worker: {e}")))
}
