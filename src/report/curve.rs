//! Lines and points: loss against bytes, and whatever runs in steps.

use super::svg::{Canvas, px, wide};
use crate::text::thousands;

/// A point, with the standard error of its height where that is known.
pub struct Spot {
    pub x: f64,
    pub y: f64,
    pub error: Option<f64>,
    pub title: String,
}

/// A picture of points over a logarithmic height.
pub struct Curve<'a> {
    pub x: &'a str,
    /// The width is in bytes, not a plain number.
    pub bytes: bool,
    pub y: &'a str,
    /// Points that a line joins.
    pub line: Vec<Spot>,
    /// Others, each with its name.
    pub others: Vec<(String, Spot)>,
}

impl Curve<'_> {
    /// `None` where fewer than two points are above 0.
    pub fn draw(&self, width: f64, height: f64) -> Option<Canvas> {
        let spots = || self.line.iter().chain(self.others.iter().map(|(_, spot)| spot)).filter(|spot| spot.y > 0.0);
        if spots().count() < 2 {
            return None;
        }
        let least = |f: fn(&Spot) -> f64| spots().map(f).fold(f64::INFINITY, f64::min);
        let most = |f: fn(&Spot) -> f64| spots().map(f).fold(f64::NEG_INFINITY, f64::max);
        let (x0, x1) = (least(|s| s.x), most(|s| s.x));
        let (margin, [left, right, top, bottom]) = (0.05 * (x1 - x0).max(1e-9), [56.0, 14.0, 26.0, 42.0]);
        let (x0, x1) = (x0 - margin, x1 + margin);
        let (y0, y1) = (least(|s| s.y).log10() - 0.12, most(|s| s.y).log10() + 0.12);
        let x = |v: f64| left + (v - x0) / (x1 - x0) * (width - left - right);
        let y = |v: f64| top + (y1 - v.max(1e-300).log10()) / (y1 - y0) * (height - top - bottom);
        let mut canvas = Canvas::new(width, height);
        let mut marks = decades(y0, y1);
        if marks.len() < 3 {
            // Less than a decade: round numbers, which lie nearly evenly there.
            marks = ticks(10f64.powf(y0), 10f64.powf(y1), 4);
        }
        for tick in marks {
            canvas.line([left, y(tick), width - right, y(tick)], "class=\"rule\"");
            canvas.text([left - 8.0, y(tick) + 4.0], "soft small end", &short(tick));
        }
        for tick in ticks(x0, x1, ((width - left) / 90.0) as usize) {
            canvas.line([x(tick), height - bottom, x(tick), height - bottom + 5.0], "class=\"rule\"");
            canvas.text(
                [x(tick), height - bottom + 18.0],
                "soft small mid",
                &if self.bytes { bytes(tick) } else { short(tick) },
            );
        }
        canvas.text([left, 14.0], "soft", self.y);
        canvas.text([width - right, height - 6.0], "soft end", self.x);
        let drawn: Vec<&Spot> = self.line.iter().filter(|spot| spot.y > 0.0).collect();
        let mut d = String::new();
        for (k, spot) in drawn.iter().enumerate() {
            d += &format!("{}{} {}", if k == 0 { "M" } else { "L" }, px(x(spot.x)), px(y(spot.y)));
        }
        canvas.path(&d, "class=\"curve\"");
        for (k, (name, spot)) in self.others.iter().enumerate() {
            canvas.circle([x(spot.x), y(spot.y), 5.0], "class=\"peer\"", &spot.title);
            // Phones have no room for names: numbers lead to a list.
            let number = (k + 1).to_string();
            let name = if width < 400.0 { &number } else { name };
            // Names stand to the right, or to the left where they would not fit.
            let fits = x(spot.x) + 10.0 + wide(name, 10.5) < width - right;
            let (at, class) = if fits { (x(spot.x) + 9.0, "small") } else { (x(spot.x) - 9.0, "small end") };
            canvas.text([at, y(spot.y) - 5.0], class, name);
        }
        for spot in drawn {
            if let Some(error) = spot.error.filter(|error| *error < spot.y) {
                canvas.line([x(spot.x), y(spot.y - error), x(spot.x), y(spot.y + error)], "class=\"whisker\"");
            }
            canvas.circle([x(spot.x), y(spot.y), 4.5], "class=\"dot\"", &spot.title);
        }
        Some(canvas)
    }
}

/// 1, 2 and 5 of every power of ten between two logarithms; where these would be many, powers of ten alone.
fn decades(low: f64, high: f64) -> Vec<f64> {
    let powers = low.floor() as i32..=high.ceil() as i32;
    let parts: &[f64] = if high - low > 3.5 { &[1.0] } else { &[1.0, 2.0, 5.0] };
    let all = powers.flat_map(|p| parts.iter().map(move |m| m * 10f64.powi(p)));
    all.filter(|v| (low..=high).contains(&v.log10())).collect()
}

/// At most `most` round values between two.
fn ticks(low: f64, high: f64, most: usize) -> Vec<f64> {
    let rough = (high - low) / most.max(2) as f64;
    let unit = 10f64.powf(rough.log10().floor());
    let step = [1.0, 2.0, 5.0, 10.0].map(|m| m * unit).into_iter().find(|s| *s >= rough).unwrap_or(rough);
    let first = (low / step).ceil() as i64;
    (first..).map(|k| k as f64 * step).take_while(|v| *v <= high).collect()
}

fn short(v: f64) -> String {
    if v == 0.0 {
        "0".into()
    } else if v >= 1e-4 {
        format!("{v:.4}").trim_end_matches('0').trim_end_matches('.').to_string()
    } else {
        format!("{v:e}")
    }
}

/// `900 kB`, `1.2 MB`.
fn bytes(v: f64) -> String {
    let tidy = |v: f64| format!("{v:.2}").trim_end_matches('0').trim_end_matches('.').to_string();
    match v {
        v if v >= 1e6 => format!("{} MB", tidy(v / 1e6)),
        v if v >= 1e3 => format!("{} kB", tidy(v / 1e3)),
        v => thousands(v.max(0.0) as u64),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_are_round() {
        assert_eq!(ticks(450.0, 1_950.0, 8), [600.0, 800.0, 1000.0, 1200.0, 1400.0, 1600.0, 1800.0]);
        assert_eq!(decades(-2.1, -0.9), [0.01, 0.02, 0.05, 0.1]);
        assert_eq!([bytes(1_250_000.0), bytes(900_000.0), bytes(12.0)], ["1.25 MB", "900 kB", "12"]);
    }
}
