//! The sections of each command's page, in order.

use serde_json::Value;

use super::bars::bars;
use super::curve::{Curve, Spot};
use super::figure::{As, Document};
use super::heat::heat;
use super::ledger::{Family, Ledger, Row};
use super::svg::{Canvas, escape};
use super::ties::ties;
use super::treemap::treemap;
use crate::text::thousands;

/// Widths that pictures are drawn for: screens, and phones.
const WIDE: f64 = 1060.0;
const HALF: f64 = 520.0;
const NARROW: f64 = 352.0;
/// Rows of a table on a page.
const ROWS: usize = 24;

/// A part of the page.
pub struct Section {
    title: &'static str,
    about: String,
    body: String,
    /// It takes half of a wide screen.
    pub half: bool,
}

impl Section {
    pub fn html(&self) -> String {
        let about = if self.about.is_empty() { String::new() } else { format!("<p>{}</p>\n", self.about) };
        format!("<section><h2>{}</h2>\n{about}{}</section>\n", self.title, self.body)
    }
}

/// The two drawings of a picture, of which a screen shows one.
fn picture(label: &str, width: f64, draw: impl Fn(f64) -> Option<Canvas>) -> Option<String> {
    let both = [("wide", width), ("narrow", NARROW)];
    both.into_iter().map(|(class, width)| Some(draw(width)?.inline(class, label))).collect()
}

/// Where the inventory is, if there is one.
fn ledger(document: Document<'_>) -> Option<Ledger<'_>> {
    Ledger::at(document, "").or_else(|| Ledger::at(document, "/ledger"))
}

/// The headline, and the line beside it.
pub fn title(document: Document) -> (String, String) {
    let text = |at: &str| document.text(at).unwrap_or_default();
    let layers = |at: &str| document.number(at).unwrap_or(0.0);
    let (title, subtitle) = match text("/command") {
        "pack" => (text("/model").to_string(), "packed".to_string()),
        "frontier" => (text("/model").to_string(), "loss against bytes".into()),
        "diff" => ("What changed".into(), format!("{} → {}", text("/before/path"), text("/after/path"))),
        _ => {
            let mut parts = text("/path").rsplit(['/', '\\']);
            let name = parts.next().unwrap_or_default();
            // Weights are called alike in every folder.
            let name = parts
                .next()
                .filter(|folder| name.starts_with("model.safetensors") && !folder.is_empty())
                .unwrap_or(name);
            let arch = Some(text("/arch")).filter(|arch| !arch.is_empty()).unwrap_or("no known architecture");
            (name.to_string(), format!("{arch}, {} layers, {}", layers("/layers"), text("/kind")))
        }
    };
    (escape(&title), escape(&subtitle))
}

/// The figures that matter most.
pub fn tiles(document: Document) -> Vec<(String, &'static str)> {
    let mut tiles: Vec<(String, &'static str)> = Vec::new();
    let mut add = |figure: Option<String>, what: &'static str| tiles.extend(figure.map(|figure| (figure, what)));
    let cost = |base: &str, what: &str| format!("{base}/cost/{what}");
    match document.text("/command") {
        Some("pack") => {
            let evaluation = "/verdict/evaluation";
            add(document.figure("/verdict/artifact/bytes", As::Count), "bytes of the artifact");
            add(document.figure("/verdict/budget/cap", As::Count), "bytes of cap");
            add(document.figure("/verdict/artifact/bits_per_weight", As::Bits), "bits per stored weight");
            add(document.mean(&cost(evaluation, "divergence/mean"), As::Nats), "KL, nats per token");
            add(document.mean(&cost(evaluation, "nats_per_token"), As::Difference), "loss, nats per token");
            add(document.figure(&cost(evaluation, "same_top"), As::Percent), "same top token");
        }
        Some("inspect") => {
            add(document.figure("/bytes", As::Count), "bytes");
            add(document.figure("/weights", As::Count), "stored weights of matrices");
            add(document.figure("/bits_per_weight", As::Bits), "bits per stored weight");
            add(document.figure("/parameters", As::Count), "weights with ties counted");
            add(document.figure("/predicted_loss", As::Nats), "predicted loss, nats per token");
        }
        Some("diff") => {
            add(document.figure("/before/bytes", As::Count), "bytes before");
            add(document.figure("/after/bytes", As::Count), "bytes after");
            add(document.figure("/weights/identical", As::Count), "identical tensors");
            add(document.figure("/weights/compared", As::Count), "tensors in both");
            add(document.mean("/evaluation/cost/nats_per_token", As::Difference), "loss, nats per token");
            add(document.mean("/evaluation/cost/divergence/mean", As::Nats), "KL, nats per token");
        }
        Some("frontier") => {
            add(document.figure("/weights", As::Count), "stored weights");
            add(document.figure("/width/unshared", As::Count), "weights without sharing");
            add(document.figure("/width/columns", As::Count), "columns wide");
            add(document.figure("/width/widened", As::Count), "columns that sharing would pay for");
            add(document.figure("/seconds", As::Seconds), "for all of it");
        }
        _ => {}
    }
    tiles
}

/// Everything below the tiles.
pub fn all(document: Document) -> Vec<Section> {
    let mut sections: Vec<Section> = Vec::new();
    match document.text("/command") {
        Some("frontier") => {
            sections.extend(frontier(document));
            sections.push(points(document));
        }
        Some("diff") => sections.extend(changes(document)),
        Some("pack") => {
            sections.extend(losses(document));
            sections.extend(healing(document));
            sections.extend(search(document));
        }
        _ => {}
    }
    if let Some(ledger) = ledger(document) {
        sections.extend(pictures(&ledger));
        sections.extend(groups(document));
        sections.extend(quality(document));
    }
    if document.text("/command") != Some("pack") {
        sections.extend(losses(document));
    }
    sections.extend(notes(document));
    sections
}

/// The picture that says most, for a file of its own, and what it shows.
pub fn main_picture(document: Document) -> Option<(Canvas, String)> {
    const SIZE: f64 = 860.0;
    if let Some(ledger) = ledger(document) {
        let map = ties(&ledger, SIZE);
        let area = treemap(&ledger, SIZE, 300.0);
        let below = map.as_ref().map_or(0.0, |map| map.height + 20.0);
        let mut both = Canvas::new(SIZE, below + area.height);
        if let Some(map) = &map {
            both.place(map, [0.0, 0.0]);
        }
        both.place(&area, [0.0, below]);
        return Some((both, "which layer uses which stored block, and where the bytes go".into()));
    }
    match document.text("/command") {
        Some("frontier") => curve(document).draw(SIZE, 420.0).map(|canvas| (canvas, "loss against bytes".into())),
        _ => byte_changes(document, SIZE).map(|canvas| (canvas, "change of bytes".into())),
    }
}

fn pictures(ledger: &Ledger) -> Vec<Section> {
    let mut sections = Vec::new();
    // Few layers need half of a wide screen.
    let half = ledger.order.len() <= 12;
    let width = if half { HALF } else { WIDE };
    if let Some(body) = picture("which layer uses which stored block", width, |width| ties(ledger, width)) {
        sections.push(Section {
            title: "Depth against storage",
            about: "Each square is a layer as it runs, on the line of the stored block that it uses. Colours are shared \
                    blocks, grey ones are used once. Below, the same for every matrix: pale where it is a copy and takes \
                    no bytes, split where something of its own is added to another layer's."
                .into(),
            body,
            half,
        });
    }
    let mut bits: Vec<&Row> = ledger.matrices.iter().filter(|m| m.own).map(|m| &ledger.rows[m.row]).collect();
    bits.retain(|row| row.bits.is_some());
    bits.sort_by(|a, b| a.bits.unwrap_or(0.0).total_cmp(&b.bits.unwrap_or(0.0)));
    let ends = bits.first().zip(bits.last()).and_then(|(least, most)| {
        let figure = |row: &Row| ledger.document.figure(&format!("{}/bits_per_weight", row.at), As::Bits);
        Some(format!("{} to {}", figure(least)?, figure(most)?))
    });
    let drawn = picture("bits per weight of every matrix", width, |width| heat(ledger, width));
    if let Some((body, ends)) = drawn.zip(ends) {
        let about = format!("Of every matrix that is stored, all bytes of its stream counted: {ends}. Fuller is more.");
        sections.push(Section { title: "Bits per weight", about, body, half });
    }
    let area = |width: f64| Some(treemap(ledger, width, if width < 500.0 { 420.0 } else { 430.0 }));
    if let Some(body) = picture("bytes as areas", WIDE, area) {
        let there = |family: &Family| ledger.rows.iter().any(|row| row.family == *family && row.bytes > 0.0);
        let legend: String = Family::ALL
            .iter()
            .filter(|(family, ..)| there(family))
            .map(|(_, class, name)| format!("<li><i style=\"background:var(--{class})\"></i>{name}</li>"))
            .collect();
        let body = body + &format!("<ul class=\"legend\">{legend}</ul>\n");
        sections.push(Section { title: "Every byte", about: "Areas are bytes of the file.".into(), body, half: false });
    }
    sections
}

/// The curve of a frontier.
fn curve(document: Document<'_>) -> Curve<'_> {
    let spot = |at: usize| {
        let of = |what: &str| document.number(&format!("/points/{at}/{what}"));
        let (x, y) = (of("bytes")?, of("evaluation/cost/divergence/mean/value")?);
        let title = format!("{} bytes · KL {} nats per token", thousands(x as u64), As::Nats.text(y));
        Some(Spot { x, y, error: of("evaluation/cost/divergence/mean/standard_error"), title })
    };
    let peer = |peer: &Value| {
        let (x, y) = (peer["bytes"].as_f64()?, peer["kl"].as_f64()?);
        let name = peer["packer"].as_str()?.to_string();
        let title = format!("{name} · {} bytes · KL {} nats per token", thousands(x as u64), As::Nats.text(y));
        Some((name, Spot { x, y, error: None, title }))
    };
    Curve {
        x: "bytes, everything counted",
        bytes: true,
        y: "KL(original ‖ packed), nats per token",
        line: (0..document.list("/points").len()).filter_map(spot).collect(),
        others: document.list("/peers").iter().filter_map(peer).collect(),
    }
}

fn frontier(document: Document) -> Option<Section> {
    let curve = curve(document);
    let peers = if curve.others.is_empty() { "" } else { " Rings are other packers." };
    let body =
        picture("loss against bytes", WIDE, |width| curve.draw(width, if width < 500.0 { 300.0 } else { 440.0 }))?;
    let names: String = curve.others.iter().map(|(name, _)| format!("<li>{}</li>", escape(name))).collect();
    let body = if names.is_empty() { body } else { body + &format!("<ol class=\"narrow\">{names}</ol>\n") };
    let about = format!(
        "Every point is a file, opened and measured on validation tokens. Whiskers are one standard error.{peers}"
    );
    Some(Section { title: "Loss against bytes", about, body, half: false })
}

/// How training the packed model back towards the original went.
fn healing(document: Document) -> Option<Section> {
    let points = "/healing/course/points";
    let spot = |at: usize| {
        let of = |what: &str| document.number(&format!("{points}/{at}/{what}"));
        let (x, y) = (of("step")?, of("kl")?);
        let title = format!("step {x} · KL {} nats per token · {:.0} % bound", As::Nats.text(y), 100.0 * of("bound")?);
        Some(Spot { x, y, error: None, title })
    };
    let line: Vec<Spot> = (0..document.list(points).len()).filter_map(spot).collect();
    let curve = Curve {
        x: "steps",
        bytes: false,
        y: "KL on held-out calibration text, nats per token",
        line,
        others: Vec::new(),
    };
    let body = picture("healing", WIDE, |width| curve.draw(width, if width < 500.0 { 240.0 } else { 300.0 }))?;
    let steps = document.figure("/healing/course/steps", As::Count).unwrap_or_default();
    let about = format!(
        "{steps} steps back towards the original, on calibration tokens only. The first point is the model as it was rounded. Then \
         columns are bound to their grids group by group, which costs, and what is still loose is trained to make good for it; at \
         the last point all are bound."
    );
    Some(Section { title: "Healing", about, body, half: false })
}

/// What each matrix is made of, and the best of what it was not made of.
fn search(document: Document) -> Option<Section> {
    let list = "/structure/rows";
    let row = |at: usize| {
        let (text, place) =
            (|what: &str| document.text(&format!("{list}/{at}/{what}")), |what: &str| format!("{list}/{at}/{what}"));
        vec![
            escape(text("tensor").unwrap_or_default()),
            escape(text("made").unwrap_or_default()),
            document.figure(&place("bytes"), As::Count).unwrap_or_default(),
            document.figure(&place("nats"), As::Nats).unwrap_or_default(),
            escape(text("next/made").unwrap_or_default()),
            document.figure(&place("next/more"), As::Difference).unwrap_or_default(),
        ]
    };
    let rows: Vec<Vec<String>> = (0..document.list(list).len().min(4 * ROWS)).map(row).collect();
    if rows.is_empty() {
        return None;
    }
    let titles = ["matrix", "made of", ">bytes", ">nats", "or else", ">nats more"];
    let trials = document
        .figure("/structure/search/trials", As::Count)
        .map(|n| format!(" {n} structures were packed and judged."));
    let about = format!("What every matrix is made of, and what would have come next.{}", trials.unwrap_or_default());
    Some(Section { title: "The search", about, body: table(&titles, &rows), half: false })
}

/// A table of cells that are markup; titles that begin with `>` are of figures.
fn table(titles: &[&str], rows: &[Vec<String>]) -> String {
    let side = |k: usize| if titles[k].starts_with('>') { " class=\"r\"" } else { "" };
    let head: String =
        titles.iter().enumerate().map(|(k, t)| format!("<th{}>{}</th>", side(k), t.trim_start_matches('>'))).collect();
    let row = |cells: &Vec<String>| {
        let cells: String = cells.iter().enumerate().map(|(k, cell)| format!("<td{}>{cell}</td>", side(k))).collect();
        format!("<tr>{cells}</tr>\n")
    };
    let rows: String = rows.iter().map(row).collect();
    format!("<div class=\"scroll\"><table>\n<tr>{head}</tr>\n{rows}</table></div>\n")
}

fn points(document: Document) -> Section {
    let line = |at: usize| {
        let point = |what: &str| format!("/points/{at}/{what}");
        let figure = |what: &str, how| document.figure(&point(what), how).unwrap_or_default();
        let bytes = match document.text(&point("refusal")) {
            Some(_) => "does not fit".into(),
            None => figure("bytes", As::Count),
        };
        let cost =
            |what: &str, how| document.estimate(&point(&format!("evaluation/cost/{what}")), how).unwrap_or_default();
        vec![
            figure("cap", As::Count),
            bytes,
            figure("bits_per_weight", As::Bits),
            cost("divergence/mean", As::Nats),
            cost("nats_per_token", As::Difference),
            figure("bytes_per_millinat", As::Count),
            figure("saved_by_sharing", As::Count),
        ]
    };
    let rows: Vec<Vec<String>> = (0..document.list("/points").len()).map(line).collect();
    let titles =
        [">cap", ">bytes", ">bits", ">KL", ">loss", ">bytes for the next .001 nats", ">bytes that sharing saves"];
    let about = "Nats per token. Prices are by the straight line to the next point.".into();
    Section { title: "The points", about, body: table(&titles, &rows), half: false }
}

fn byte_changes(document: Document, width: f64) -> Option<Canvas> {
    let changes = document.list("/bytes").iter().take(ROWS).enumerate();
    let named: Vec<(String, String)> = changes
        .map(|(k, change)| (change["key"].as_str().unwrap_or_default().to_string(), format!("/bytes/{k}/change")))
        .collect();
    bars(document, &named, As::Change, width)
}

fn changes(document: Document) -> Vec<Section> {
    let mut sections = Vec::new();
    if let Some(body) = picture("change of bytes", WIDE, |width| byte_changes(document, width)) {
        let about = "After less before, the largest change first.".into();
        sections.push(Section { title: "Bytes", about, body, half: false });
    }
    let text = |value: &Value| match value {
        Value::Null => "none".to_string(),
        Value::String(text) => escape(text),
        other => escape(&other.to_string()),
    };
    for (title, list, name) in [("Configuration", "/config", "key"), ("Structure", "/structure", "tensor")] {
        let line = |change: &Value| [name, "before", "after"].map(|key| text(&change[key])).to_vec();
        let rows: Vec<Vec<String>> = document.list(list).iter().take(ROWS).map(line).collect();
        if !rows.is_empty() {
            let body = table(&[if name == "key" { "setting" } else { "matrix" }, "before", "after"], &rows);
            let about = more(document.list(list).len() - rows.len());
            sections.push(Section { title, about, body, half: true });
        }
    }
    let changed = document.list("/weights/changed").iter().take(ROWS).enumerate();
    let named: Vec<(String, String)> = changed
        .map(|(k, t)| {
            (t["tensor"].as_str().unwrap_or_default().to_string(), format!("/weights/changed/{k}/relative_error"))
        })
        .collect();
    if let Some(body) = picture("relative error of weights", WIDE, |width| bars(document, &named, As::Percent, width)) {
        let about = "Length of the change over the length of what was, the largest first.".into();
        sections.push(Section { title: "Weights", about, body, half: false });
    }
    sections
}

/// What is said of rows that a table leaves out.
fn more(left_out: usize) -> String {
    match left_out {
        0 => String::new(),
        more => format!("The first; {more} more are in the document."),
    }
}

fn groups(document: Document) -> Option<Section> {
    let list = document.list("/groups");
    let by = document.text("/by")?;
    let row = |at: usize| {
        let of = |what: &str, how| document.figure(&format!("/groups/{at}/{what}"), how).unwrap_or_default();
        vec![
            escape(document.text(&format!("/groups/{at}/key")).unwrap_or_default()),
            of("weights", As::Count),
            of("bytes", As::Count),
            of("share", As::Percent),
            of("bits_per_weight", As::Bits),
        ]
    };
    let mut rows: Vec<Vec<String>> = (0..list.len().min(ROWS)).map(row).collect();
    let about = more(list.len() - rows.len());
    let figure = |at: &str, how| document.figure(at, how).unwrap_or_default();
    rows.push(vec![
        "total".into(),
        figure("/stored", As::Count),
        figure("/bytes", As::Count),
        String::new(),
        String::new(),
    ]);
    let body = table(&[by, ">weights", ">bytes", ">share", ">bits"], &rows);
    Some(Section { title: "The same as a table", about, body, half: false })
}

/// What the bits of each matrix are worth, where that was asked for.
fn quality(document: Document) -> Option<Section> {
    let list = document.list("/rows");
    let columns = [
        (">bits", "bits_per_weight", As::Bits),
        (">entropy of an index", "indices/entropy", As::Bits),
        (">spent on it", "indices/spent", As::Bits),
        (">zeros", "indices/zeros", As::Percent),
        (">relative error", "fidelity/relative_error", As::Percent),
        (">share of the loss", "fidelity/loss_share", As::Percent),
        (">Gaussian bound", "fidelity/gaussian_bound", As::Bits),
    ];
    let known = |(_, what, _): &&(&str, &str, As)| {
        (0..list.len()).any(|at| document.number(&format!("/rows/{at}/{what}")).is_some())
    };
    let columns: Vec<_> = columns.iter().filter(known).collect();
    if columns.len() < 2 {
        return None;
    }
    let mut order: Vec<usize> =
        (0..list.len()).filter(|at| document.number(&format!("/rows/{at}/bits_per_weight")).is_some()).collect();
    order.sort_by_key(|at| std::cmp::Reverse(list[*at]["bytes"].as_u64()));
    let row = |at: &usize| {
        let of = |(_, what, how): &&(&str, &str, As)| {
            document.figure(&format!("/rows/{at}/{what}"), *how).unwrap_or_default()
        };
        let part = document.text(&format!("/rows/{at}/part")).unwrap_or_default();
        let layers: Vec<usize> =
            list[*at]["layers"].as_array().into_iter().flatten().filter_map(|l| Some(l.as_u64()? as usize)).collect();
        let name = [escape(part), crate::text::list(&layers)].to_vec();
        name.into_iter().chain(columns.iter().map(of)).collect()
    };
    let rows: Vec<Vec<String>> = order.iter().take(2 * ROWS).map(row).collect();
    let titles: Vec<&str> = ["matrix", "layers"].into_iter().chain(columns.iter().map(|(title, ..)| *title)).collect();
    let about =
        "Bits a weight. The bound is the least for independent Gaussian weights at the same predicted loss; trained \
                 weights are neither, so a matrix can lie below it."
            .into();
    Some(Section { title: "What the bits are worth", about, body: table(&titles, &rows), half: false })
}

fn losses(document: Document) -> Option<Section> {
    let base = ["/verdict/evaluation", "/evaluation"].into_iter().find(|at| document.at(at).is_some())?;
    let at = |what: &str| format!("{base}/{what}");
    let mut rows: Vec<Vec<String>> = Vec::new();
    for (name, unit) in [("loss, nats per token", "nats_per_token"), ("loss, bits per byte", "bits_per_byte")] {
        let Some(after) = document.figure(&at(&format!("packed/{unit}")), As::Nats) else { continue };
        let before = document.figure(&at(&format!("cost/original/{unit}")), As::Nats).unwrap_or_default();
        let change = document.estimate(&at(&format!("cost/{unit}")), As::Difference).unwrap_or_default();
        rows.push(vec![name.into(), before, after, change]);
    }
    if let Some(kl) = document.estimate(&at("cost/divergence/mean"), As::Nats) {
        rows.push(vec!["KL, nats per token".into(), String::new(), String::new(), kl]);
        for (name, what) in
            [("its median", "median"), ("its 99 % quantile", "percentile_99"), ("its largest", "largest")]
        {
            let figure = document.figure(&at(&format!("cost/divergence/{what}")), As::Nats).unwrap_or_default();
            rows.push(vec![name.into(), String::new(), String::new(), figure]);
        }
    }
    let tokens = document.figure(&at("tokens"), As::Count).unwrap_or_default();
    let about = format!("On {tokens} validation tokens. ± is one standard error over rows.");
    let [before, after] = if base == "/evaluation" { [">before", ">after"] } else { [">original", ">packed"] };
    let body = table(&["", before, after, ">difference"], &rows);
    Some(Section { title: "The verdict", about, body, half: false })
}

fn notes(document: Document) -> Option<Section> {
    let list = ["/verdict/notes", "/notes"].into_iter().map(|at| document.list(at)).find(|list| !list.is_empty())?;
    let text = |note: &Value, key: &str| escape(note[key].as_str().unwrap_or_default());
    let note =
        |n: &Value| format!("<div class=\"note\">{}<small>{}</small></div>\n", text(n, "message"), text(n, "hint"));
    let body = list.iter().map(note).collect();
    Some(Section { title: "Worth knowing", about: String::new(), body, half: false })
}
