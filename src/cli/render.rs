//! Every report as text.

use std::fmt::Write;

use super::eval::Evaluated;
use super::figures::{Side, count, difference, estimate, nats, table};
use super::pack::{Healing, Packed};
use super::unpack::Unpacked;
use super::verify::Verified;
use crate::error::Error;
use crate::inspect::{Inventory, Kind, Row};
use crate::text::thousands;
use crate::verify::verdict::{Budget, Cost, Evaluation, Note, Verdict};

const PAIR: [Side; 2] = [Side::Left, Side::Left];

/// The verdict, and what was packed in its last line.
pub fn packed(packed: &Packed) -> String {
    let Packed { model, verdict, cached_statistics, .. } = packed;
    let stage = |stage: &super::pack::Stage| format!("{} {:.1} s", stage.stage, stage.seconds);
    let mut stages: Vec<String> = packed.stages.iter().map(stage).collect();
    if *cached_statistics {
        stages.push("statistics from an earlier run".into());
    }
    stages.push(format!("verify {:.1} s", verdict.seconds));
    let healing = packed.healing.as_ref().map(healing);
    let mut out = packed.structure.as_ref().map_or_else(String::new, |found| super::structure::text(found) + "\n");
    out.push_str(&body(verdict, healing, Some(stages.join(", "))));
    let size = match verdict.budget {
        Some(Budget { total, cap, .. }) => format!("{} of {} bytes", thousands(total), thousands(cap)),
        None => format!("{} bytes", thousands(verdict.artifact.bytes)),
    };
    let cost = match verdict.evaluation.as_ref().and_then(|e| e.cost.as_ref()) {
        Some(cost) => {
            format!("loss {} nats/token, KL {}", difference(cost.nats_per_token), nats(cost.divergence.mean.value))
        }
        None => "not evaluated".into(),
    };
    if let Some(bundle) = &packed.bundle {
        let _ = write!(out, "\n{}", bundle.text());
    }
    let _ = writeln!(out, "\npacked {model}: {size}, {cost}");
    out
}

/// The verdict, its conclusion in the last line.
pub fn verified(verified: &Verified) -> String {
    let verdict = &verified.verdict;
    let mut out = body(verdict, None, None);
    let found = match &verdict.against {
        Some(against) => format!("decodes, with the architecture and the ties of {}", against.path),
        None => "decodes to the tensors it was made of".into(),
    };
    let _ = writeln!(out, "\nverified {}: {found}", verdict.artifact.path);
    out
}

/// The loss in one line.
pub fn evaluated(evaluated: &Evaluated) -> String {
    let Evaluated { model, stride, documents, evaluation, losses, notes } = evaluated;
    let mut out = format!("{model}: {} nats/token", nats(evaluation.packed.nats_per_token));
    if let Some(bits) = evaluation.packed.bits_per_byte {
        let _ = write!(out, ", {} bits/byte", nats(bits));
    }
    let _ = write!(out, " on {}", rows(evaluation));
    if *stride < evaluation.row_length {
        let _ = write!(out, ", stride {stride}");
    }
    if let Some(documents) = documents {
        let _ = write!(out, ", {} documents", count(*documents));
    }
    out.push('\n');
    if let Some(path) = losses {
        let _ = writeln!(out, "wrote {}, {} losses", path.display(), count(evaluation.tokens));
    }
    out + &hints(notes)
}

/// Every byte of a file: by stream or tensor, then by role.
pub fn inventory(inventory: &Inventory) -> String {
    let Inventory { path, arch, layers, copies, names, tensors, parameters, stored, bytes, .. } = inventory;
    let mut head = vec![
        vec![path.clone(), format!("{arch}, {layers} layers")],
        vec!["bytes".into(), thousands(*bytes)],
        vec!["tensors".into(), format!("{} names, {} stored", count(*names), count(*tensors))],
        vec!["weights".into(), format!("{} with ties counted, {} stored", count(*parameters), count(*stored))],
        vec!["ties".into(), ties(copies)],
    ];
    if !inventory.undeclared.is_empty() {
        let pairs: Vec<String> = inventory.undeclared.iter().map(|(one, other)| format!("{one} = {other}")).collect();
        head.push(vec!["undeclared".into(), pairs.join(", ")]);
    }
    let codec = if inventory.kind == Kind::Artifact { "codec" } else { "type" };
    let titles = ["part", "layers", "shape", "weights", "bytes", "bits/weight", codec];
    let mut lines = vec![titles.map(String::from).to_vec()];
    lines.extend(inventory.rows.iter().map(row));
    let each = [Side::Left, Side::Left, Side::Right, Side::Right, Side::Right, Side::Right, Side::Left];

    let mut roles = vec![["by role", "rows", "weights", "bytes", "bits/weight", "share"].map(String::from).to_vec()];
    let bits = |bits: Option<f64>| bits.map_or_else(String::new, |bits| format!("{bits:.3}"));
    for role in &inventory.roles {
        roles.push(vec![
            role.part.clone(),
            count(role.rows),
            weights(role.weights),
            thousands(role.bytes),
            bits(role.bits_per_weight),
            format!("{:.1} %", 100.0 * role.share),
        ]);
    }
    roles.push(vec![
        "total".into(),
        count(inventory.rows.len()),
        count(*stored),
        thousands(*bytes),
        bits(Some(8.0 * *bytes as f64 / (*stored).max(1) as f64)),
        "100.0 %".into(),
    ]);
    let by_role = [Side::Left, Side::Right, Side::Right, Side::Right, Side::Right, Side::Right];
    format!("{}\n{}\n{}", table(&PAIR, &head), table(&each, &lines), table(&by_role, &roles))
}

/// What was written where.
pub fn unpacked(unpacked: &Unpacked) -> String {
    let Unpacked { files, types } = unpacked;
    let mut out = String::new();
    for file in files {
        let (path, bytes) = (file.path.display(), thousands(file.bytes));
        let _ = match file.kept {
            true => writeln!(out, "kept {path}, which says the same"),
            false => writeln!(out, "wrote {path}, {bytes} bytes"),
        };
    }
    let types: Vec<String> = types.iter().map(|(name, tensors)| format!("{} in {name}", count(*tensors))).collect();
    let _ = writeln!(out, "tensors: {}", types.join(", "));
    out
}

/// `error: …` and, where there is one, `hint: …`.
pub fn error(error: &Error) -> String {
    let hint = error.hint.as_ref().map_or_else(String::new, |hint| format!("hint: {hint}\n"));
    format!("error: {error}\n{hint}")
}

/// The tables of a verdict and its notes.
fn body(verdict: &Verdict, healing: Option<String>, times: Option<String>) -> String {
    let mut out = String::new();
    if let Some(evaluation) = &verdict.evaluation {
        out.push_str(&losses(evaluation));
        out.push('\n');
    }
    let mut lines: Vec<Vec<String>> = Vec::new();
    let mut line = |name: &str, value: String| lines.push(vec![name.into(), value]);
    if let Some(evaluation) = &verdict.evaluation {
        if let Some(cost) = &evaluation.cost {
            line("KL per position", divergence(cost));
            line("same top token", format!("{:.2} % of positions", 100.0 * cost.same_top));
        }
        line("validation", rows(evaluation));
    }
    if let Some(healing) = healing {
        line("healing", healing);
    }
    if let Some(against) = &verdict.against {
        let (path, same, all) = (&against.path, count(against.identical), count(against.tensors));
        line("against", format!("{path}: architecture and ties agree, {same} of {all} tensors bit-identical"));
    }
    let file = &verdict.artifact;
    line("artifact", format!("{} bytes, {}", thousands(file.bytes), file.path));
    if let Some(Budget { cap, includes, total, free }) = verdict.budget {
        line("includes", format!("{} bytes", thousands(includes)));
        line("total", format!("{} of {} bytes, {} free", thousands(total), thousands(cap), thousands(free)));
    }
    let (weights, bits) = (count(file.weights), file.bits_per_weight);
    line("stored", format!("{weights} weights in {} layers, {bits:.3} bits each, all bytes counted", file.layers));
    line("blake3", file.blake3.clone());
    line("time", times.unwrap_or_else(|| format!("{:.1} s", verdict.seconds)));
    out.push_str(&table(&PAIR, &lines));
    out + &hints(&verdict.notes)
}

/// `60 steps of 4,096 tokens; before, loss +0.0081 ± 0.0010, KL 0.0135`.
fn healing(healing: &Healing) -> String {
    let Healing { before, course } = healing;
    let mut out = format!("{} steps of {} tokens", count(course.steps), count(course.step_tokens));
    if let Some(cost) = before.as_ref().and_then(|e| e.cost.as_ref()) {
        let (loss, kl) = (difference(cost.nats_per_token), nats(cost.divergence.mean.value));
        let _ = write!(out, "; without them loss {loss}, KL {kl}");
    }
    out
}

/// Before and after, one line a unit.
fn losses(evaluation: &Evaluation) -> String {
    let packed = evaluation.packed;
    let Some(cost) = &evaluation.cost else {
        let mut lines = vec![vec!["loss, nats per token".into(), nats(packed.nats_per_token)]];
        lines.extend(packed.bits_per_byte.map(|bits| vec!["loss, bits per byte".into(), nats(bits)]));
        return table(&[Side::Left, Side::Right], &lines);
    };
    let mut lines = vec![["", "original", "packed", "difference"].map(String::from).to_vec()];
    lines.push(vec![
        "loss, nats per token".into(),
        nats(cost.original.nats_per_token),
        nats(packed.nats_per_token),
        difference(cost.nats_per_token),
    ]);
    if let (Some(before), Some(after), Some(change)) =
        (cost.original.bits_per_byte, packed.bits_per_byte, cost.bits_per_byte)
    {
        lines.push(vec!["loss, bits per byte".into(), nats(before), nats(after), difference(change)]);
    }
    lines.push(vec!["KL(original ‖ packed)".into(), String::new(), String::new(), estimate(cost.divergence.mean)]);
    table(&[Side::Left, Side::Right, Side::Right, Side::Right], &lines)
}

fn divergence(cost: &Cost) -> String {
    let d = cost.divergence;
    format!("median {}, 99 % {}, largest {}", nats(d.median), nats(d.percentile_99), nats(d.largest))
}

/// `first 512 of 2,620 rows of 256, 131,072 tokens`.
fn rows(evaluation: &Evaluation) -> String {
    let Evaluation { rows, rows_available, row_length, tokens, .. } = evaluation;
    if tokens % row_length != 0 {
        let all = rows_available * row_length;
        return format!("first {} of {} tokens, rows of {row_length}", count(*tokens), count(all));
    }
    let which = if rows == rows_available {
        format!("all {} rows", count(*rows))
    } else {
        format!("first {} of {} rows", count(*rows), count(*rows_available))
    };
    format!("{which} of {row_length}, {} tokens", count(*tokens))
}

fn row(row: &Row) -> Vec<String> {
    let part = if row.tensors.len() > 1 { format!("{} ({})", row.part, row.tensors.len()) } else { row.part.clone() };
    let shape = row
        .shape
        .as_ref()
        .map_or_else(String::new, |shape| shape.iter().map(ToString::to_string).collect::<Vec<_>>().join(" x "));
    vec![
        part,
        list(&row.layers),
        shape,
        weights(row.weights),
        thousands(row.bytes),
        row.bits_per_weight.map_or_else(String::new, |bits| format!("{bits:.3}")),
        row.codec.clone().unwrap_or_default(),
    ]
}

/// Nothing rather than a 0 where there can be no weights.
fn weights(n: usize) -> String {
    if n == 0 { String::new() } else { count(n) }
}

/// `0, 2, 5`; runs of three or more as `3-7`.
fn list(layers: &[usize]) -> String {
    let runs = layers.chunk_by(|a, b| a + 1 == *b);
    let parts = runs.flat_map(|run| match run {
        [first, .., last] if run.len() > 2 => vec![format!("{first}-{last}")],
        few => few.iter().map(ToString::to_string).collect(),
    });
    parts.collect::<Vec<_>>().join(", ")
}

/// `layers 0 1 0 3 3 0: 3 of 6 stored`.
fn ties(copies: &[usize]) -> String {
    let own = copies.iter().enumerate().filter(|(layer, copy)| layer == *copy).count();
    let copies: Vec<String> = copies.iter().map(ToString::to_string).collect();
    format!("layers {}: {own} of {} stored", copies.join(" "), copies.len())
}

fn hints(notes: &[Note]) -> String {
    notes.iter().map(|note| format!("\nnote: {}\nhint: {}\n", note.message(), note.hint())).collect()
}
