//! Figures and tables as text.

use crate::text::thousands;
use crate::verify::statistics::Estimate;

/// A count, thousands set apart.
pub fn count(n: usize) -> String {
    thousands(n as u64)
}

/// Decimals that show two digits of `x`, at least 4 and at most 9.
fn decimals(x: f64) -> usize {
    if x == 0.0 || !x.is_finite() {
        return 4;
    }
    (1.0 - x.abs().log10().floor()).clamp(4.0, 9.0) as usize
}

/// A loss or a divergence: four decimals, more when it is tiny.
pub fn nats(x: f64) -> String {
    format!("{x:.*}", decimals(x))
}

/// `0.0070 ± 0.0002`.
pub fn estimate(e: Estimate) -> String {
    with_error(format!("{:.*}", places(e), e.value), e)
}

/// `+0.0041 ± 0.0006`.
pub fn difference(e: Estimate) -> String {
    with_error(format!("{:+.*}", places(e), e.value), e)
}

/// The mean and its error have the same number of decimals, as many as the more telling of the two needs.
fn places(e: Estimate) -> usize {
    let error = e.standard_error.filter(|e| *e > 0.0).unwrap_or(e.value);
    decimals(error).min(decimals(e.value).max(4)).max(4)
}

fn with_error(value: String, e: Estimate) -> String {
    match e.standard_error {
        Some(error) => format!("{value} ± {error:.*}", places(e)),
        None => value,
    }
}

/// Where a column's text stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    Left,
    Right,
}

/// Columns two spaces apart, each as wide as its widest cell; lines end without spaces.
pub fn table(sides: &[Side], rows: &[Vec<String>]) -> String {
    let wide = |text: &str| text.chars().count();
    let widths: Vec<usize> = (0..sides.len())
        .map(|column| rows.iter().filter_map(|row| row.get(column)).map(|cell| wide(cell)).max().unwrap_or(0))
        .collect();
    let mut out = String::new();
    for row in rows {
        let mut line = String::new();
        for ((cell, side), width) in row.iter().zip(sides).zip(&widths) {
            let pad = " ".repeat(width - wide(cell));
            let (before, after) = if *side == Side::Right { (pad.as_str(), "") } else { ("", pad.as_str()) };
            line.push_str(before);
            line.push_str(cell);
            line.push_str(after);
            line.push_str("  ");
        }
        out.push_str(line.trim_end());
        out.push('\n');
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tiny_figures_keep_two_digits() {
        assert_eq!(
            [nats(2.83951), nats(0.0), nats(0.0000123), nats(1e-12)],
            ["2.8395", "0.0000", "0.000012", "0.000000000"]
        );
    }

    #[test]
    fn an_error_has_the_decimals_of_its_mean() {
        let of = |value, error| Estimate { value, standard_error: error };
        assert_eq!(difference(of(0.0041, Some(0.0006))), "+0.0041 ± 0.0006");
        assert_eq!(difference(of(-0.000041, Some(0.000006))), "-0.000041 ± 0.000006");
        assert_eq!(estimate(of(0.0, Some(0.0))), "0.0000 ± 0.0000");
        assert_eq!(estimate(of(0.0173, None)), "0.0173");
    }

    #[test]
    fn tables_line_up() {
        let rows = [vec!["a".into(), "1,000".into()], vec!["bcd".into(), "2".into()]];
        assert_eq!(table(&[Side::Left, Side::Right], &rows), "a    1,000\nbcd      2\n");
    }
}
