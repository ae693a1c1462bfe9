//! A Python script as a bundle must know it: how its text is encoded, what it imports, and whether it looks at its own file.
//!
//! Not a parser: words and signs of the code, without what is in strings and comments.

use crate::error::{Error, Result};

/// Functions that make of a path another path to the same file.
const SAME: &[&str] =
    &["abspath", "realpath", "fspath", "str", "Path", "PurePath", "expanduser", "resolve", "absolute"];

/// A script that Python can read.
pub struct Source {
    /// As in its file, with the last line ended.
    pub bytes: Vec<u8>,
    tokens: Vec<Token>,
}

/// An `import` or `from … import`.
#[derive(Debug, PartialEq, Eq)]
pub struct Import {
    pub line: usize,
    /// With the dots in front of a relative one.
    pub module: String,
    /// What is imported from it; empty for a plain `import`.
    pub names: Vec<String>,
    /// It is at the margin, in no `try` and no function.
    pub at_margin: bool,
}

struct Token {
    line: usize,
    text: String,
    /// A statement begins here.
    first: bool,
    /// And the line with it, at the margin.
    at_margin: bool,
}

impl Source {
    /// # Errors
    /// Input, when Python could not read it either, or when it holds a NUL.
    pub fn new(mut bytes: Vec<u8>, name: &str) -> Result<Source> {
        if bytes.contains(&0) {
            return Err(Error::input(format!("{name} is not Python: it holds a NUL")));
        }
        let text = bytes.strip_prefix(b"\xef\xbb\xbf");
        let (marked, text) = (text.is_some(), text.unwrap_or(&bytes));
        let declared = declared(text);
        let is_utf8 = declared.as_ref().is_none_or(|name| name.starts_with("utf-8") || name == "utf8");
        if let Some(declared) = declared.filter(|_| marked && !is_utf8) {
            return Err(Error::input(format!("{name} begins with the mark of UTF-8 and declares {declared}"))
                .hint("Python refuses it as well: take one of the two away"));
        }
        if let Some(at) = std::str::from_utf8(text).err().filter(|_| is_utf8).map(|e| e.valid_up_to()) {
            let line = 1 + text[..at].iter().filter(|b| **b == b'\n').count();
            return Err(Error::input(format!("{name}, line {line}: byte 0x{:02x} is not UTF-8", text[at]))
                .hint("declare its encoding in the first line, as `# -*- coding: latin-1 -*-`, or save it as UTF-8"));
        }
        let tokens = tokens(text);
        if !bytes.ends_with(b"\n") {
            bytes.push(b'\n');
        }
        Ok(Source { bytes, tokens })
    }

    /// Every import, in order.
    pub fn imports(&self) -> Vec<Import> {
        (0..self.tokens.len()).filter(|i| self.tokens[*i].first).flat_map(|i| self.imported(i)).collect()
    }

    fn word(&self, i: usize) -> &str {
        self.tokens.get(i).map_or("", |token| &token.text)
    }

    fn imported(&self, start: usize) -> Vec<Import> {
        let Token { line, at_margin, .. } = self.tokens[start];
        let end = (start + 1..self.tokens.len()).find(|i| self.tokens[*i].first).unwrap_or(self.tokens.len());
        let mut at = start + 1;
        // Names with their dots, up to `stop`.
        let mut list = |stop: &str| {
            let (mut found, mut renamed) = (vec![String::new()], false);
            while at < end && self.word(at) != stop {
                match self.word(at) {
                    "," => {
                        found.push(String::new());
                        renamed = false;
                    }
                    "as" => renamed = true,
                    "(" | ")" | ";" => {}
                    _ if renamed => {}
                    word => found.last_mut().into_iter().for_each(|name| name.push_str(word)),
                }
                at += 1;
            }
            at += 1;
            found.retain(|name| !name.is_empty());
            found
        };
        match self.word(start) {
            "import" => {
                let import = |module| Import { line, module, names: vec![], at_margin };
                list("").into_iter().map(import).collect()
            }
            "from" => {
                let module = list("import").concat();
                vec![Import { line, module, names: list(""), at_margin }]
            }
            _ => vec![],
        }
    }

    /// The line in which it looks at its own file, and not only at the folder that it is in.
    pub fn looks_at_itself(&self) -> Option<usize> {
        let looks = |i: &usize| match self.word(*i) {
            "__file__" => {
                let of_another = *i > 1 && self.word(i - 1) == "." && !["__main__", "]"].contains(&self.word(i - 2));
                !of_another && !self.folder(*i)
            }
            "argv" => self.word(i + 1) == "[" && self.word(i + 2) == "0",
            "getfile" | "getsourcefile" => true,
            _ => false,
        };
        (0..self.tokens.len()).find(looks).map(|i| self.tokens[i].line)
    }

    /// Whether of the path at `i` only the folder is taken: `dirname(abspath(__file__))`, `Path(__file__).resolve().parent`.
    fn folder(&self, i: usize) -> bool {
        let mut before = i;
        while before > 0 {
            before -= 1;
            match self.word(before) {
                "dirname" => return true,
                "(" | "." | "os" | "path" | "pathlib" => {}
                word if SAME.contains(&word) => {}
                _ => break,
            }
        }
        let mut after = i + 1;
        while matches!(self.word(after), "(" | ")" | ".") || SAME.contains(&self.word(after)) {
            after += 1;
        }
        matches!(self.word(after), "parent" | "parents") && self.word(after - 1) == "."
    }
}

/// The encoding that one of the first two lines declares, as Python looks for it.
fn declared(text: &[u8]) -> Option<String> {
    for line in text.split(|b| *b == b'\n').take(2) {
        let line = line.trim_ascii();
        if !line.is_empty() && line[0] != b'#' {
            return None;
        }
        let line = String::from_utf8_lossy(line);
        for (at, word) in line.match_indices("coding") {
            let rest = &line[at + word.len()..];
            if let Some(rest) = rest.strip_prefix([':', '=']) {
                let rest = rest.trim_start_matches([' ', '\t']);
                let end = rest.find(|c: char| !c.is_ascii_alphanumeric() && !"-_.".contains(c)).unwrap_or(rest.len());
                if end > 0 {
                    return Some(rest[..end].to_ascii_lowercase().replace('_', "-"));
                }
            }
        }
    }
    None
}

fn tokens(text: &[u8]) -> Vec<Token> {
    let word = |b: u8| b == b'_' || b.is_ascii_alphanumeric() || b >= 128;
    let at = |i: usize| text.get(i).copied().unwrap_or(0);
    let (mut found, mut i, mut line, mut depth) = (Vec::new(), 0, 1, 0usize);
    let (mut first, mut at_margin) = (true, true);
    while i < text.len() {
        let begin = i;
        match text[i] {
            b'#' => {
                while i < text.len() && !matches!(text[i], b'\n' | b'\r') {
                    i += 1;
                }
                continue;
            }
            b'\\' if matches!(at(i + 1), b'\n' | b'\r') => {
                i += 1 + usize::from(at(i + 1) == b'\r' && at(i + 2) == b'\n');
                line += 1;
            }
            b'\n' | b'\r' => {
                i += usize::from(text[i] == b'\r' && at(i + 1) == b'\n');
                line += 1;
                if depth == 0 {
                    (first, at_margin) = (true, true);
                }
            }
            b' ' | b'\t' | 0x0c => at_margin &= !first || text[i] == 0x0c,
            b'"' | b'\'' => {
                let start = found.len();
                let (end, is_code) =
                    (string(text, i), found.last().is_some_and(is_format) && word(at(i.wrapping_sub(1))));
                if is_code {
                    // Quotes in it end nothing.
                    let plain = |b: &u8| if matches!(b, b'"' | b'\'' | b'#' | b'\\') { b' ' } else { *b };
                    let inside: Vec<u8> = text[i..end].iter().map(plain).collect();
                    found.extend(tokens(&inside).into_iter().map(|token| Token { first: false, ..token }));
                }
                found[start..].iter_mut().for_each(|token| token.line += line - 1);
                line += text[i..end].iter().filter(|b| **b == b'\n').count();
                i = end - 1;
                (first, at_margin) = (false, false);
            }
            b if word(b) => {
                while word(at(i + 1)) {
                    i += 1;
                }
                let text = String::from_utf8_lossy(&text[begin..=i]).into_owned();
                found.push(Token { line, text, first, at_margin: first && at_margin });
                (first, at_margin) = (false, false);
            }
            b => {
                match b {
                    b'(' | b'[' | b'{' => depth += 1,
                    b')' | b']' | b'}' => depth = depth.saturating_sub(1),
                    _ => {}
                }
                found.push(Token { line, text: char::from(b).into(), first: false, at_margin: false });
                // What follows may be a statement, on the same line.
                first = depth == 0 && matches!(b, b';' | b':');
                at_margin = false;
            }
        }
        i += 1;
    }
    found
}

/// Whether a word is the prefix of a string that holds code.
fn is_format(token: &Token) -> bool {
    ["f", "F", "rf", "Rf", "rF", "RF", "fr", "fR", "Fr", "FR"].contains(&&token.text[..])
}

/// Where the string that begins at `start` ends.
fn string(text: &[u8], start: usize) -> usize {
    let quote = text[start];
    let is_long = text[start..].starts_with(&[quote; 3]);
    let mut i = start + if is_long { 3 } else { 1 };
    while i < text.len() {
        match text[i] {
            b'\\' => i += 1,
            b'\n' if !is_long => return i,
            b if b == quote && !is_long => return i + 1,
            _ if is_long && text[i..].starts_with(&[quote; 3]) => return i + 3,
            _ => {}
        }
        i += 1;
    }
    text.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(text: &str) -> Source {
        Source::new(text.into(), "train.py").unwrap()
    }

    #[test]
    fn imports_are_found_with_their_lines() {
        let text = "\"\"\"import no\n\"\"\"\nimport os.path as p, model\nif 1: import a; from .b import c as d\n\
            try:\n    from x.y import (  # import no\n        z,\n        w as v,\n    )\nexcept ImportError:\n    s = f'import {no}'\n\
            from . import q\nx = 1 \\\n    + 2\r\nimport \\\n    last";
        let found: Vec<_> =
            source(text).imports().into_iter().map(|i| (i.line, i.module, i.names.join(","), i.at_margin)).collect();
        let wanted = [
            (3, "os.path", "", true),
            (3, "model", "", true),
            (4, "a", "", false),
            (4, ".b", "c", false),
            (6, "x.y", "z,w", false),
            (12, ".", "q", true),
            (15, "last", "", true),
        ];
        assert_eq!(found, wanted.map(|(line, module, names, m)| (line, module.into(), names.into(), m)));
    }

    #[test]
    fn a_script_that_looks_at_itself_is_known() {
        for (text, line) in [
            ("x = 1\ncode = Path(__file__).read_text(encoding=\"utf-8\")", Some(2)),
            ("with open(sys.argv[0]) as f: code = f.read()", Some(1)),
            ("print(f\"\"\"\n{open(__file__).read()}\"\"\")", Some(2)),
            ("print(f\"don't {open(__file__).read()}\")", Some(1)),
            ("open(sys.modules['__main__'].__file__)", Some(1)),
            ("import __main__\nopen(__main__.__file__)", Some(2)),
            ("inspect.getsourcefile(main)", Some(1)),
            ("# __file__\nprint('__file__', torch.__file__, sys.argv[1])", None),
            ("here = os.path.dirname(os.path.abspath(__file__))", None),
            ("here = Path(__file__).resolve().parent / 'data'", None),
            ("here = Path(__file__).resolve()", Some(1)),
        ] {
            assert_eq!(source(text).looks_at_itself(), line, "{text}");
        }
    }

    #[test]
    fn what_python_cannot_read_is_refused() {
        for (bytes, words) in [
            (&b"x = 1\ny = '\xe9'\n"[..], "line 2: byte 0xe9 is not UTF-8"),
            (b"# coding: utf-8\n'\xe9'", "line 2"),
            (b"\xef\xbb\xbf# coding: latin-1\n", "declares latin-1"),
            (b"x\0\n", "NUL"),
        ] {
            let error = Source::new(bytes.to_vec(), "train.py").err().unwrap().message;
            assert!(error.contains(words), "{error}");
        }
        for bytes in [
            &b"#!/bin/x\n# -*- coding: latin-1 -*-\n'\xe9'"[..],
            b"\xef\xbb\xbfx = 1\r\n",
            b"\xef\xbb\xbf# coding=utf8\n",
        ] {
            assert!(Source::new(bytes.to_vec(), "train.py").unwrap().bytes.ends_with(b"\n"));
        }
    }
}
