//! The one error type: what went wrong, what class of failure it is (which fixes the exit code), and the way out.

use std::fmt;
use std::path::Path;

/// Class of a failure. Scripts see it as the exit code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A file could not be read or written, or what it holds is unusable.
    Input,
    /// The command line asks for something that makes no sense.
    Usage,
    /// The model does not fit the byte cap.
    Cap,
    /// An artifact is damaged, or is not what it claims to be.
    Verification,
    /// A computation failed inside.
    Compute,
    /// Somebody pressed Ctrl-C before there was anything to write.
    Interrupted,
}

/// The way out where the memory of a GPU is full.
const FULL: &str =
    "the memory of the GPU is full: free some of it, need half as much with --precision bf16, or use --device cpu";

/// An error with its way out. Printed as `error: …` and, where there is one, `hint: …`.
#[derive(Debug, Clone)]
pub struct Error {
    pub kind: Kind,
    /// One sentence that names the file, the tensor and the figures.
    pub message: String,
    /// What the user can do about it.
    pub hint: Option<String>,
}

pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    fn new(kind: Kind, message: impl Into<String>) -> Self {
        Error { kind, message: message.into(), hint: None }
    }

    pub fn input(message: impl Into<String>) -> Self {
        Self::new(Kind::Input, message)
    }

    pub fn usage(message: impl Into<String>) -> Self {
        Self::new(Kind::Usage, message)
    }

    pub fn cap(message: impl Into<String>) -> Self {
        Self::new(Kind::Cap, message)
    }

    pub fn verification(message: impl Into<String>) -> Self {
        Self::new(Kind::Verification, message)
    }

    pub fn compute(message: impl Into<String>) -> Self {
        Self::new(Kind::Compute, message)
    }

    /// Ctrl-C, while this was done.
    pub fn interrupted(doing: &str) -> Self {
        Self::new(Kind::Interrupted, format!("interrupted while {doing}: nothing was written"))
    }

    /// An operating-system error on a path: `cannot read model.safetensors: No such file or directory`.
    pub fn io(doing: &str, path: &Path, source: std::io::Error) -> Self {
        if source.kind() == std::io::ErrorKind::IsADirectory {
            return Self::input(format!("cannot {doing} {}: it is a folder", path.display())).hint("name a file");
        }
        Self::input(format!("cannot {doing} {}: {source}", path.display()))
    }

    /// Adds the way out.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// Puts `place: ` in front of the message.
    #[must_use]
    pub fn at(mut self, place: impl fmt::Display) -> Self {
        self.message = format!("{place}: {}", self.message);
        self
    }

    /// Whether it says that the memory of a GPU is full.
    pub fn is_full(&self) -> bool {
        self.hint.as_deref() == Some(FULL)
    }

    /// 1 failed, 2 wrong usage, 3 does not fit the cap, 4 verification failed, 130 ended by Ctrl-C.
    pub fn exit_code(&self) -> u8 {
        match self.kind {
            Kind::Input | Kind::Compute => 1,
            Kind::Usage => 2,
            Kind::Cap => 3,
            Kind::Verification => 4,
            // What a shell makes of SIGINT.
            Kind::Interrupted => 130,
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Error {}

impl From<tiepack_format::Error> for Error {
    fn from(e: tiepack_format::Error) -> Self {
        let kind = match e.kind {
            tiepack_format::error::Kind::Verification => Kind::Verification,
            tiepack_format::error::Kind::Compute => Kind::Compute,
        };
        Error { kind, message: e.message, hint: e.hint }
    }
}

impl From<candle_core::Error> for Error {
    fn from(e: candle_core::Error) -> Self {
        // What follows the first line is a backtrace, where one was asked for.
        let text = e.to_string();
        let error = Error::compute(format!("tensor computation failed: {}", text.lines().next().unwrap_or_default()));
        match text.contains("OUT_OF_MEMORY") {
            true => error.hint(FULL),
            false => error,
        }
    }
}
