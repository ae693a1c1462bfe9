//! Pictures as text: a canvas that shapes are written on.

use std::fmt::Write;

use super::MARK;
use crate::escape;

/// Colours for what is used more than once, told apart on light and dark ground.
const SHARED: [&str; 9] =
    ["#4269d0", "#e8a317", "#ef6351", "#35a79c", "#a463f2", "#3ca951", "#e377a8", "#7b93d8", "#9c6b4e"];

/// The colour of the `k`-th shared block.
pub fn shared(k: usize) -> &'static str {
    SHARED[k % SHARED.len()]
}

/// A picture being drawn, in pixels from the upper left.
pub struct Canvas {
    pub width: f64,
    pub height: f64,
    body: String,
}

impl Canvas {
    pub fn new(width: f64, height: f64) -> Canvas {
        Canvas { width, height, body: String::new() }
    }

    /// A rectangle; `look` is attributes, `title` what hovering shows.
    pub fn rect(&mut self, [x, y, w, h]: [f64; 4], look: &str, title: &str) {
        let [x, y, w, h] = [x, y, w.max(0.0), h.max(0.0)].map(px);
        let title = hover(title);
        let _ = match title.is_empty() {
            true => writeln!(self.body, r#"<rect x="{x}" y="{y}" width="{w}" height="{h}" {look}/>"#),
            false => writeln!(self.body, r#"<rect x="{x}" y="{y}" width="{w}" height="{h}" {look}>{title}</rect>"#),
        };
    }

    pub fn line(&mut self, [x1, y1, x2, y2]: [f64; 4], look: &str) {
        let [x1, y1, x2, y2] = [x1, y1, x2, y2].map(px);
        let _ = writeln!(self.body, r#"<line x1="{x1}" y1="{y1}" x2="{x2}" y2="{y2}" {look}/>"#);
    }

    pub fn circle(&mut self, [x, y, r]: [f64; 3], look: &str, title: &str) {
        let ([x, y, r], title) = ([x, y, r].map(px), hover(title));
        let _ = writeln!(self.body, r#"<circle cx="{x}" cy="{y}" r="{r}" {look}>{title}</circle>"#);
    }

    /// A path by its `d`.
    pub fn path(&mut self, d: &str, look: &str) {
        let _ = writeln!(self.body, r#"<path d="{d}" {look}/>"#);
    }

    /// Text with its baseline at `y`.
    pub fn text(&mut self, [x, y]: [f64; 2], class: &str, text: &str) {
        let ([x, y], text) = ([x, y].map(px), escape(text));
        let _ = writeln!(self.body, r#"<text x="{x}" y="{y}" class="{class}">{text}</text>"#);
    }

    /// Text that may hold elements.
    pub fn raw_text(&mut self, [x, y]: [f64; 2], class: &str, inner: &str) {
        let [x, y] = [x, y].map(px);
        let _ = writeln!(self.body, r#"<text x="{x}" y="{y}" class="{class}">{inner}</text>"#);
    }

    /// The picture inside a page; `class` tells on which screens it shows.
    pub fn inline(&self, class: &str, label: &str) -> String {
        let ([w, h], label) = ([self.width, self.height].map(px), escape(label));
        format!(
            "<svg class=\"{class}\" viewBox=\"0 0 {w} {h}\" role=\"img\" aria-label=\"{label}\">\n{}</svg>\n",
            self.body
        )
    }

    /// The picture as a file of its own.
    pub fn alone(&self, label: &str, style: &str) -> String {
        let ([w, h], label) = ([self.width, self.height].map(px), escape(label));
        format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" class=\"alone\" width=\"{w}\" height=\"{h}\" viewBox=\"0 0 {w} {h}\" \
             role=\"img\" aria-label=\"{label}\">\n{MARK}\n<style>\n{style}</style>\n\
             <rect class=\"paper\" width=\"{w}\" height=\"{h}\" rx=\"10\"/>\n{}</svg>\n",
            self.body
        )
    }

    /// Puts another picture below or beside, its corner at (`x`, `y`).
    pub fn place(&mut self, other: &Canvas, [x, y]: [f64; 2]) {
        let _ = write!(self.body, "<g transform=\"translate({} {})\">\n{}</g>\n", px(x), px(y), other.body);
    }
}

fn hover(title: &str) -> String {
    if title.is_empty() { String::new() } else { format!("<title>{}</title>", escape(title)) }
}

/// A coordinate, to a tenth of a pixel.
pub fn px(x: f64) -> String {
    let text = format!("{x:.1}");
    text.strip_suffix(".0").unwrap_or(&text).to_string()
}

/// Text that cannot be taken for markup. Most control characters are none that XML may hold at all.
pub fn escape(text: &str) -> String {
    escape::line(text).replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

/// About how wide a text is in this size of type.
pub fn wide(text: &str, size: f64) -> f64 {
    0.56 * size * text.chars().count() as f64
}
