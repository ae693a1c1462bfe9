//! Bytes as areas: a box for each block, in it one for each part.

use super::figure::As;
use super::ledger::{Ledger, Row, short};
use super::svg::{Canvas, wide};
use crate::text::list;

/// Every byte of a file.
pub fn treemap(ledger: &Ledger, width: f64, height: f64) -> Canvas {
    let mut canvas = Canvas::new(width, height);
    let mut groups: Vec<(String, Vec<&Row>)> = Vec::new();
    for row in ledger.rows.iter().filter(|row| row.bytes > 0.0) {
        let key = match &row.layers[..] {
            [] => String::new(),
            [one] => format!("layer {one}"),
            many if many.len() == ledger.copies.len() && many.len() > 1 => "all layers".into(),
            many => format!("layers {}", list(many)),
        };
        match groups.iter_mut().find(|(known, _)| *known == key) {
            Some((_, rows)) => rows.push(row),
            None => groups.push((key, vec![row])),
        }
    }
    let total = |rows: &[&Row]| rows.iter().map(|row| row.bytes).sum::<f64>();
    groups.iter_mut().for_each(|(_, rows)| rows.sort_by(|a, b| b.bytes.total_cmp(&a.bytes)));
    groups.sort_by(|a, b| total(&b.1).total_cmp(&total(&a.1)));
    let sizes: Vec<f64> = groups.iter().map(|(_, rows)| total(rows)).collect();
    for ((key, rows), frame) in groups.iter().zip(squarify(&sizes, [0.0, 0.0, width, height])) {
        let head = if !key.is_empty() && frame[2] > wide(key, 11.0) + 10.0 && frame[3] > 46.0 { 17.0 } else { 0.0 };
        let inner = [frame[0], frame[1] + head, frame[2], frame[3] - head];
        if head > 0.0 {
            canvas.text([frame[0] + 5.0, frame[1] + 12.5], "soft small", key);
        }
        let sizes: Vec<f64> = rows.iter().map(|row| row.bytes).collect();
        for (row, place) in rows.iter().zip(squarify(&sizes, inner)) {
            leaf(&mut canvas, ledger, row, place);
        }
        canvas.rect(frame, "class=\"frame\"", "");
    }
    canvas
}

fn leaf(canvas: &mut Canvas, ledger: &Ledger, row: &Row, place: [f64; 4]) {
    let [x, y, w, h] = place;
    canvas.rect(place, &format!("class=\"leaf {}\"", row.family.class()), &row.title);
    let name = short(row.part);
    if w > wide(name, 12.0) + 12.0 && h > 22.0 {
        canvas.text([x + 7.0, y + 16.0], "on", name);
        let bytes = ledger.document.figure_in_picture(&format!("{}/bytes", row.at), As::Count);
        if let Some(bytes) = bytes.filter(|_| h > 38.0 && w > 62.0) {
            canvas.raw_text([x + 7.0, y + 31.0], "on small", &bytes);
        }
    }
}

/// Places in `frame` (x, y, width, height) for areas of these sizes, the largest first, as square as may be (Bruls,
/// Huizing and van Wijk 2000).
fn squarify(sizes: &[f64], frame: [f64; 4]) -> Vec<[f64; 4]> {
    let total: f64 = sizes.iter().sum();
    let [mut x, mut y, mut w, mut h] = frame;
    let scale = w * h / total.max(f64::MIN_POSITIVE);
    let areas: Vec<f64> = sizes.iter().map(|size| size * scale).collect();
    let mut out = Vec::with_capacity(areas.len());
    let mut at = 0;
    while at < areas.len() {
        let side = w.min(h).max(1e-9);
        // The worst ratio of a row of areas along the shorter side.
        let worst = |row: &[f64]| {
            let thick = row.iter().sum::<f64>() / side;
            row.iter().map(|a| (a / thick / thick).max(thick * thick / a)).fold(0.0, f64::max)
        };
        let mut end = at + 1;
        while end < areas.len() && worst(&areas[at..=end]) <= worst(&areas[at..end]) {
            end += 1;
        }
        let thick = areas[at..end].iter().sum::<f64>() / side;
        let mut along = 0.0;
        for area in &areas[at..end] {
            let long = area / thick.max(1e-9);
            out.push(if w < h { [x + along, y, long, thick] } else { [x, y + along, thick, long] });
            along += long;
        }
        if w < h {
            (y, h) = (y + thick, (h - thick).max(0.0))
        } else {
            (x, w) = (x + thick, (w - thick).max(0.0))
        }
        at = end;
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn areas_are_as_their_sizes_and_inside(mut sizes in prop::collection::vec(1.0..1e6f64, 1..40)) {
            sizes.sort_by(|a, b| b.total_cmp(a));
            let places = squarify(&sizes, [10.0, 20.0, 400.0, 300.0]);
            let total: f64 = sizes.iter().sum();
            for (size, [x, y, w, h]) in sizes.iter().zip(&places) {
                prop_assert!((w * h / 120_000.0 - size / total).abs() < 1e-6);
                prop_assert!(*x >= 10.0 - 1e-6 && *y >= 20.0 - 1e-6 && x + w <= 410.0 + 1e-6 && y + h <= 320.0 + 1e-6);
            }
            prop_assert_eq!(places.len(), sizes.len());
        }
    }
}
