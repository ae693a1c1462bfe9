//! Figures and tables as text.

use anstyle::{AnsiColor, Style};

use crate::escape;
pub use crate::text::nats;
use crate::text::{places, thousands};
use crate::verify::statistics::Estimate;

/// A count, thousands set apart.
pub fn count(n: usize) -> String {
    thousands(n as u64)
}

/// `0.0070 ± 0.0002`.
pub fn estimate(e: Estimate) -> String {
    with_error(mean(e), e)
}

/// `+0.0041 ± 0.0006`.
pub fn difference(e: Estimate) -> String {
    with_error(format!("{:+.*}", places(e.value, e.standard_error), e.value), e)
}

/// The mean alone, with the decimals that it has beside its error.
pub fn mean(e: Estimate) -> String {
    format!("{:.*}", places(e.value, e.standard_error), e.value)
}

fn with_error(value: String, e: Estimate) -> String {
    match e.standard_error {
        Some(error) => format!("{value} ± {error:.*}", places(e.value, e.standard_error)),
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
    let rows: Vec<Vec<String>> = rows.iter().cloned().map(escaped).collect();
    let wide = |text: &str| text.chars().count();
    let widths: Vec<usize> = (0..sides.len())
        .map(|column| rows.iter().filter_map(|row| row.get(column)).map(|cell| wide(cell)).max().unwrap_or(0))
        .collect();
    let mut out = String::new();
    for row in &rows {
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

/// Cells as a terminal may show them, so that their width is known.
fn escaped(cells: Vec<String>) -> Vec<String> {
    cells.iter().map(|cell| escape::line(cell).into_owned()).collect()
}

/// Columns that a line may have: as many as the terminal, 80 where there is none.
pub fn width() -> usize {
    console::Term::stdout().size_checked().map_or(80, |(_, columns)| usize::from(columns).clamp(40, 400))
}

/// A table with a head and a last line that sums up. No wider than it may be: the first column gives way, then the last.
pub struct Table {
    sides: Vec<Side>,
    /// The head first.
    rows: Vec<Vec<String>>,
    total: bool,
    /// Column whose sign is coloured: more is red, less is green.
    signed: Option<usize>,
}

/// What the first column keeps.
const LEAST: usize = 12;

impl Table {
    pub fn new<const N: usize>(head: [(&str, Side); N]) -> Table {
        let (titles, sides) = head.iter().map(|(title, side)| ((*title).to_string(), *side)).unzip();
        Table { sides, rows: vec![titles], total: false, signed: None }
    }

    #[must_use]
    pub fn signed(mut self, column: usize) -> Table {
        self.signed = Some(column);
        self
    }

    pub fn row(&mut self, cells: Vec<String>) {
        self.rows.push(escaped(cells));
    }

    pub fn total(&mut self, cells: Vec<String>) {
        self.rows.push(escaped(cells));
        self.total = true;
    }

    /// The table in at most `width` columns, if its first can be cut to that, with colours for a terminal.
    pub fn text(mut self, width: usize) -> String {
        let wide = |text: &str| text.chars().count();
        // The head alone is no use.
        let used =
            |column: usize| self.rows.iter().skip(1).filter_map(|row| row.get(column)).any(|cell| !cell.is_empty());
        let shown: Vec<usize> = (0..self.sides.len()).filter(|column| self.rows.len() < 2 || used(*column)).collect();
        let widest = |rows: &[Vec<String>], column: usize| rows.iter().map(|row| wide(&row[column])).max().unwrap_or(0);
        let rest: usize = shown.iter().skip(1).map(|column| 2 + widest(&self.rows, *column)).sum();
        let first = width.saturating_sub(rest).max(LEAST);
        for row in &mut self.rows {
            row[0] = elided(&row[0], first);
        }
        // Then the last, if it is text.
        let all: usize = shown.iter().map(|column| 2 + widest(&self.rows, *column)).sum::<usize>().saturating_sub(2);
        let last = shown[shown.len() - 1];
        if all > width && last > 0 && self.sides[last] == Side::Left {
            let most = (widest(&self.rows, last) + width).saturating_sub(all).max(LEAST);
            for row in self.rows.iter_mut().filter(|row| wide(&row[last]) > most) {
                row[last] = row[last].chars().take(most - 1).chain(['…']).collect();
            }
        }
        let widths: Vec<usize> = shown.iter().map(|column| widest(&self.rows, *column)).collect();
        let last = self.rows.len() - 1;
        let mut out = String::new();
        for (n, row) in self.rows.iter().enumerate() {
            let style = match n {
                0 => Style::new().dimmed(),
                n if n == last && self.total => Style::new().bold(),
                _ => Style::new(),
            };
            let mut line = String::new();
            for (column, width) in shown.iter().zip(&widths) {
                let (cell, gap) = (&row[*column], " ".repeat(width - wide(&row[*column])));
                let sign = cell.trim_start().chars().next().filter(|_| self.signed == Some(*column) && n > 0);
                let cell = match sign {
                    Some('+') => format!("{0}{cell}{0:#}{style}", AnsiColor::Red.on_default()),
                    Some('-') => format!("{0}{cell}{0:#}{style}", AnsiColor::Green.on_default()),
                    _ => cell.clone(),
                };
                match self.sides[*column] {
                    Side::Left => line.extend([&cell[..], &gap, "  "]),
                    Side::Right => line.extend([&gap, &cell[..], "  "]),
                }
            }
            out.push_str(&format!("{style}{}{style:#}\n", line.trim_end()));
        }
        out
    }
}

/// A text in at most `most` columns, its middle left out.
fn elided(text: &str, most: usize) -> String {
    let n = text.chars().count();
    if n <= most {
        return text.into();
    }
    // The end tells more: names differ there.
    let head = (most - 1) / 3;
    let tail = most - 1 - head;
    text.chars().take(head).chain(['…']).chain(text.chars().skip(n - tail)).collect()
}

/// A share as a bar of at most `most` columns, in eighths of one.
pub fn bar(share: f64, most: usize) -> String {
    let eighths = (share.clamp(0.0, 1.0) * 8.0 * most as f64).round() as usize;
    let part = ["", "▏", "▎", "▍", "▌", "▋", "▊", "▉"][eighths % 8];
    "█".repeat(eighths / 8) + part
}

/// `12.3 %`.
pub fn percent(share: f64) -> String {
    format!("{:.1} %", 100.0 * share)
}

/// Two or three digits of something small, as `3.698`; nothing where there is nothing.
pub fn bits(bits: Option<f64>) -> String {
    bits.map_or_else(String::new, |bits| format!("{bits:.3}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_give_way_in_narrow_tables() {
        let mut table = Table::new([("tensor", Side::Left), ("bytes", Side::Right), ("note", Side::Left)]).signed(1);
        table.row(vec!["blocks.3.attn.c_q.weight".into(), "+1,000".into(), String::new()]);
        table.total(vec!["total".into(), "-12".into(), String::new()]);
        let text = anstream::adapter::strip_str(&table.text(24)).to_string();
        // The empty column is gone as well.
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines, ["tensor             bytes", "block…c_q.weight  +1,000", "total                -12"]);
    }

    #[test]
    fn bars_have_eighths() {
        assert_eq!([bar(0.0, 4), bar(1.0, 4), bar(0.5, 3), bar(2.0, 2)], ["", "████", "█▌", "██"]);
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
