//! The tie map: depth against storage.

use super::ledger::{Ledger, short};
use super::svg::{Canvas, px, shared, wide};
use crate::text::thousands;

/// Executed layers from left to right, stored blocks from top to bottom, and under them every matrix. `None` without layers.
pub fn ties(ledger: &Ledger, width: f64) -> Option<Canvas> {
    let (steps, roles) = (&ledger.order, ledger.roles());
    let block = |layer: usize| ledger.copies.get(layer).copied().unwrap_or(layer);
    let mut blocks: Vec<usize> = steps.iter().map(|layer| block(*layer)).collect();
    blocks.sort_unstable();
    blocks.dedup();
    if steps.is_empty() || blocks.len() > 64 || steps.len() > 128 {
        return None;
    }
    let small = width < 400.0;
    let longest = roles.iter().map(|role| wide(short(role), 12.0)).fold(0.0, f64::max);
    let left = longest.max(if small { 66.0 } else { 142.0 }).min(0.4 * width) + 12.0;
    let step = ((width - left - 8.0) / steps.len() as f64).min(150.0);
    let lane = (420.0 / blocks.len() as f64).clamp(15.0, 34.0);
    let cell = if small { 13.0 } else { 17.0 };
    let (top, x) = (24.0, |k: usize| left + (k as f64 + 0.5) * step);
    let y = |block: usize| top + (blocks.iter().position(|b| *b == block).unwrap_or(0) as f64 + 0.5) * lane;
    let grid = top + lane * blocks.len() as f64 + 30.0;
    let mut canvas = Canvas::new(width, grid + roles.len() as f64 * cell + 6.0);
    let colours = ledger.shared();
    let fill = |owner: usize, many: bool| match colours.get(&owner).filter(|_| many) {
        Some(k) => format!("fill=\"{}\"", shared(*k)),
        None => "class=\"idle\"".into(),
    };

    canvas.text(
        [left, 12.0],
        "soft small",
        if small { "layers as they run →" } else { "layers in the order in which they run →" },
    );
    canvas.text([left - 12.0, 12.0], "soft small end", "stored");
    for b in &blocks {
        let uses: Vec<usize> = (0..steps.len()).filter(|k| block(steps[*k]) == *b).collect();
        let (first, last) = (uses[0], uses[uses.len() - 1]);
        let look = fill(*b, uses.len() > 1);
        canvas.line([left, y(*b), left + step * steps.len() as f64, y(*b)], "class=\"rule\"");
        if uses.len() > 1 {
            let h = 0.5 * lane;
            canvas.rect([x(first), y(*b) - 0.5 * h, x(last) - x(first), h], &format!("{look} opacity=\".22\""), "");
        }
        let bytes: f64 = ledger
            .rows
            .iter()
            .filter(|row| row.layers.first() == Some(b) && row.layers.iter().all(|layer| block(*layer) == *b))
            .map(|row| row.bytes)
            .sum();
        let name = if small { format!("block {b}") } else { format!("block {b}, {} bytes", thousands(bytes as u64)) };
        canvas.text([left - 12.0, y(*b) + 4.0], "end", &name);
    }
    let mut d = format!("M{} {}", px(x(0)), px(y(block(steps[0]))));
    for k in 1..steps.len() {
        let (x0, x1, y0, y1) = (x(k - 1), x(k), y(block(steps[k - 1])), y(block(steps[k])));
        let mid = 0.5 * (x0 + x1);
        d += &format!("C{} {} {} {} {} {}", px(mid), px(y0), px(mid), px(y1), px(x1), px(y1));
    }
    canvas.path(&d, "class=\"path\"");
    let side = (0.66 * lane).min(0.7 * step).min(22.0);
    for (k, layer) in steps.iter().enumerate() {
        let b = block(*layer);
        let many = steps.iter().filter(|l| block(**l) == b).count() > 1;
        let look = format!("{} rx=\"4\" stroke=\"var(--card)\" stroke-width=\"1.5\"", fill(b, many));
        let title = format!("layer {layer} runs block {b}");
        canvas.rect([x(k) - 0.5 * side, y(b) - 0.5 * side, side, side], &look, &title);
    }
    let every = (22.0 / step).ceil().max(1.0) as usize;
    for (k, layer) in steps.iter().enumerate().filter(|(k, _)| k % every == 0) {
        canvas.text([x(k), grid - 10.0], "soft small mid", &layer.to_string());
    }
    for (r, role) in roles.iter().enumerate() {
        let top = grid + r as f64 * cell;
        canvas.text([left - 12.0, top + 0.5 * cell + 4.0], "soft small end", short(role));
        for (k, layer) in steps.iter().enumerate() {
            let Some(m) = ledger.matrices.iter().find(|m| m.role == *role && m.layer == Some(*layer)) else { continue };
            let Some(owner) = m.owner else { continue };
            let many = ledger.matrices.iter().filter(|o| o.role == *role && o.owner == Some(owner)).count() > 1
                || steps.iter().filter(|l| *l == layer).count() > 1;
            let place = [x(k) - 0.5 * step + 1.0, top + 1.0, step - 2.0, cell - 2.0];
            let title = &ledger.rows[m.row].title;
            match m.from {
                // Something of another layer and something of its own.
                Some(from) => {
                    let look = format!("{} class=\"cell\" opacity=\".5\"", fill(from, true));
                    canvas.rect(place, &look, title);
                    let half = [place[0] + 0.5 * place[2], place[1] + 0.25 * place[3], 0.5 * place[2], 0.75 * place[3]];
                    canvas.rect(half, "class=\"idle\"", title);
                }
                None if m.own => canvas.rect(place, &format!("{} rx=\"2.5\"", fill(owner, many)), title),
                None => canvas.rect(place, &format!("{} rx=\"2.5\" opacity=\".5\"", fill(owner, many)), title),
            }
        }
    }
    Some(canvas)
}
