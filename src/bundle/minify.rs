//! Source text in fewer bytes: the small decoder's, not the user's.

use std::collections::{BTreeMap, BTreeSet};

/// Words of C that must stay, and names by which decoder.py knows parts of decoder.c.
const C: &str = "B I U __builtin_clzll char clamp else exponents if indices int long lossless return scaled static typedef \
    unsigned void while width";

/// Words of Python, of its library and of numpy that must stay: those that do not follow a dot; and what run.py is given.
const PYTHON: &str = "__name__ CDLL ENTRIES Exception False NAME NAMES None ORDER SHAPES SyntaxError True ValueError abs and as bundled capture_output \
    check compile concurrent ctypes d def dict else enumerate except exec file for from g getattr global globals hasattr if import importlib in input int io is isinstance iter lambda \
    len linecache list map max min multiprocessing next not numpy or os pool print raise range re return set signed subprocess \
    sum sys tempfile traceback try types while with x zip pass";

/// decoder.c without what nobody needs: comments, spaces, `const`, long names.
pub fn c(source: &str) -> String {
    let lines = source.lines().map(|line| line.split("//").next().unwrap_or_default());
    let tokens: Vec<String> = tokens(&lines.collect::<Vec<_>>().join(" "));
    let tokens = tokens.into_iter().filter(|t| !t.trim().is_empty() && t != "const").collect();
    let mut out = String::new();
    for token in renamed(tokens, C) {
        separate(&mut out, &token);
        out.push_str(&token);
    }
    out
}

/// Python without comments, docstrings and long names, an indent of one, and what is in brackets on one line.
pub fn python(source: &str) -> String {
    let mut tokens = Vec::new();
    let (mut depth, mut open) = (0usize, false);
    for line in source.lines() {
        let text = line.trim();
        // Docstrings are the only strings with three quotes, and begin a line.
        let quotes = text.matches("\"\"\"").count();
        if open || text.starts_with("\"\"\"") {
            open ^= quotes % 2 == 1;
            continue;
        }
        if text.is_empty() || text.starts_with('#') {
            continue;
        }
        if depth == 0 {
            tokens.push("\n".to_string() + &" ".repeat((line.len() - line.trim_start().len()) / 4));
        }
        for token in self::tokens(text) {
            match &token[..] {
                "#" => break,
                "(" | "[" | "{" => depth += 1,
                ")" | "]" | "}" => depth = depth.saturating_sub(1),
                _ => {}
            }
            if !token.trim().is_empty() {
                tokens.push(token);
            }
        }
    }
    let mut out = String::new();
    for token in renamed(tokens, PYTHON) {
        separate(&mut out, &token);
        out.push_str(&token);
    }
    out.trim_start().to_string() + "\n"
}

/// The source without the lines marked as of codecs that are not among `codecs`, without the marks, and without the checks,
/// which begin with `fine`, and their definitions. What is indented more than such a line goes with it.
pub fn only(source: &str, codecs: &BTreeSet<u8>) -> String {
    let mut out = String::new();
    let mut left_out: Option<usize> = None;
    for line in source.lines() {
        let indent = line.len() - line.trim_start().len();
        if left_out.is_some_and(|outer| !line.trim().is_empty() && indent <= outer) {
            left_out = None;
        }
        let mark = line.rsplit_once("  # ").and_then(|(text, mark)| Some((text, mark.parse::<u8>().ok()?)));
        match mark {
            Some((text, codec)) if !codecs.contains(&codec) => {
                if text.ends_with(':') && left_out.is_none() {
                    left_out = Some(indent);
                }
            }
            _ if left_out.is_some() => {}
            // A whole statement: none goes over several lines.
            _ if line.trim_start().starts_with("fine") => {}
            _ if line.starts_with("def fine") => left_out = Some(indent),
            _ => {
                out.push_str(mark.map_or(line, |(text, _)| text));
                out.push('\n');
            }
        }
    }
    out
}

/// Words, strings, and every other character by itself.
fn tokens(source: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut chars = source.chars().peekable();
    while let Some(c) = chars.next() {
        let mut token = String::from(c);
        if word(c) {
            while let Some(c) = chars.next_if(|c| word(*c)) {
                token.push(c);
            }
        }
        // A string; prefixes b and r are part of it.
        if matches!(&token[..], "\"" | "b" | "r") && (c == '"' || chars.peek() == Some(&'"')) {
            if c != '"' {
                token.extend(chars.next());
            }
            while let Some(c) = chars.next() {
                token.push(c);
                match c {
                    '\\' => token.extend(chars.next()),
                    '"' => break,
                    _ => {}
                }
            }
        }
        found.push(token);
    }
    found
}

fn word(c: char) -> bool {
    c == '_' || c.is_ascii_alphanumeric()
}

/// A space where two words or two signs would become one.
fn separate(out: &mut String, token: &str) {
    if let (Some(a), Some(b)) = (out.chars().next_back(), token.chars().next())
        && (word(a) && word(b) || a == b && matches!(a, '-' | '+'))
    {
        out.push(' ');
    }
}

/// Names that are defined outside of functions get short names of their own; all others are named anew in every function,
/// in the order in which they appear, so that functions look alike. Words in `keep` and what follows a dot stay as they are.
fn renamed(mut tokens: Vec<String>, keep: &str) -> Vec<String> {
    let keep: BTreeSet<&str> = keep.split_whitespace().collect();
    let name = |tokens: &[String], i: usize| {
        let token = &tokens[i];
        let first = token.chars().next().unwrap_or('0');
        let attribute = i > 0 && tokens[i - 1] == ".";
        word(first) && !first.is_ascii_digit() && !attribute && !token.contains('"') && !keep.contains(&token[..])
    };
    let (parts, outside) = functions(&tokens);
    let mut uses: BTreeMap<String, usize> = BTreeMap::new();
    for i in (0..tokens.len()).filter(|i| name(&tokens, *i)) {
        if outside[i] {
            uses.entry(tokens[i].clone()).or_default();
        }
    }
    for i in (0..tokens.len()).filter(|i| name(&tokens, *i)) {
        if let Some(n) = uses.get_mut(&tokens[i]) {
            *n += 1;
        }
    }
    let mut order: Vec<(String, usize)> = uses.into_iter().collect();
    order.sort_by_key(|(_, n)| std::cmp::Reverse(*n));
    let shortest = |letters: std::ops::RangeInclusive<char>| {
        let pairs = letters.clone().flat_map(|a| (0..10).map(move |b| format!("{a}{b}")));
        letters.map(String::from).chain(pairs).filter(|name| !keep.contains(&name[..])).collect::<Vec<_>>()
    };
    let (inner, outer) = (shortest('a'..='z'), shortest('A'..='Z'));
    let global: BTreeMap<String, &String> = order.into_iter().map(|(name, _)| name).zip(&outer).collect();
    let (mut part, mut local) = (usize::MAX, BTreeMap::<String, &String>::new());
    for i in 0..tokens.len() {
        if parts[i] != part {
            part = parts[i];
            local.clear();
        }
        if name(&tokens, i) {
            let next = &inner[local.len()];
            let short = match global.get(&tokens[i]) {
                Some(short) => short,
                None => *local.entry(tokens[i].clone()).or_insert(next),
            };
            tokens[i].clone_from(short);
        }
    }
    tokens
}

/// For every token the number of the function that it is in, and whether it stands for something outside of all of them. In C a
/// function ends with the outermost brace, in Python with a line that is not indented.
fn functions(tokens: &[String]) -> (Vec<usize>, Vec<bool>) {
    let (mut parts, mut outside) = (Vec::new(), Vec::new());
    let (mut part, mut braces, mut brackets, mut inside, mut global) = (0, 0usize, 0usize, false, false);
    let python = tokens.iter().any(|token| token.starts_with('\n'));
    for token in tokens {
        match &token[..] {
            "{" | "}" if python => {}
            "{" => braces += 1,
            "}" => {
                braces = braces.saturating_sub(1);
                part += usize::from(braces == 0);
            }
            "(" | "[" => brackets += 1,
            ")" | "]" => brackets = brackets.saturating_sub(1),
            "\n" => (part, inside, global) = (part + 1, false, false),
            "global" => global = true,
            line if line.starts_with('\n') => (inside, global) = (true, false),
            _ => {}
        }
        parts.push(part);
        outside.push(global || !inside && braces == 0 && brackets == 0);
    }
    (parts, outside)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_shrinks_and_keeps_its_meaning() {
        let source = "// why\nstatic I clamp(I x, const int *rows) {\n    return x - -x; // how\n}\n";
        assert_eq!(c(source), "static I clamp(I a,int*b){return a- -a;}");
        let source = "\"\"\"Head\n\nmore\n\"\"\"\nimport os\n\n\ndef work(rows):\n    \"\"\"Doc.\"\"\"\n    return os.rows(\n        rows, \"rows # 1\"\n    )  # why\n";
        assert_eq!(python(source), "import os\ndef A(a):\n return os.rows(a,\"rows # 1\")\n");
    }

    #[test]
    fn marked_lines_go_with_what_is_below_them() {
        let source = "a\nif b:  # 4\n    c\n\n    d\ne  # 2\n  fine(x)\nf  # 4\n";
        assert_eq!(only(source, &BTreeSet::from([2])), "a\ne\n");
        assert_eq!(only(source, &BTreeSet::from([4])), "a\nif b:\n    c\n\n    d\nf\n");
    }
}
