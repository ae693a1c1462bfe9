//! How long to heal, as people write it.

use std::time::Duration;

use crate::compile::Heal;
use crate::heal::Length;

/// `auto`, `off`, a number of steps, or a time as `90s`, `20m`, `1.5h`.
pub fn parse(text: &str) -> Result<Heal, String> {
    const FORMS: &str = "write auto, off, a number of steps, or a time as 90s, 20m or 1.5h";
    match text {
        "auto" => return Ok(Heal::Auto),
        "off" => return Ok(Heal::Off),
        _ => {}
    }
    if text.ends_with(|c: char| c.is_ascii_digit()) {
        return match text.replace('_', "").parse() {
            Ok(0) => Err("0 steps heal nothing; write off".into()),
            Ok(steps) => Ok(Heal::For(Length::Steps(steps))),
            Err(_) => Err(format!("not a length; {FORMS}")),
        };
    }
    match parse_time(text) {
        Err(_) => Err(format!("not a length; {FORMS}")),
        Ok(time) if time.is_zero() => Err("no time heals nothing; write off".into()),
        Ok(time) => Ok(Heal::For(Length::Time(time))),
    }
}

/// A time as `90s`, `20m`, `1.5h`.
pub fn parse_time(text: &str) -> Result<Duration, String> {
    let seconds = [('s', 1.0), ('m', 60.0), ('h', 3600.0)].into_iter().find_map(|(letter, unit)| {
        let number: f64 = text.strip_suffix(letter)?.trim().parse().ok()?;
        Duration::try_from_secs_f64(number * unit).ok()
    });
    seconds.ok_or_else(|| "not a time; write one as 90s, 20m or 1.5h".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths() {
        let time = |seconds: f64| Ok(Heal::For(Length::Time(Duration::from_secs_f64(seconds))));
        assert_eq!((parse("auto"), parse("off")), (Ok(Heal::Auto), Ok(Heal::Off)));
        assert_eq!(parse("1_500"), Ok(Heal::For(Length::Steps(1500))));
        assert_eq!((parse("90s"), parse("20m"), parse("1.5h")), (time(90.0), time(1200.0), time(5400.0)));
        for text in ["", "0", "0s", "0.0h", "-3", "-1m", "12d", "m", "NaNs", "infh", "1e400s", "long"] {
            assert!(parse(text).is_err(), "{text}");
        }
    }
}
