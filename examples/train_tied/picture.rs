//! The tie map over time, as an SVG: a line for every layer, coloured by the block that it uses.

use std::fmt::Write;

use super::controller::Decision;

/// Told apart on light and dark ground.
const COLOURS: [&str; 10] =
    ["#4269d0", "#e8a317", "#ef6351", "#35a79c", "#a463f2", "#3ca951", "#e377a8", "#7b93d8", "#9c6b4e", "#8a8f98"];
const LEFT: f64 = 70.0;
const TOP: f64 = 34.0;
const WIDTH: f64 = 720.0;
const LANE: f64 = 26.0;

/// A picture of a run of so many steps.
pub fn picture(decisions: &[Decision], layers: usize, steps: usize) -> String {
    let x = |step: usize| LEFT + WIDTH * step as f64 / steps.max(1) as f64;
    let bottom = TOP + LANE * layers as f64;
    let (w, h) = (LEFT + WIDTH + 20.0, bottom + 40.0);
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{w}\" height=\"{h}\" viewBox=\"0 0 {w} {h}\" role=\"img\" \
         aria-label=\"Which block every layer used over the course of training\" font-family=\"sans-serif\" font-size=\"12\">\n\
         <rect width=\"{w}\" height=\"{h}\" rx=\"8\" fill=\"#fff\"/>\n<text x=\"{LEFT}\" y=\"20\" fill=\"#555\">colour: the \
         block that a layer uses; ticks: its decisions (hollow: at random)</text>\n"
    );
    for layer in 0..layers {
        let y = TOP + LANE * layer as f64;
        let _ = writeln!(
            svg,
            "<text x=\"{}\" y=\"{}\" text-anchor=\"end\" fill=\"#555\">layer {layer}</text>",
            LEFT - 8.0,
            y + 17.0
        );
        let changes = decisions.iter().map(|d| (d.step, d.copies[layer]));
        let mut runs = vec![(0, layer)];
        for (step, source) in changes {
            if runs.last().is_some_and(|(_, last)| *last != source) {
                runs.push((step, source));
            }
        }
        for (k, (from, source)) in runs.iter().enumerate() {
            let to = runs.get(k + 1).map_or(steps, |(step, _)| *step);
            let (colour, own) = (COLOURS[source % COLOURS.len()], if *source == layer { "1" } else { ".55" });
            let _ = writeln!(
                svg,
                "<rect x=\"{:.1}\" y=\"{:.1}\" width=\"{:.1}\" height=\"{:.1}\" fill=\"{colour}\" opacity=\"{own}\"><title>layer \
                 {layer} uses block {source}, steps {from} to {to}</title></rect>",
                x(*from),
                y + 3.0,
                x(to) - x(*from),
                LANE - 6.0
            );
        }
        for d in decisions.iter().filter(|d| d.layer == layer) {
            let fill = if d.explored { "#fff" } else { "#222" };
            let at = (x(d.step), y + LANE / 2.0);
            let _ = writeln!(
                svg,
                "<circle cx=\"{:.1}\" cy=\"{:.1}\" r=\"1.8\" fill=\"{fill}\" stroke=\"#222\" stroke-width=\".6\"/>",
                at.0, at.1
            );
        }
    }
    for k in 0..=4 {
        let step = steps * k / 4;
        let _ = writeln!(
            svg,
            "<text x=\"{:.1}\" y=\"{}\" text-anchor=\"middle\" fill=\"#555\">{step}</text>",
            x(step),
            bottom + 18.0
        );
    }
    let _ = writeln!(
        svg,
        "<text x=\"{}\" y=\"{}\" text-anchor=\"middle\" fill=\"#555\">step</text>\n</svg>",
        LEFT + WIDTH / 2.0,
        bottom + 34.0
    );
    svg
}
