//! JSON as Python writes it: with a byte order mark in front where an editor left one, and with `Infinity`,
//! `-Infinity` and `NaN` for numbers that JSON does not have.
//!
//! Such a number becomes `{"__float__": "Infinity"}`, as transformers writes it where it keeps to JSON, and reads it.

use serde_json::Value;

use super::foreign;
use crate::error::{Error, Result};

/// What Python writes for numbers that are not finite, the longer first.
const NUMBERS: [&str; 3] = ["-Infinity", "Infinity", "NaN"];

/// Parses a JSON text.
///
/// # Errors
/// It is not JSON; what it is instead is said where that shows.
pub fn parse(text: &str) -> Result<Value> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let error = match serde_json::from_str(text) {
        Ok(value) => return Ok(value),
        Err(error) => error,
    };
    if let Some(value) = finite(text).and_then(|text| serde_json::from_str(&text).ok()) {
        return Ok(value);
    }
    Err(foreign::named(text.as_bytes()).unwrap_or_else(|| Error::input(format!("not valid JSON: {error}"))))
}

/// The text with every number that is not finite as an object; `None` where there is none.
fn finite(text: &str) -> Option<String> {
    let (mut out, mut rest, mut changed) = (String::with_capacity(text.len()), text, false);
    while let Some(at) = rest.find(['"', '-', 'I', 'N']) {
        out.push_str(&rest[..at]);
        rest = &rest[at..];
        let length = if rest.starts_with('"') {
            let length = string(rest)?;
            out.push_str(&rest[..length]);
            length
        } else if let Some(number) = NUMBERS.iter().find(|number| rest.starts_with(**number)) {
            out.push_str(&format!("{{\"__float__\":\"{number}\"}}"));
            changed = true;
            number.len()
        } else {
            out.push_str(&rest[..1]);
            1
        };
        rest = &rest[length..];
    }
    out.push_str(rest);
    changed.then_some(out)
}

/// Bytes of the string that a text begins with, quotes included; `None` where it does not end.
fn string(text: &str) -> Option<usize> {
    let mut bytes = text.bytes().enumerate().skip(1);
    while let Some((at, byte)) = bytes.next() {
        match byte {
            b'"' => return Some(at + 1),
            b'\\' => drop(bytes.next()),
            _ => {}
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_told_from_text_that_looks_like_them() {
        let text = r#"{"a\"": NaN, "NaN": "-Infinity \\", "b": [0.0, Infinity, -Infinity, -1], "c": null}"#;
        let wanted = r#"{"a\"":{"__float__":"NaN"},"NaN":"-Infinity \\","b":[0.0,{"__float__":"Infinity"},{"__float__":"-Infinity"},-1],"c":null}"#;
        assert_eq!(parse(text).unwrap().to_string(), wanted);
        assert_eq!(parse("\u{feff}[1]").unwrap().to_string(), "[1]");
        for bad in ["[Infinit]", "[NaN", "{\"a: NaN}", "[+Infinity]", "[\"\\"] {
            assert!(parse(bad).unwrap_err().message.starts_with("not valid JSON: "), "{bad}");
        }
    }
}
