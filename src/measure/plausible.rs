//! Whether a factor of the curvature can be one: Gram matrices are symmetric, and their diagonals are no less than 0.

use crate::error::{Error, Result};

/// Two halves of a Gram matrix that were summed in another order differ by no more than this, as a share of the larger diagonal.
const ROUNDING: f32 = 1e-3;

/// Refuses elements that no second moment has.
///
/// # Errors
/// Input: a value is less than 0.
pub fn moments(key: &str, values: &[f32]) -> Result<()> {
    match values.iter().position(|v| *v < 0.0) {
        None => Ok(()),
        Some(at) => {
            Err(impossible(key, format!("is {} at place {at}, a mean of squares is never less than 0", values[at])))
        }
    }
}

/// Refuses a factor that is no sum of g gᵀ: `values` (R, B) are its diagonal blocks of `block` rows each, the last one maybe
/// fewer, one below the other.
///
/// # Errors
/// Input: a diagonal element is less than 0, two halves differ, or an element is larger than its diagonals allow.
pub fn factor(key: &str, values: &[f32], block: usize) -> Result<()> {
    if block <= 1 {
        return moments(key, values);
    }
    for (b, part) in values.chunks(block * block).enumerate() {
        let n = part.len() / block;
        let at = |i: usize, j: usize| part[i * block + j];
        if let Some(i) = (0..n).find(|i| at(*i, *i) < 0.0) {
            let why = format!(
                "has {} on its diagonal, at row {}: a mean of squares is never less than 0",
                at(i, i),
                b * block + i
            );
            return Err(impossible(key, why));
        }
        for i in 0..n {
            for j in 0..i {
                let (one, other) = (at(i, j), at(j, i));
                let most = (f64::from(at(i, i)) * f64::from(at(j, j))).sqrt() as f32;
                let slack = ROUNDING * at(i, i).max(at(j, j));
                let (row, col) = (b * block + i, b * block + j);
                if (one - other).abs() > slack {
                    return Err(impossible(
                        key,
                        format!("is not symmetric: {one} at ({row}, {col}), {other} at ({col}, {row})"),
                    ));
                }
                if one.abs() > most + slack {
                    return Err(impossible(
                        key,
                        format!(
                            "has {one} at ({row}, {col}), where its diagonals {} and {} allow {most}",
                            at(i, i),
                            at(j, j)
                        ),
                    ));
                }
            }
        }
    }
    Ok(())
}

fn impossible(key: &str, why: String) -> Error {
    Error::input(format!("{key} {why}")).hint("formats/statistics.md says what a file of statistics holds")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(values: &[f32], block: usize) -> String {
        factor("w:input", values, block).unwrap_err().message
    }

    #[test]
    fn sums_of_squares_are_taken() {
        factor("w:input", &[2.0, -1.0, -1.0, 3.0], 2).unwrap();
        // Blocks of two rows, the last of one.
        factor("w:output", &[2.0, -1.0, -1.0, 3.0, 4.0, 0.0], 2).unwrap();
        factor("w:output", &[0.0, 1.0], 1).unwrap();
        factor("w:input", &[1.0, 1e-4, 0.0, 1.0], 2).unwrap();
        factor("w:input", &[], 0).unwrap();
    }

    #[test]
    fn others_are_refused() {
        assert!(refusal(&[2.0, 0.0, 0.0, -3.0], 2).contains("has -3 on its diagonal, at row 1"));
        assert!(refusal(&[1.0, 0.0, 0.0, 1.0, -1.0, 0.0], 2).contains("at row 2"));
        assert!(refusal(&[2.0, 1.0, -1.0, 3.0], 2).contains("is not symmetric: -1 at (1, 0), 1 at (0, 1)"));
        assert!(refusal(&[1.0, 9.0, 9.0, 1.0], 2).contains("where its diagonals 1 and 1 allow 1"));
        assert!(refusal(&[1.0, -1.0], 1).contains("is -1 at place 1"));
    }
}
