//! Every report, and every error, as one JSON document.

use std::borrow::Cow;

use serde::Serialize;

use super::Report;
use crate::error::{Error, Kind};
use crate::escape;

/// Version of the documents. It grows when a field changes its meaning or goes away, not when one is added.
const SCHEMA: u32 = 1;

/// What a command found out.
pub fn report(report: &Report) -> String {
    #[derive(Serialize)]
    struct Document<'a> {
        schema: u32,
        command: &'static str,
        #[serde(flatten)]
        report: &'a Report,
    }
    write(&Document { schema: SCHEMA, command: report.command(), report })
}

/// What went wrong.
pub fn error(error: &Error) -> String {
    #[derive(Serialize)]
    struct Document<'a> {
        schema: u32,
        error: Body<'a>,
    }
    #[derive(Serialize)]
    struct Body<'a> {
        kind: &'static str,
        message: &'a str,
        hint: Option<Cow<'a, str>>,
        exit_code: u8,
    }
    let kind = match error.kind {
        Kind::Input => "input",
        Kind::Usage => "usage",
        Kind::Cap => "cap",
        Kind::Verification => "verification",
        Kind::Compute => "compute",
        Kind::Interrupted => "interrupted",
    };
    // Prose, which Python shows as it is.
    let (message, hint) = (&escape::lines(&error.message), error.hint.as_deref().map(escape::lines));
    write(&Document { schema: SCHEMA, error: Body { kind, message, hint, exit_code: error.exit_code() } })
}

fn write(document: &impl Serialize) -> String {
    // Only a map with keys that are no strings could fail, and there is none in any report.
    let text = serde_json::to_string_pretty(document).expect("a report is plain data");
    // Inside of strings, where alone there is any, this is another way to write the same.
    escape::lines(&text).into_owned() + "\n"
}
