//! Loss against bytes, as a table.

use super::super::figures::{Side, Table, bits, count, difference, estimate, width};
use super::super::frontier::{Frontier, Point};
use super::{hints, rows};
use crate::text::thousands;

/// A line for each cap, then what they say.
pub fn frontier(frontier: &Frontier) -> String {
    let mut table = Table::new([
        ("cap", Side::Right),
        ("bytes", Side::Right),
        ("bits", Side::Right),
        ("KL", Side::Right),
        ("loss", Side::Right),
        ("next .001", Side::Right),
    ]);
    for point in &frontier.points {
        table.row(line(point));
    }
    let mut out = table.text(width());
    for point in &frontier.points {
        if let Some(refusal) = &point.refusal {
            out += &format!("\n{}: {refusal}\n", thousands(point.cap));
        }
    }
    if let Some(evaluation) = frontier.points.iter().find_map(|point| point.evaluation.as_ref()) {
        out += &format!(
            "\nvalidation: {}. KL and loss in nats per token; `next .001`: bytes that the next\n",
            rows(evaluation)
        );
        out += "thousandth of a nat of KL costs.\n";
    }
    if let Some(width) = frontier.width.filter(|width| width.unshared > width.stored) {
        let [stored, unshared] = [width.stored, width.unshared].map(count);
        out += &format!(
            "\nsharing stores {stored} of {unshared} weights. At the same bits a weight the bytes it saves\n\
             would widen this shape from {} to {} columns",
            width.columns, width.widened
        );
        let measured = frontier.points.iter().rev().find_map(|point| point.bytes.zip(point.saved_by_sharing));
        if let Some((bytes, saved)) = measured {
            out += &format!("; at {} bytes these are {}", thousands(bytes), thousands(saved.round() as u64));
        }
        out += ".\n";
    }
    out + &hints(&frontier.notes)
}

fn line(point: &Point) -> Vec<String> {
    let cost = point.evaluation.as_ref().and_then(|evaluation| evaluation.cost.as_ref());
    let none = String::new;
    vec![
        thousands(point.cap),
        point.bytes.map_or_else(|| "does not fit".into(), thousands),
        bits(point.bits_per_weight),
        cost.map_or_else(none, |cost| estimate(cost.divergence.mean)),
        cost.map_or_else(none, |cost| difference(cost.nats_per_token)),
        point.bytes_per_millinat.map_or_else(none, |price| thousands(price.round() as u64)),
    ]
}
