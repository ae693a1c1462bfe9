//! Numbers of bytes and rows as people write them.

/// What a number of bytes may look like, for those who wrote another.
const EXAMPLES: &str = "write for example 16MB, 16M, 16MiB, 1.5MB, 900kB, 1e6 or 16_000_000";

/// `16MB`, `16M`, `1.5MiB`, `900kB`, `1e6`, `16_000_000`: a number of bytes ≥ 1.
///
/// Units of a thousand end in `B` or nothing, units of 1,024 in `iB`. `16mb` is written by those who think of no bits, `16Mb`
/// by those who tell them from bytes, so it is refused. Computed in integers: a cap must be exact.
pub fn parse(text: &str) -> Result<u64, String> {
    let (digits, tens, unit) = number(text)?;
    let factor: u64 = match unit {
        "" | "B" | "b" => 1,
        "k" | "K" | "kB" | "KB" | "kb" => 1_000,
        "M" | "m" | "MB" | "mb" => 1_000_000,
        "G" | "g" | "GB" | "gb" => 1_000_000_000,
        "Ki" | "ki" | "KiB" | "kiB" | "kib" => 1 << 10,
        "Mi" | "mi" | "MiB" | "mib" => 1 << 20,
        "Gi" | "gi" | "GiB" | "gib" => 1 << 30,
        "Kb" | "Mb" | "Gb" | "Kib" | "Mib" | "Gib" => {
            let amount = text.trim().trim_end_matches(unit).trim_end();
            let bytes = unit.replace('b', "B");
            return Err(format!("{unit} may mean bits; write {amount}{bytes} if bytes are meant"));
        }
        _ => return Err(format!("unknown unit {unit:?}; {EXAMPLES}")),
    };
    let scaled = digits.parse::<u128>().ok().and_then(|n| n.checked_mul(u128::from(factor)));
    match scaled.and_then(|n| shifted(n, tens)) {
        None => Err("more bytes than 64 bits count".into()),
        Some(None) => Err("not a whole number of bytes".into()),
        Some(Some(0)) => Err("nothing fits 0 bytes".into()),
        Some(Some(bytes)) => Ok(bytes),
    }
}

/// The digits of a number, the power of ten that they are multiplied by, and the unit behind it.
fn number(text: &str) -> Result<(String, i32, &str), String> {
    let bad = || format!("not a number of bytes; {EXAMPLES}");
    let text = text.trim();
    let end = text.find(|c: char| !(c.is_ascii_digit() || c == '.' || c == '_')).unwrap_or(text.len());
    let (number, mut unit) = (text[..end].replace('_', ""), text[end..].trim_start());
    let mut tens = 0;
    if let Some(power) = text[end..].strip_prefix(['e', 'E']) {
        let end = power.find(|c: char| !c.is_ascii_digit()).unwrap_or(power.len());
        tens = power[..end].parse::<u8>().map_err(|_| bad())?.into();
        unit = power[end..].trim_start();
    }
    let (whole, fraction) = number.split_once('.').unwrap_or((&number, ""));
    if whole.is_empty() && fraction.is_empty() || fraction.contains('.') {
        return Err(bad());
    }
    // Trailing zeros would only make the power of ten overflow.
    let fraction = fraction.trim_end_matches('0');
    let places = i32::try_from(fraction.len()).map_err(|_| bad())?;
    Ok((format!("{whole}{fraction}"), tens - places, unit))
}

/// `number` times ten to the power of `tens`: none where 64 bits do not hold it, none within where it is not whole.
fn shifted(number: u128, tens: i32) -> Option<Option<u64>> {
    let power = 10u128.checked_pow(tens.unsigned_abs())?;
    let result = match tens {
        0.. => number.checked_mul(power)?,
        _ if !number.is_multiple_of(power) => return Some(None),
        _ => number / power,
    };
    u64::try_from(result).ok().map(Some)
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
    let count = number(text).ok().filter(|(.., unit)| unit.is_empty());
    let count = count.and_then(|(digits, tens, _)| shifted(digits.parse().ok()?, tens).flatten());
    match count.and_then(|count| usize::try_from(count).ok()) {
        Some(0) => Err("0 tokens show nothing".into()),
        Some(n) => Ok(n),
        None => Err("not a number of tokens; write for example 100000, 100_000 or 1e5".into()),
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
            ("100k", 100_000),
            ("20kb", 20_000),
            ("16mb", 16_000_000),
            ("16M", 16_000_000),
            ("1.5G", 1_500_000_000),
            ("16mib", 16 << 20),
            ("1e6", 1_000_000),
            ("1.5e6", 1_500_000),
            ("16e6B", 16_000_000),
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
            "16Mib",
            "1e",
            "1e-3",
            "1e300",
            "16 megabytes",
            "1,5MB",
            "1.2.3MB",
            "1.0001kB",
            "18446744073709551616",
        ] {
            assert!(parse(text).is_err(), "{text}");
        }
        assert!(parse(&format!("0.{}1MB", "0".repeat(60))).is_err());
    }

    #[test]
    fn what_may_mean_bits_is_named_with_the_way_out() {
        assert_eq!(parse("1.5 Mb"), Err("Mb may mean bits; write 1.5MB if bytes are meant".into()));
    }

    #[test]
    fn counts_are_whole() {
        assert_eq!((parse_count("1_000"), parse_count("1e5"), parse_count("1.5e3")), (Ok(1000), Ok(100_000), Ok(1500)));
        assert!(["0", "", "1.5", "5k", "e5"].iter().all(|text| parse_count(text).is_err()));
    }

    #[test]
    fn rows_are_a_number_or_all() {
        assert_eq!((parse_rows("all"), parse_rows("3")), (Ok(Rows::All), Ok(Rows::First(3))));
        assert!(parse_rows("0").is_err() && parse_rows("some").is_err());
    }
}
