//! What files, paths and people bring along, as a terminal or a picture may show it.
//!
//! A name can hold what moves the cursor, hides text or turns its direction: such characters are shown as JSON writes them,
//! so that escaped JSON is the same JSON.

use std::borrow::Cow;

/// Whether a terminal or a renderer may act on a character instead of showing it.
fn acts(c: char) -> bool {
    // Control characters of both sets; direction marks and overrides; separators of lines.
    c.is_control() || matches!(c, '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// A text in one line, every character of it to be seen.
pub fn line(text: &str) -> Cow<'_, str> {
    but(text, |_| false)
}

/// The same of a text that may have several lines.
pub fn lines(text: &str) -> Cow<'_, str> {
    but(text, |c| c == '\n')
}

/// The same of a text whose parts are escaped already and have been given colours since.
pub fn coloured(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, after)) = rest.split_once("\u{1b}[") {
        out += &lines(before);
        let digits = after.find(|c: char| !c.is_ascii_digit() && c != ';').unwrap_or(after.len());
        rest = match after[digits..].strip_prefix('m') {
            Some(rest) => {
                out += &format!("\u{1b}[{}m", &after[..digits]);
                rest
            }
            None => {
                out += &line("\u{1b}[");
                after
            }
        };
    }
    out + &lines(rest)
}

fn but(text: &str, kept: impl Fn(char) -> bool) -> Cow<'_, str> {
    if !text.chars().any(|c| acts(c) && !kept(c)) {
        return Cow::Borrowed(text);
    }
    let shown = |c: char| match acts(c) && !kept(c) {
        true => format!("\\u{:04x}", u32::from(c)),
        false => c.to_string(),
    };
    Cow::Owned(text.chars().map(shown).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_terminal_would_act_on_is_shown() {
        let foreign = "a\u{1b}]0;title\u{7}b\r\n\u{9b}2J\u{202e}c\u{7f}é█";
        assert_eq!(line(foreign), "a\\u001b]0;title\\u0007b\\u000d\\u000a\\u009b2J\\u202ec\\u007fé█");
        assert_eq!(lines("one\ntwo\tthree"), "one\ntwo\\u0009three");
        assert!(matches!(line("blocks.0.mlp.fc.weight"), Cow::Borrowed(_)));
    }

    #[test]
    fn colours_stay_and_nothing_else_of_the_kind() {
        assert_eq!(coloured("\u{1b}[2mhead\u{1b}[0m\nrow"), "\u{1b}[2mhead\u{1b}[0m\nrow");
        assert_eq!(coloured("\u{1b}[2Jx\u{1b}]8\u{1b}[1;31mred"), "\\u001b[2Jx\\u001b]8\u{1b}[1;31mred");
        assert_eq!(coloured("\u{1b}[12"), "\\u001b[12");
    }

    #[test]
    fn escaped_json_is_the_same_json() {
        let text = serde_json::to_string("a\u{7f}\u{9b}\u{2028}\n\u{1b}").unwrap();
        let back: String = serde_json::from_str(&line(&text)).unwrap();
        assert_eq!(back, "a\u{7f}\u{9b}\u{2028}\n\u{1b}");
    }
}
