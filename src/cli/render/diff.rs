//! What changed, as tables.

use std::fmt::Write;

use super::super::diff::Compared;
use super::super::figures::{Side, Table, bits, count, nats, percent, table, width};
use super::inspect::others;
use super::{PAIR, divergence, hints, losses, rows};
use crate::diff::{About, Difference};
use crate::nets::names::split_layer;
use crate::text::thousands;

/// What changed: bytes, structure, weights, losses.
pub fn compared(compared: &Compared) -> String {
    let Compared { difference, evaluation, notes, shown, .. } = compared;
    let shown = shown.unwrap_or(usize::MAX);
    let mut out = table(&PAIR, &[about("before", &difference.before), about("after", &difference.after)].concat());
    if !difference.different && evaluation.is_none() {
        let bytes = match difference.bytes.is_empty() {
            true => "every byte count agree",
            false => "their types agree; the files are of two kinds",
        };
        let same = format!("\nno difference: {} tensors and {bytes}\n", count(difference.weights.compared));
        return out + &same + &hints(notes);
    }
    for part in [bytes(difference, shown), structure(difference, shown), weights(difference, shown)] {
        if !part.is_empty() {
            let _ = write!(out, "\n{part}");
        }
    }
    if let Some(evaluation) = evaluation {
        let _ = write!(out, "\n{}\n", losses(evaluation, ["before", "after"]));
        let mut lines = Vec::new();
        if let Some(cost) = &evaluation.cost {
            lines.push(vec!["KL per position".to_string(), divergence(cost)]);
            lines.push(vec!["same top token".into(), format!("{:.2} % of positions", 100.0 * cost.same_top)]);
        }
        lines.push(vec!["validation".into(), rows(evaluation)]);
        out += &table(&PAIR, &lines);
    }
    out + &hints(notes)
}

fn about(name: &str, about: &About) -> Vec<Vec<String>> {
    let Some(kind) = about.kind else { return vec![vec![name.into(), "nothing".into()]] };
    let kind = format!("{kind:?}").to_lowercase();
    let copies: Vec<String> = about.copies.iter().map(ToString::to_string).collect();
    let layers = match about.copies.iter().enumerate().all(|(layer, copy)| layer == *copy) {
        true => format!("{} layers, none shared", count(copies.len())),
        false => format!("layers {}", copies.join(" ")),
    };
    let weights = count(about.weights);
    let each = about.bits_per_weight.map_or_else(String::new, |each| format!(" of {} bits", bits(Some(each))));
    vec![
        vec![name.into(), format!("{} ({kind})", about.path)],
        vec![String::new(), format!("{} bytes, {weights} stored weights{each}, {layers}", thousands(about.bytes))],
    ]
}

fn bytes(difference: &Difference, most: usize) -> String {
    let Difference { before, after, by, bytes, unchanged, .. } = difference;
    let mut table = Table::new([
        (by.name(), Side::Left),
        ("before", Side::Right),
        ("after", Side::Right),
        ("change", Side::Right),
        ("", Side::Right),
    ])
    .signed(3);
    let row = |name: String, before: u64, after: u64| {
        let change = after as i64 - before as i64;
        let relative = match (before, change) {
            (0, _) => "new".to_string(),
            _ if after == 0 => "gone".into(),
            (_, 0) => String::new(),
            _ => format!("{:+.1} %", 100.0 * change as f64 / before as f64),
        };
        vec![name, thousands(before), thousands(after), signed(change), relative]
    };
    let shown = most.min(bytes.len());
    for group in &bytes[..shown] {
        table.row(row(group.key.clone(), group.before, group.after));
    }
    if let Some(others) = others(bytes.len(), shown) {
        let rest = &bytes[shown..];
        let sum = |side: fn(&crate::diff::Bytes) -> u64| rest.iter().map(side).sum();
        table.row(row(others, sum(|group| group.before), sum(|group| group.after)));
    }
    if *unchanged > 0 {
        let same = before.bytes - bytes.iter().map(|group| group.before).sum::<u64>();
        table.row(row(format!("{} unchanged", count(*unchanged)), same, same));
    }
    table.total(row("total".into(), before.bytes, after.bytes));
    table.text(width())
}

/// `+1,234`, `-12`, `0`.
fn signed(n: i64) -> String {
    let sign = match n {
        1.. => "+",
        0 => "",
        _ => "-",
    };
    format!("{sign}{}", thousands(n.unsigned_abs()))
}

fn structure(difference: &Difference, most: usize) -> String {
    let mut out = String::new();
    let Difference { config, structure, steps, .. } = difference;
    if !config.is_empty() {
        let mut table = Table::new([("setting", Side::Left), ("before", Side::Left), ("after", Side::Left)]);
        let text = |value: &Option<serde_json::Value>| value.as_ref().map_or("none".into(), ToString::to_string);
        config.iter().for_each(|s| table.row(vec![s.key.clone(), text(&s.before), text(&s.after)]));
        let _ = writeln!(out, "{}", table.text(width()));
    }
    if !structure.is_empty() {
        let mut table = Table::new([("matrix", Side::Left), ("before", Side::Left), ("after", Side::Left)]);
        let shown = most.min(structure.len());
        for m in &structure[..shown] {
            let text = |made: &Option<String>| made.as_ref().map_or("none".into(), |made| by_layer(made, &m.tensor));
            table.row(vec![m.tensor.clone(), text(&m.before), text(&m.after)]);
        }
        if let Some(others) = others(structure.len(), shown) {
            table.row(vec![others, String::new(), String::new()]);
        }
        let _ = writeln!(out, "{}", table.text(width()));
    }
    if !steps.is_empty() {
        let mut table = Table::new([("matrix", Side::Left), ("step", Side::Right), ("", Side::Left)]);
        let shown = most.min(steps.len());
        for step in &steps[..shown] {
            let ratio = (step.after - step.before).exp2();
            let word = if ratio > 1.0 { "coarser" } else { "finer" };
            table.row(vec![step.tensor.clone(), format!("x {ratio:.3}"), word.into()]);
        }
        if let Some(others) = others(steps.len(), shown) {
            table.row(vec![others, String::new(), String::new()]);
        }
        let _ = writeln!(out, "{}", table.text(width()));
    }
    // A blank line between tables, none at the end.
    out.trim_end_matches('\n').to_string() + if out.is_empty() { "" } else { "\n" }
}

/// `0.15 x layer 3 + grid`: what a matrix is made of, matrices of its own role by their layers.
fn by_layer(made: &str, tensor: &str) -> String {
    let own = split_layer(tensor).map(|(stack, _, role)| (stack, role));
    let word = |word: &str| match split_layer(word) {
        Some((stack, layer, role)) if own == Some((stack, role)) => format!("layer {layer}"),
        _ => word.to_string(),
    };
    made.split(' ').map(word).collect::<Vec<_>>().join(" ")
}

fn weights(difference: &Difference, most: usize) -> String {
    let weights = &difference.weights;
    let mut out = String::new();
    if !weights.changed.is_empty() {
        let mut table = Table::new([("tensor", Side::Left), ("relative error", Side::Right), ("largest", Side::Right)]);
        let shown = most.min(weights.changed.len());
        for changed in &weights.changed[..shown] {
            let error = changed.relative_error.map_or("new".into(), percent);
            table.row(vec![changed.tensor.clone(), error, nats(f64::from(changed.largest))]);
        }
        if let Some(others) = others(weights.changed.len(), shown) {
            table.row(vec![others, String::new(), String::new()]);
        }
        out += &table.text(width());
    }
    for (what, names) in [
        ("no weights, and not the same", &weights.no_weights),
        ("only before", &weights.only_before),
        ("only after", &weights.only_after),
    ] {
        if !names.is_empty() {
            let shown = names.len().min(5);
            let more = others(names.len(), shown).map_or_else(String::new, |others| format!(" and {others}"));
            let _ = writeln!(out, "{what}: {}{more}", names[..shown].join(", "));
        }
    }
    for reshaped in &weights.reshaped {
        let _ = writeln!(out, "{}: {:?} before, {:?} after", reshaped.tensor, reshaped.before, reshaped.after);
    }
    let (identical, compared) = (count(weights.identical), count(weights.compared));
    let _ = write!(out, "{identical} of {compared} tensors identical");
    if weights.undecided > 0 {
        let _ = write!(out, "; --weights decodes and compares the other {}", count(weights.undecided));
    }
    out.push('\n');
    out
}
