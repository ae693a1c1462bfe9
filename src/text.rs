//! How figures and types are written for people.

use crate::ingest::Dtype;

/// `1234567` as `1,234,567`.
pub fn thousands(n: u64) -> String {
    let digits = n.to_string();
    let mut out = String::with_capacity(digits.len() + digits.len() / 3);
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// The first few of some names.
pub fn listed(names: &[String]) -> String {
    const SHOWN: usize = 5;
    let more = if names.len() > SHOWN { format!(" and {} more", names.len() - SHOWN) } else { String::new() };
    names[..names.len().min(SHOWN)].join(", ") + &more
}

/// Decimals that show two digits of `x`, at least 4 and at most 9.
pub fn decimals(x: f64) -> usize {
    if x == 0.0 || !x.is_finite() {
        return 4;
    }
    (1.0 - x.abs().log10().floor()).clamp(4.0, 9.0) as usize
}

/// A loss or a divergence: four decimals, more when it is tiny.
pub fn nats(x: f64) -> String {
    format!("{x:.*}", decimals(x))
}

/// Decimals of a mean and of its standard error, which are the same: as many as the more telling of the two needs.
pub fn places(mean: f64, error: Option<f64>) -> usize {
    let telling = error.filter(|error| *error > 0.0).unwrap_or(mean);
    decimals(telling).min(decimals(mean))
}

/// `0, 2, 5`; runs of three or more as `3-7`.
pub fn list(layers: &[usize]) -> String {
    let runs = layers.chunk_by(|a, b| a + 1 == *b);
    let parts = runs.flat_map(|run| match run {
        [first, .., last] if run.len() > 2 => vec![format!("{first}-{last}")],
        few => few.iter().map(ToString::to_string).collect(),
    });
    parts.collect::<Vec<_>>().join(", ")
}

/// The name of an element type, as safetensors and PyTorch users know it.
pub fn type_name(dtype: Dtype) -> &'static str {
    match dtype {
        Dtype::F32 => "f32",
        Dtype::F16 => "f16",
        Dtype::Bf16 => "bf16",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tiny_figures_keep_two_digits() {
        assert_eq!(
            [nats(2.83951), nats(0.0), nats(0.0000123), nats(1e-12)],
            ["2.8395", "0.0000", "0.000012", "0.000000000"]
        );
    }

    #[test]
    fn thousands_are_set_apart() {
        let all: Vec<String> = [0, 999, 1_000, 1_234_567, 100_000].into_iter().map(thousands).collect();
        assert_eq!(all, ["0", "999", "1,000", "1,234,567", "100,000"]);
    }

    #[test]
    fn runs_of_layers_are_drawn_together() {
        let all: Vec<String> = [&[][..], &[3], &[0, 2, 5], &[0, 1], &[0, 1, 2, 5, 7, 8, 9]].map(list).into();
        assert_eq!(all, ["", "3", "0, 2, 5", "0, 1", "0-2, 5, 7-9"]);
    }
}
