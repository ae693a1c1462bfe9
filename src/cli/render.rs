//! Every report as text.

mod diff;
mod frontier;
mod inspect;

use std::fmt::Write;

pub use diff::compared;
pub use frontier::frontier;
pub use inspect::inspected;

use super::eval::Evaluated;
use super::figures::{Side, bits, count, difference, estimate, mean, nats, table};
use super::pack::{Healing, Packed};
use super::unpack::Unpacked;
use super::verify::Verified;
use crate::error::Error;
use crate::escape;
use crate::text::thousands;
use crate::verify::judge::Judged;
use crate::verify::verdict::{Budget, Cost, Evaluation, File, Note, Verdict};

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
        None if verdict.judged.is_some() => {
            let change = verdict.judged.as_ref().and_then(|judged| judged.difference);
            format!("the evaluator's loss {}", change.map_or("unknown".into(), difference))
        }
        Some(cost) => {
            format!("loss {} nats/token, KL {}", difference(cost.nats_per_token), mean(cost.divergence.mean))
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
        out.push_str(&losses(evaluation, ["original", "packed"]));
        out.push('\n');
    }
    if let Some(judged) = &verdict.judged {
        out.push_str(&judgement(judged));
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
    if let Some(judged) = &verdict.judged {
        line("evaluator", format!("{}; {} losses", judged.command, count(judged.rows)));
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
    line("stored", stored(file));
    line("blake3", file.blake3.clone());
    line("time", times.unwrap_or_else(|| format!("{:.1} s", verdict.seconds)));
    out.push_str(&table(&PAIR, &lines));
    out + &hints(&verdict.notes)
}

/// `216,320 weights in 6 layers, 3.698 bits each, all bytes counted`.
fn stored(file: &File) -> String {
    let each = file.bits_per_weight.map(|each| format!(", {} bits each, all bytes counted", bits(Some(each))));
    format!("{} weights in {} layers{}", count(file.weights), file.layers, each.unwrap_or_default())
}

/// `60 steps of 4,096 tokens; before, loss +0.0081 ± 0.0010, KL 0.0135`.
fn healing(healing: &Healing) -> String {
    let Healing { before, course } = healing;
    let mut out = format!("{} steps of {} tokens", count(course.steps), count(course.step_tokens));
    if let Some(cost) = before.as_ref().and_then(|e| e.cost.as_ref()) {
        let (loss, kl) = (difference(cost.nats_per_token), mean(cost.divergence.mean));
        let _ = write!(out, "; without them loss {loss}, KL {kl}");
    }
    out
}

/// Before and after, one line a unit.
fn losses(evaluation: &Evaluation, [before, after]: [&str; 2]) -> String {
    let packed = evaluation.packed;
    let Some(cost) = &evaluation.cost else {
        let mut lines = vec![vec!["loss, nats per token".into(), nats(packed.nats_per_token)]];
        lines.extend(packed.bits_per_byte.map(|bits| vec!["loss, bits per byte".into(), nats(bits)]));
        return table(&[Side::Left, Side::Right], &lines);
    };
    let mut lines = vec![["", before, after, "difference"].map(String::from).to_vec()];
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
    lines.push(vec![format!("KL({before} ‖ {after})"), String::new(), String::new(), estimate(cost.divergence.mean)]);
    table(&[Side::Left, Side::Right, Side::Right, Side::Right], &lines)
}

/// The losses of the user's own program.
fn judgement(judged: &Judged) -> String {
    let packed = nats(judged.packed);
    match (judged.original, judged.difference) {
        (Some(original), Some(change)) => {
            let head = ["", "original", "packed", "difference"].map(String::from).to_vec();
            let line = vec!["the evaluator's loss".into(), nats(original), packed, difference(change)];
            table(&[Side::Left, Side::Right, Side::Right, Side::Right], &[head, line])
        }
        _ => table(&[Side::Left, Side::Right], &[vec!["the evaluator's loss".into(), packed]]),
    }
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

fn hints(notes: &[Note]) -> String {
    notes.iter().map(|note| format!("\nnote: {}\nhint: {}\n", escape::lines(&note.message()), note.hint())).collect()
}
