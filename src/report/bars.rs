//! Changes as bars to the left and to the right.

use super::figure::{As, Document};
use super::svg::{Canvas, wide};

/// What changed most: a bar for each, by its name and the JSON pointer of its figure.
pub fn bars(document: Document, bars: &[(String, String)], how: As, width: f64) -> Option<Canvas> {
    let value = |pointer: &String| document.number(pointer).unwrap_or(0.0);
    let most = bars.iter().map(|(_, at)| value(at).abs()).fold(0.0, f64::max);
    if most <= 0.0 {
        return None;
    }
    let row = 24.0;
    let left = bars.iter().map(|(name, _)| wide(name, 12.0)).fold(60.0, f64::max).min(0.42 * width) + 12.0;
    let right = 86.0;
    let signed = bars.iter().any(|(_, at)| value(at) < 0.0);
    let room = width - left - right - if signed { 78.0 } else { 0.0 };
    // Zero stands where both sides have the room they need.
    let down = bars.iter().map(|(_, at)| (-value(at)).max(0.0)).fold(0.0, f64::max);
    let up = bars.iter().map(|(_, at)| value(at).max(0.0)).fold(0.0, f64::max);
    let scale = room / (down + up);
    let zero = left + if signed { 78.0 } else { 0.0 } + down * scale;
    let mut canvas = Canvas::new(width, bars.len() as f64 * row + 4.0);
    for (k, (name, at)) in bars.iter().enumerate() {
        let (y, value) = (k as f64 * row, value(at));
        let fits = ((left - 12.0) / 6.6) as usize;
        let shown: String = match name.chars().count() {
            n if n > fits => format!("…{}", name.chars().skip(n - fits.saturating_sub(1)).collect::<String>()),
            _ => name.clone(),
        };
        canvas.text([left - 12.0, y + 16.0], "end", &shown);
        let (x, w) = if value < 0.0 { (zero + value * scale, -value * scale) } else { (zero, value * scale) };
        let class = if value < 0.0 { "less" } else { "more" };
        canvas.rect([x, y + 4.0, w.max(1.0), row - 9.0], &format!("class=\"{class}\" rx=\"3\""), name);
        if let Some(figure) = document.figure_in_picture(at, how) {
            let (x, class) = if value < 0.0 { (x - 7.0, "small end") } else { (x + w + 7.0, "small") };
            canvas.raw_text([x, y + 15.5], class, &figure);
        }
    }
    canvas.line([zero, 0.0, zero, canvas.height], "class=\"rule\"");
    Some(canvas)
}
