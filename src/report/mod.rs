//! A report as one page that needs nothing else: pictures and figures of what a command printed with `--json`.
//!
//! Every figure on it comes out of that document and says from where, so page and document cannot differ. Pictures are
//! written by hand: a treemap and a tie map are what no plotting library has, and a page without scripts opens anywhere.

mod bars;
mod curve;
mod figure;
mod heat;
mod ledger;
mod sections;
mod svg;
mod ties;
mod treemap;

use serde_json::Value;

use figure::Document;
use sections::Section;
use svg::{Canvas, escape};

/// In the head of every page and picture: that tiepack wrote it.
pub const MARK: &str = "<!-- made by tiepack -->";

const STYLE: &str = include_str!("style.css");
const PAGE: &str = include_str!("page.css");

/// The subject of a page.
pub struct Page<'a> {
    /// What the command printed, or would have, with `--json`.
    pub document: &'a Value,
    /// The command line that made it.
    pub command: &'a str,
}

impl Page<'_> {
    /// The whole page.
    pub fn html(&self) -> String {
        let document = Document(self.document);
        let (title, subtitle) = sections::title(document);
        let mut body = String::new();
        let tiles = sections::tiles(document);
        if !tiles.is_empty() {
            let tile = |(figure, what): &(String, &str)| {
                format!("<div class=\"tile\"><b>{figure}</b><span>{what}</span></div>")
            };
            body += &format!("<div class=\"tiles\">{}</div>\n", tiles.iter().map(tile).collect::<String>());
        }
        let sections = sections::all(document);
        let mut half: Vec<&Section> = Vec::new();
        for section in &sections {
            // Two narrow ones stand side by side where there is room.
            if section.half {
                half.push(section);
            }
            if half.len() == 2 || !section.half && !half.is_empty() {
                body += &pair(&mut half);
            }
            if !section.half {
                body += &section.html();
            }
        }
        body += &pair(&mut half);
        let (command, version) = (escape(self.command), env!("CARGO_PKG_VERSION"));
        format!(
            "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n{MARK}\n\
             <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n<title>{title}: tiepack</title>\n\
             <style>\n{STYLE}{PAGE}</style>\n</head>\n<body>\n<main>\n\
             <header><span class=\"mark\">tiepack</span><h1>{title}</h1><p>{subtitle}</p></header>\n{body}\
             <section><h2>Made by</h2>\n<pre><code>{command}</code></pre></section>\n\
             <footer>tiepack {version}. Every figure is the one of <code>--json</code>.</footer>\n</main>\n</body>\n</html>\n"
        )
    }

    /// The main picture as a file of its own; `None` where there is nothing to draw.
    pub fn svg(&self) -> Option<String> {
        let (canvas, label) = sections::main_picture(Document(self.document))?;
        const MARGIN: f64 = 18.0;
        let mut framed = Canvas::new(canvas.width + 2.0 * MARGIN, canvas.height + 2.0 * MARGIN);
        framed.place(&canvas, [MARGIN, MARGIN]);
        Some(framed.alone(&label, STYLE))
    }
}

fn pair(half: &mut Vec<&Section>) -> String {
    let inner: String = half.drain(..).map(Section::html).collect();
    if inner.is_empty() { inner } else { format!("<div class=\"pair\">\n{inner}</div>\n") }
}
