//! Figures on a page: each says where in the `--json` document it stands, and its value there.

use serde_json::Value;

use super::svg::escape;
use crate::text::{nats, thousands};

/// How a figure is written.
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
            As::Nats => nats(value),
            As::Difference if value < 0.0 => format!("−{}", nats(-value)),
            As::Difference => format!("+{}", nats(value)),
            As::Bits => format!("{value:.3}"),
            As::Percent => format!("{:.1} %", 100.0 * value),
            As::Seconds => format!("{value:.1} s"),
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
        let value = self.number(pointer)?;
        let (raw, place) = (&self.0.pointer(pointer)?, escape(pointer));
        Some(format!(r#"<data value="{raw}" data-at="{place}">{}</data>"#, how.text(value)))
    }

    /// The same inside a picture.
    pub fn figure_in_picture(self, pointer: &str, how: As) -> Option<String> {
        let value = self.number(pointer)?;
        let (raw, place) = (&self.0.pointer(pointer)?, escape(pointer));
        Some(format!(r#"<tspan data-value="{raw}" data-at="{place}">{}</tspan>"#, how.text(value)))
    }

    /// `0.0123 ± 0.0002`: an estimate and its standard error.
    pub fn estimate(self, pointer: &str, how: As) -> Option<String> {
        let value = self.figure(&format!("{pointer}/value"), how)?;
        match self.figure(&format!("{pointer}/standard_error"), As::Nats) {
            Some(error) => Some(format!("{value} ± {error}")),
            None => Some(value),
        }
    }
}
