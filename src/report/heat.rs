//! Bits per weight of every stored matrix.

use super::figure::As;
use super::ledger::{Ledger, short};
use super::svg::{Canvas, wide};

/// Roles from top to bottom, stored layers from left to right; `None` where no matrix has a layer.
pub fn heat(ledger: &Ledger, width: f64) -> Option<Canvas> {
    let roles = ledger.roles();
    let own = || ledger.matrices.iter().filter(|m| m.own);
    let mut layers: Vec<usize> = own().filter_map(|m| m.layer).collect();
    layers.sort_unstable();
    layers.dedup();
    if layers.is_empty() || layers.len() > 128 {
        return None;
    }
    let outside: Vec<_> = own().filter(|m| m.layer.is_none()).collect();
    let names = roles.iter().copied().chain(outside.iter().map(|m| m.role));
    let small = width < 400.0;
    let left = names.map(|role| wide(short(role), 12.0)).fold(60.0, f64::max).min(0.4 * width) + 12.0;
    let step = ((width - left - 8.0) / layers.len() as f64).min(150.0);
    let cell = if small { 24.0 } else { 28.0 };
    let top = 22.0;
    let mut canvas = Canvas::new(width, top + (roles.len() + outside.len()) as f64 * cell + 4.0);
    let bits = || own().filter_map(|m| ledger.rows[m.row].bits);
    let (low, high) = (bits().fold(f64::INFINITY, f64::min), bits().fold(0.0, f64::max));
    let place = |canvas: &mut Canvas, [x, y, w]: [f64; 3], row: usize| {
        let row = &ledger.rows[row];
        let Some(bits) = row.bits else { return };
        // Never quite empty and never so full that text on it could not be read.
        let full = if high > low { (bits - low) / (high - low) } else { 0.5 };
        let look = format!("class=\"heat cell\" fill-opacity=\"{:.3}\" rx=\"3\"", 0.1 + 0.6 * full);
        canvas.rect([x + 1.0, y + 1.0, w - 2.0, cell - 2.0], &look, &row.title);
        let how = if w > 52.0 { Some(As::Bits) } else { None };
        let figure = how.and_then(|how| ledger.document.figure_in_picture(&format!("{}/bits_per_weight", row.at), how));
        if let Some(figure) = figure {
            canvas.raw_text([x + 0.5 * w, y + 0.5 * cell + 4.0], "mid over", &figure);
        }
    };
    canvas.text([left - 12.0, 13.0], "soft small end", "layer");
    let every = (20.0 / step).ceil().max(1.0) as usize;
    for (k, layer) in layers.iter().enumerate().filter(|(k, _)| k % every == 0) {
        canvas.text([left + (k as f64 + 0.5) * step, 13.0], "soft small mid", &layer.to_string());
    }
    for (r, role) in roles.iter().enumerate() {
        let y = top + r as f64 * cell;
        canvas.text([left - 12.0, y + 0.5 * cell + 4.0], "end", short(role));
        for (k, layer) in layers.iter().enumerate() {
            if let Some(m) = own().find(|m| m.role == *role && m.layer == Some(*layer)) {
                place(&mut canvas, [left + k as f64 * step, y, step], m.row);
            }
        }
    }
    for (r, m) in outside.iter().enumerate() {
        let y = top + (roles.len() + r) as f64 * cell;
        canvas.text([left - 12.0, y + 0.5 * cell + 4.0], "end", short(m.role));
        place(&mut canvas, [left, y, step.max(64.0)], m.row);
    }
    Some(canvas)
}
