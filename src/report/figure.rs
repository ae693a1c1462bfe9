//! Figures on a page: each says where in the `--json` document it stands, and its value there.

use serde_json::Value;

use super::svg::escape;
use crate::text::{decimals, places, thousands};

/// The notation of a figure.
#[derive(Debug, Clone, Copy)]
pub enum As {
    /// `1,234,567`
    Count,
    /// `+1,234`
    Change,
    /// `0.0123`
    Nats,
    /// `+0.0122`
    Difference,
    /// `3.698`
    Bits,
    /// `92.7 %` of a share
    Percent,
    /// `1.2 s`
    Seconds,
}

impl As {
    pub fn text(self, value: f64) -> String {
        match self {
            As::Count => thousands(value.round().max(0.0) as u64),
            As::Change => {
                let sign = if value > 0.0 {
                    "+"
                } else if value < 0.0 {
                    "−"
                } else {
                    ""
                };
                format!("{sign}{}", thousands(value.abs().round() as u64))
            }
            As::Nats | As::Difference => self.to(value, decimals(value)),
            As::Bits => format!("{value:.3}"),
            As::Percent => format!("{:.1} %", 100.0 * value),
            As::Seconds => format!("{value:.1} s"),
        }
    }
}

impl As {
    /// A loss with so many decimals.
    fn to(self, value: f64, places: usize) -> String {
        match self {
            As::Difference => format!("{}{:.places$}", if value < 0.0 { "−" } else { "+" }, value.abs()),
            _ => format!("{value:.places$}"),
        }
    }
}

/// The document that `--json` prints.
#[derive(Clone, Copy)]
pub struct Document<'a>(pub &'a Value);

impl<'a> Document<'a> {
    /// What stands at a JSON pointer.
    pub fn at(self, pointer: &str) -> Option<&'a Value> {
        self.0.pointer(pointer).filter(|value| !value.is_null())
    }

    pub fn number(self, pointer: &str) -> Option<f64> {
        self.at(pointer)?.as_f64()
    }

    pub fn text(self, pointer: &str) -> Option<&'a str> {
        self.at(pointer)?.as_str()
    }

    pub fn list(self, pointer: &str) -> &'a [Value] {
        self.at(pointer).and_then(Value::as_array).map_or(&[], Vec::as_slice)
    }

    /// The figure there as a `<data>` element; nothing where there is none.
    pub fn figure(self, pointer: &str, how: As) -> Option<String> {
        Some(self.element(pointer, &how.text(self.number(pointer)?)))
    }

    fn element(self, pointer: &str, text: &str) -> String {
        let raw = self.0.pointer(pointer).map_or_else(String::new, Value::to_string);
        format!(r#"<data value="{raw}" data-at="{}">{text}</data>"#, escape(pointer))
    }

    /// The same inside a picture.
    pub fn figure_in_picture(self, pointer: &str, how: As) -> Option<String> {
        let value = self.number(pointer)?;
        let (raw, place) = (&self.0.pointer(pointer)?, escape(pointer));
        Some(format!(r#"<tspan data-value="{raw}" data-at="{place}">{}</tspan>"#, how.text(value)))
    }

    /// `0.0123 ± 0.0002`: an estimate and its standard error, as the command itself writes them.
    pub fn estimate(self, pointer: &str, how: As) -> Option<String> {
        let (error, mean) = (self.error(pointer), self.mean(pointer, how)?);
        let Some((at, error, places)) = error else { return Some(mean) };
        Some(format!("{mean} ± {}", self.element(&at, &As::Nats.to(error, places))))
    }

    /// The mean of an estimate, with the decimals that it has beside its error.
    pub fn mean(self, pointer: &str, how: As) -> Option<String> {
        let at = format!("{pointer}/value");
        let value = self.number(&at)?;
        let places = self.error(pointer).map_or(decimals(value), |(_, _, places)| places);
        Some(self.element(&at, &how.to(value, places)))
    }

    /// Where the standard error of an estimate is, the error, and the decimals of both.
    fn error(self, pointer: &str) -> Option<(String, f64, usize)> {
        let at = format!("{pointer}/standard_error");
        let (value, error) = (self.number(&format!("{pointer}/value"))?, self.number(&at)?);
        Some((at, error, places(value, Some(error))))
    }
}
