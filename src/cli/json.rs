//! Every report, and every error, as one JSON document.

use serde::Serialize;

use super::Report;
use crate::error::{Error, Kind};

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
        hint: Option<&'a str>,
        exit_code: u8,
    }
    let kind = match error.kind {
        Kind::Input => "input",
        Kind::Usage => "usage",
        Kind::Cap => "cap",
        Kind::Verification => "verification",
        Kind::Compute => "compute",
    };
    let (message, hint) = (&error.message[..], error.hint.as_deref());
    write(&Document { schema: SCHEMA, error: Body { kind, message, hint, exit_code: error.exit_code() } })
}

fn write(document: &impl Serialize) -> String {
    // Only a map with keys that are no strings could fail, and there is none in any report.
    let text = serde_json::to_string_pretty(document).expect("a report is plain data");
    text + "\n"
}
