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
    fn thousands_are_set_apart() {
        let all: Vec<String> = [0, 999, 1_000, 1_234_567, 100_000].into_iter().map(thousands).collect();
        assert_eq!(all, ["0", "999", "1,000", "1,234,567", "100,000"]);
    }
}
