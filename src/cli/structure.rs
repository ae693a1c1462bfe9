//! What became of every layer and role, as a table, and how the search over layers went.

use std::fmt::Write;

use super::figures::{Side, count, nats, table};
use crate::compile::{Next, Row, Searched, Structure};
use crate::text::thousands;

/// Changes that are named.
const NAMED: usize = 3;

/// Matrices of the same layers that are made the same way stand in one line.
pub fn text(structure: &Structure) -> String {
    let mut lines =
        vec![["layer", "matrices", "made of", "bytes", "nats", "next best", "nats more"].map(String::from).to_vec()];
    for rows in structure.rows.chunk_by(|a, b| a.layers == b.layers && a.made == b.made && a.made == "alone") {
        let next = rows.iter().filter_map(|row| Some((row, row.next.as_ref()?)));
        let next = next.min_by(|(_, a), (_, b)| a.more.total_cmp(&b.more));
        lines.push(vec![
            layers(&rows[0]),
            if rows.len() > 1 { count(rows.len()) } else { rows[0].role.clone() },
            rows[0].made.clone(),
            thousands(rows.iter().map(|row| row.bytes).sum()),
            nats(rows.iter().map(|row| row.nats).sum()),
            next.map_or_else(String::new, |(row, next)| better(row, next, rows.len())),
            next.map_or_else(String::new, |(_, next)| more(next.more)),
        ]);
    }
    let sides = [Side::Left, Side::Left, Side::Left, Side::Right, Side::Right, Side::Left, Side::Right];
    let mut out = table(&sides, &lines);
    if let Some(search) = &structure.search {
        out.push_str(&searched(search));
    }
    out
}

fn layers(row: &Row) -> String {
    match &row.layers[..] {
        [] => "-".into(),
        layers => layers.iter().map(ToString::to_string).collect::<Vec<_>>().join(", "),
    }
}

fn more(nats: f64) -> String {
    if nats == 0.0 { "0".into() } else { format!("{nats:+.1e}") }
}

/// `mlp.proj.weight: rank 2 + grid (in theory)`.
fn better(row: &Row, next: &Next, among: usize) -> String {
    let of = if among > 1 { format!("{}: ", row.role) } else { String::new() };
    format!("{of}{}{}", next.made, if next.coded { "" } else { " (in theory)" })
}

fn searched(search: &Searched) -> String {
    let mut out = String::new();
    let end = if search.finished { "nothing more pays" } else { "ended before all was tried" };
    let kept = match &search.kept[..] {
        [] => "no layer is shared or left out".into(),
        kept => format!(
            "{}: KL {} to {} on calibration tokens",
            kept.join(", then "),
            nats(search.start),
            nats(search.found)
        ),
    };
    let rough = match search.rough {
        0 => String::new(),
        n => format!("{} structures tried roughly, ", count(n)),
    };
    let _ = writeln!(out, "\n{rough}{} structures packed and judged, {kept}; {end}", count(search.trials));
    for seen in search.nearest.iter().take(NAMED) {
        let (saved, adds) = (thousands(seen.probe.saved.max(0.0) as u64), seen.probe.kl - search.found);
        let value = search.found.min(search.price * seen.probe.saved);
        let at_least = if seen.probe.complete { "" } else { "at least " };
        let _ = writeln!(
            out,
            "  {}: saves {saved} bytes, worth {} nats, adds {at_least}{} (predicted {})",
            seen.change,
            nats(value),
            nats(adds),
            nats(seen.probe.predicted)
        );
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::climb::Probed;
    use crate::plan::evaluator::Probe;
    use crate::plan::moves::{Move, Piece};

    #[test]
    fn a_table_says_why() {
        let row = |layer: usize, role: &str, made: &str, next: Option<(&str, f64, bool)>| Row {
            tensor: format!("blocks.{layer}.{role}"),
            role: role.into(),
            layers: vec![layer],
            made: made.into(),
            bytes: 12_000,
            nats: 0.0011,
            next: next.map(|(made, more, coded)| Next { made: made.into(), more, coded }),
        };
        let change = Move::Copy { piece: Piece { layer: 1, branch: None }, of: 0, rank: 0 };
        let probe = Probe { kl: 0.31, error: 0.01, complete: false, saved: 81_000.0, predicted: 9.7 };
        let structure = Structure {
            rows: vec![
                row(0, "attn.c_q.weight", "alone", Some(("rank 2 + grid", 2e-4, true))),
                row(0, "mlp.fc.weight", "alone", Some(("zeros", 0.3, false))),
                row(1, "attn.c_q.weight", "blocks.0.attn.c_q.weight + rank 3", Some(("alone", 1e-3, true))),
                row(1, "mlp.fc.weight", "zeros", None),
            ],
            search: Some(Searched {
                trials: 27,
                rough: 60,
                finished: true,
                start: 0.12,
                found: 0.11,
                kept: vec!["without layer 1 mlp".into()],
                price: 2e-6,
                nearest: vec![Probed { change, probe, short: 0.09 }],
            }),
        };
        insta::assert_snapshot!(text(&structure), @"
        layer  matrices         made of                             bytes    nats  next best                       nats more
        0      2                alone                              24,000  0.0022  attn.c_q.weight: rank 2 + grid    +2.0e-4
        1      attn.c_q.weight  blocks.0.attn.c_q.weight + rank 3  12,000  0.0011  alone                             +1.0e-3
        1      mlp.fc.weight    zeros                              12,000  0.0011

        60 structures tried roughly, 27 structures packed and judged, without layer 1 mlp: KL 0.1200 to 0.1100 on calibration tokens; nothing more pays
          layer 1 as 0: saves 81,000 bytes, worth 0.1100 nats, adds at least 0.2000 (predicted 9.7000)
        ");
    }
}
