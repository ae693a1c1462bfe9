//! Numbers of bytes and rows as people write them.

/// `16MB`, `1.5MiB`, `900kB`, `16000000`: a number of bytes ≥ 1.
///
/// Units of a thousand end in `B`, units of 1,024 in `iB`. Computed in integers: a cap must be exact.
pub fn parse(text: &str) -> Result<u64, String> {
    let digits = text.find(|c: char| !(c.is_ascii_digit() || c == '.' || c == '_')).unwrap_or(text.len());
    let (number, unit) = (text[..digits].replace('_', ""), text[digits..].trim());
    let factor: u64 = match unit {
        "" | "B" => 1,
        "kB" | "KB" => 1_000,
        "MB" => 1_000_000,
        "GB" => 1_000_000_000,
        "KiB" | "kiB" => 1 << 10,
        "MiB" => 1 << 20,
        "GiB" => 1 << 30,
        _ => return Err(format!("unknown unit {unit:?}; write for example 16MB, 16MiB, 1.5MB, 900kB or 16000000")),
    };
    let (whole, fraction) = number.split_once('.').unwrap_or((&number, ""));
    let plain = |part: &str| part.chars().all(|c| c.is_ascii_digit());
    if whole.is_empty() && fraction.is_empty() || !plain(whole) || !plain(fraction) {
        return Err("not a number of bytes; write for example 16MB, 16MiB, 1.5MB, 900kB or 16000000".into());
    }
    // 1.5 MB is 15 tenths of a million; trailing zeros would only make the power of ten overflow.
    let fraction = fraction.trim_end_matches('0');
    let tenths = u32::try_from(fraction.len()).ok().and_then(|n| 10u128.checked_pow(n));
    let scaled = format!("{whole}{fraction}").parse::<u128>().ok().and_then(|n| n.checked_mul(u128::from(factor)));
    let (Some(scaled), Some(tenths)) = (scaled, tenths) else { return Err("more bytes than 64 bits count".into()) };
    if scaled % tenths != 0 {
        return Err("not a whole number of bytes".into());
    }
    match u64::try_from(scaled / tenths) {
        Ok(0) => Err("nothing fits 0 bytes".into()),
        Ok(bytes) => Ok(bytes),
        Err(_) => Err("more bytes than 64 bits count".into()),
    }
}

/// How many rows to use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rows {
    All,
    First(usize),
}

impl Rows {
    /// The number, `None` for all.
    pub fn limit(self) -> Option<usize> {
        match self {
            Rows::All => None,
            Rows::First(n) => Some(n),
        }
    }
}

/// `all`, or a number ≥ 1.
pub fn parse_rows(text: &str) -> Result<Rows, String> {
    match text.parse() {
        _ if text == "all" => Ok(Rows::All),
        Ok(0) => Err("0 rows show nothing; write a number or `all`".into()),
        Ok(n) => Ok(Rows::First(n)),
        Err(_) => Err("not a number of rows; write a number or `all`".into()),
    }
}

/// A number of tokens ≥ 1.
pub fn parse_count(text: &str) -> Result<usize, String> {
    match text.replace('_', "").parse() {
        Ok(0) => Err("0 tokens show nothing".into()),
        Ok(n) => Ok(n),
        Err(_) => Err("not a number of tokens".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units_of_a_thousand_and_of_1024() {
        for (text, bytes) in [
            ("16MB", 16_000_000),
            ("16 MB", 16_000_000),
            ("16MiB", 16 << 20),
            ("16000000", 16_000_000),
            ("16_000_000B", 16_000_000),
            ("1.5MB", 1_500_000),
            ("1.50MB", 1_500_000),
            (".5KiB", 512),
            ("2.kB", 2_000),
            ("3GB", 3_000_000_000),
            ("18446744073709551615", u64::MAX),
        ] {
            assert_eq!(parse(text), Ok(bytes), "{text}");
        }
    }

    #[test]
    fn nonsense_is_refused() {
        for text in [
            "",
            "0",
            "0MB",
            "MB",
            ".",
            "-1",
            "16Mb",
            "16mb",
            "1,5MB",
            "1.2.3MB",
            "1.0001kB",
            "18446744073709551616",
            "1e6",
        ] {
            assert!(parse(text).is_err(), "{text}");
        }
        assert!(parse(&format!("0.{}1MB", "0".repeat(60))).is_err());
    }

    #[test]
    fn rows_are_a_number_or_all() {
        assert_eq!((parse_rows("all"), parse_rows("3")), (Ok(Rows::All), Ok(Rows::First(3))));
        assert!(parse_rows("0").is_err() && parse_rows("some").is_err());
    }
}
