//! What is in a file, as tables.

use super::super::figures::{Side, Table, bar, bits, count, nats, percent, table, width};
use super::super::inspect::Inspected;
use super::{PAIR, hints};
use crate::inspect::{By, Inventory, InventoryKind, Row};
use crate::nets::names::split_layer;
use crate::recipe::Terms;
use crate::text::{list, thousands};

/// Columns of a bar.
const BAR: usize = 10;

/// Every byte of a file, largest part first.
pub fn inspected(inspected: &Inspected) -> String {
    let inventory = &inspected.inventory;
    let mut rows: Vec<&Row> = inventory.rows.iter().collect();
    rows.sort_by_key(|row| std::cmp::Reverse(row.bytes));
    let parts = match inspected.by {
        By::Stream => streams(inventory, &rows, inspected.shown),
        _ => groups(inspected),
    };
    let mut out = format!("{}\n{parts}", table(&PAIR, &head(inspected)));
    rows.retain(|row| row.indices.is_some() || row.fidelity.is_some());
    if !rows.is_empty() {
        out += &format!("\n{}", quality(inspected, &rows));
    }
    out + &hints(&inspected.notes)
}

fn head(inspected: &Inspected) -> Vec<Vec<String>> {
    let Inventory { path, arch, layers, copies, order, names, tensors, parameters, stored, weights, .. } =
        &inspected.inventory;
    let Inventory { bytes, bits_per_weight, .. } = &inspected.inventory;
    let line = |name: &str, value: String| vec![name.to_string(), value];
    let arch = if arch.is_empty() { "no known architecture" } else { arch };
    let each = bits_per_weight.map_or_else(String::new, |each| {
        format!(", {} bits for each of {} weights in stored matrices", bits(Some(each)), count(*weights))
    });
    let mut head = vec![
        line(
            match inspected.inventory.kind {
                InventoryKind::Artifact => "artifact",
                InventoryKind::Model => "model",
                InventoryKind::Bundle => "bundle",
            },
            path.clone(),
        ),
        line("network", format!("{arch}, {layers} layers")),
        line("bytes", format!("{}{each}", thousands(*bytes))),
        line("tensors", format!("{} names, {} stored", count(*names), count(*tensors))),
        line("weights", format!("{} with ties counted, {} stored", count(*parameters), count(*stored))),
        line("ties", ties(copies)),
    ];
    if order.len() != *layers || !order.is_sorted() {
        let order: Vec<String> = order.iter().map(ToString::to_string).collect();
        head.push(line("runs", format!("layers {}", order.join(" "))));
    }
    if !inspected.inventory.undeclared.is_empty() {
        let pairs = inspected.inventory.undeclared.iter().map(|(one, other)| format!("{one} = {other}"));
        head.push(line("undeclared", pairs.collect::<Vec<_>>().join(", ")));
    }
    if let Some(against) = &inspected.against {
        let loss = inspected.predicted_loss.map(|loss| format!(", predicted loss {} nats/token", nats(loss)));
        head.push(line("against", against.clone() + &loss.unwrap_or_default()));
    }
    head
}

/// Every stream or tensor; layers of one block are one row with their uses.
fn streams(inventory: &Inventory, rows: &[&Row], shown: Option<usize>) -> String {
    let made = if inventory.kind != InventoryKind::Model { "made of" } else { "type" };
    let mut table = Table::new([
        ("part", Side::Left),
        ("layers", Side::Left),
        ("shape", Side::Right),
        ("bytes", Side::Right),
        ("share", Side::Right),
        ("bits", Side::Right),
        (made, Side::Left),
    ]);
    let share = |bytes: u64| percent(bytes as f64 / inventory.bytes.max(1) as f64);
    let shown = shown.unwrap_or(usize::MAX).min(rows.len());
    for row in &rows[..shown] {
        let shape = row.shape.as_deref().unwrap_or_default();
        table.row(vec![
            part(row),
            list(&row.layers),
            shape.iter().map(ToString::to_string).collect::<Vec<_>>().join(" x "),
            thousands(row.bytes),
            share(row.bytes),
            bits(row.bits_per_weight),
            made_of(row),
        ]);
    }
    let empty = String::new;
    if let Some(others) = others(rows.len(), shown) {
        let bytes: u64 = rows[shown..].iter().map(|row| row.bytes).sum();
        table.row(vec![others, empty(), empty(), thousands(bytes), share(bytes), empty(), empty()]);
    }
    table.total(vec![
        "total".into(),
        empty(),
        empty(),
        thousands(inventory.bytes),
        share(inventory.bytes),
        bits(inventory.bits_per_weight),
        empty(),
    ]);
    table.text(width())
}

/// `23 others`, where not all are shown.
pub(super) fn others(all: usize, shown: usize) -> Option<String> {
    (all > shown).then(|| format!("{} others", count(all - shown)))
}

fn part(row: &Row) -> String {
    if row.tensors.len() > 1 { format!("{} ({})", row.part, row.tensors.len()) } else { row.part.clone() }
}

fn made_of(row: &Row) -> String {
    let Some(made) = &row.made else { return row.codec.clone().unwrap_or_default() };
    // The role is that of the row.
    let recipe = made.recipe.clone().refer(|from| match split_layer(&from) {
        Some((_, layer, _)) => format!("layer {layer}"),
        None => from,
    });
    match recipe.terms() {
        Some(Terms { prediction: None, rank: 0, residual: Some(grid) }) => format!("{recipe}, {grid}"),
        _ => recipe.to_string(),
    }
}

fn groups(inspected: &Inspected) -> String {
    let Inspected { inventory, by, groups, shown, .. } = inspected;
    let mut table = Table::new([
        (by.name(), Side::Left),
        ("rows", Side::Right),
        ("weights", Side::Right),
        ("bytes", Side::Right),
        ("bits", Side::Right),
        ("share", Side::Right),
        ("", Side::Left),
    ]);
    let weights = |n: usize| if n == 0 { String::new() } else { count(n) };
    let shown = shown.unwrap_or(usize::MAX).min(groups.len());
    let largest = groups.first().map_or(1.0, |group| group.share).max(f64::MIN_POSITIVE);
    for group in &groups[..shown] {
        table.row(vec![
            group.key.clone(),
            count(group.rows),
            weights(group.weights),
            thousands(group.bytes),
            bits(group.bits_per_weight),
            percent(group.share),
            bar(group.share / largest, BAR),
        ]);
    }
    if let Some(others) = others(groups.len(), shown) {
        let rest = &groups[shown..];
        table.row(vec![
            others,
            count(rest.iter().map(|group| group.rows).sum()),
            weights(rest.iter().map(|group| group.weights).sum()),
            thousands(rest.iter().map(|group| group.bytes).sum()),
            String::new(),
            percent(rest.iter().map(|group| group.share).sum()),
            String::new(),
        ]);
    }
    table.total(vec![
        "total".into(),
        count(inventory.rows.len()),
        count(inventory.stored),
        thousands(inventory.bytes),
        // That of the file is over the weights of matrices, which are not all of these.
        String::new(),
        percent(1.0),
        String::new(),
    ]);
    table.text(width())
}

/// What the bits of each matrix are worth.
fn quality(inspected: &Inspected, rows: &[&Row]) -> String {
    let mut table = Table::new([
        ("part", Side::Left),
        ("layers", Side::Left),
        ("bits", Side::Right),
        ("entropy", Side::Right),
        ("spent", Side::Right),
        ("zeros", Side::Right),
        ("error", Side::Right),
        ("of loss", Side::Right),
        ("bound", Side::Right),
        ("above", Side::Right),
    ]);
    let shown = inspected.shown.unwrap_or(usize::MAX).min(rows.len());
    for row in &rows[..shown] {
        let (indices, fidelity) = (row.indices, row.fidelity);
        let bound = fidelity.and_then(|f| f.gaussian_bound);
        let above = row.bits_per_weight.zip(bound).map(|(bits, bound)| format!("{:+.3}", bits - bound));
        let opt = |value: Option<f64>| value.map_or_else(String::new, percent);
        let name = part(row).replace(".weight", "");
        table.row(vec![
            name,
            list(&row.layers),
            bits(row.bits_per_weight),
            bits(indices.map(|i| i.entropy)),
            bits(indices.map(|i| i.spent)),
            opt(indices.map(|i| i.zeros)),
            opt(fidelity.map(|f| f.relative_error)),
            opt(fidelity.and_then(|f| f.loss_share)),
            bits(bound),
            above.unwrap_or_default(),
        ]);
    }
    if let Some(others) = others(rows.len(), shown) {
        table.row([vec![others], vec![String::new(); 9]].concat());
    }
    table.text(width())
}

/// `layers 0 1 0 3 3 0: 3 of 6 stored`.
pub(super) fn ties(copies: &[usize]) -> String {
    let own = copies.iter().enumerate().filter(|(layer, copy)| layer == *copy).count();
    if own == copies.len() {
        return format!("none, {own} of {own} layers stored");
    }
    let copies: Vec<String> = copies.iter().map(ToString::to_string).collect();
    format!("layers {}: {own} of {} stored", copies.join(" "), copies.len())
}
