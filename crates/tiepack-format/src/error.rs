//! Errors of reading and writing artifacts.

use std::fmt;

/// Class of a failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Bytes are damaged, or are not what they claim to be.
    Verification,
    /// The content to be written breaks a rule of the format.
    Compute,
}

/// An error with its way out.
#[derive(Debug, Clone)]
pub struct Error {
    pub kind: Kind,
    /// One sentence with its figures.
    pub message: String,
    /// What the user can do about it.
    pub hint: Option<String>,
}

pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    pub fn verification(message: impl Into<String>) -> Self {
        Error { kind: Kind::Verification, message: message.into(), hint: None }
    }

    pub fn compute(message: impl Into<String>) -> Self {
        Error { kind: Kind::Compute, message: message.into(), hint: None }
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
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Error {}
