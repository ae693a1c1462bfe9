//! Names of the parts of a model that is in several files: `model-00001-of-00003.safetensors`.

use std::path::{Path, PathBuf};

/// Digits of both numbers.
const DIGITS: usize = 5;
/// Files of one model.
const MAX_PARTS: usize = 4096;

/// All the parts of the model that the file at `path` is a part of, in order; `None` where it is the only file.
pub fn all(path: &Path) -> Option<Vec<PathBuf>> {
    let (before, of, after) = split(path.file_name()?.to_str()?)?;
    let name = |part: usize| path.with_file_name(format!("{before}-{part:0DIGITS$}-of-{of:0DIGITS$}{after}"));
    Some((1..=of).map(name).collect())
}

/// What stands before the numbers of a part, how many parts there are, and what stands after.
fn split(name: &str) -> Option<(&str, usize, &str)> {
    let (head, tail) = name.rsplit_once("-of-")?;
    let (before, part) = head.rsplit_once('-')?;
    let end = tail.find(|c: char| !c.is_ascii_digit())?;
    let number = |digits: &str| {
        let digits = (digits.len() == DIGITS && digits.bytes().all(|b| b.is_ascii_digit())).then_some(digits);
        digits?.parse::<usize>().ok()
    };
    let (part, of) = (number(part)?, number(&tail[..end])?);
    (1..=of).contains(&part).then_some(())?;
    (2..=MAX_PARTS).contains(&of).then_some((before, of, &tail[end..]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_told_by_their_numbers() {
        let names = |path: &str| -> Option<Vec<String>> {
            Some(all(Path::new(path))?.iter().map(|path| path.display().to_string()).collect())
        };
        let wanted = ["a/model-00001-of-00002.safetensors", "a/model-00002-of-00002.safetensors"];
        assert_eq!(names("a/model-00002-of-00002.safetensors").unwrap(), wanted);
        assert_eq!(names("pytorch_model-00001-of-00003.bin").unwrap()[2], "pytorch_model-00003-of-00003.bin");
        for other in [
            "model.safetensors",
            "model-00003-of-00002.bin",
            "m-00000-of-00002.bin",
            "m-1-of-2.pt",
            "m-00001-of-00001.pt",
        ] {
            assert_eq!(names(other), None, "{other}");
        }
    }
}
