//! Element types: what files hold, and what a model keeps of it.

use half::{bf16, f16};
pub use tiepack_format::Dtype;

/// The element type of a tensor in a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Element {
    F64,
    F32,
    F16,
    Bf16,
    /// Four bits of exponent, three of fraction, no infinities (OCP OFP8, "fn").
    F8E4m3,
    /// Five bits of exponent, two of fraction: the upper half of an f16.
    F8E5m2,
    /// Integers and booleans, by their name: never weights.
    Integer(&'static str, usize),
}

impl Element {
    /// Bytes of one element.
    pub fn size(self) -> usize {
        match self {
            Element::F64 => 8,
            Element::F32 => 4,
            Element::F16 | Element::Bf16 => 2,
            Element::F8E4m3 | Element::F8E5m2 => 1,
            Element::Integer(_, size) => size,
        }
    }

    /// As a person would write it.
    pub fn name(self) -> &'static str {
        match self {
            Element::F64 => "f64",
            Element::F32 => "f32",
            Element::F16 => "f16",
            Element::Bf16 => "bf16",
            Element::F8E4m3 => "fp8 (e4m3)",
            Element::F8E5m2 => "fp8 (e5m2)",
            Element::Integer(name, _) => name,
        }
    }

    /// What a model keeps of it: the same type, or the smallest that holds every value. An f64 becomes an f32, which
    /// rounds. `None` for integers.
    pub fn kept(self) -> Option<Dtype> {
        match self {
            Element::F64 | Element::F32 => Some(Dtype::F32),
            // Both fp8 types lie within f16, subnormals included.
            Element::F16 | Element::F8E4m3 | Element::F8E5m2 => Some(Dtype::F16),
            Element::Bf16 => Some(Dtype::Bf16),
            Element::Integer(..) => None,
        }
    }

    /// `bytes` (little-endian, a whole number of elements) as f32; an f64 is rounded to nearest.
    pub fn widen(self, bytes: &[u8]) -> Vec<f32> {
        let pairs = || bytes.chunks_exact(2).map(|b| [b[0], b[1]]);
        match self {
            Element::F64 => f64s(bytes).map(|x| x as f32).collect(),
            Element::F32 => bytes.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect(),
            Element::F16 => pairs().map(|b| f16::from_le_bytes(b).to_f32()).collect(),
            Element::Bf16 => pairs().map(|b| bf16::from_le_bytes(b).to_f32()).collect(),
            Element::F8E4m3 => bytes.iter().map(|b| e4m3(*b)).collect(),
            Element::F8E5m2 => bytes.iter().map(|b| f16::from_bits(u16::from(*b) << 8).to_f32()).collect(),
            Element::Integer(..) => Vec::new(),
        }
    }
}

/// Little-endian f64.
pub fn f64s(bytes: &[u8]) -> impl Iterator<Item = f64> {
    bytes.chunks_exact(8).map(|b| f64::from_le_bytes(*b.first_chunk().expect("eight bytes")))
}

/// Sign, exponent with bias 7, fraction; all ones is NaN, so that the largest value is 448.
fn e4m3(byte: u8) -> f32 {
    let (exponent, fraction) = (i32::from(byte >> 3 & 15), f32::from(byte & 7));
    let size = match (exponent, byte & 7) {
        (15, 7) => f32::NAN,
        (0, _) => fraction * 2f32.powi(-9),
        _ => (8.0 + fraction) * 2f32.powi(exponent - 10),
    };
    if byte & 0x80 == 0 { size } else { -size }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fp8_is_what_the_format_says() {
        let e4m3: Vec<f32> = Element::F8E4m3.widen(&[0x00, 0x01, 0x07, 0x08, 0x38, 0x39, 0x7e, 0xb8, 0x80]);
        assert_eq!(e4m3, [0.0, 1.0 / 512.0, 7.0 / 512.0, 1.0 / 64.0, 1.0, 1.125, 448.0, -1.0, 0.0]);
        assert!(Element::F8E4m3.widen(&[0x7f, 0xff]).iter().all(|x| x.is_nan()));
        let e5m2 = Element::F8E5m2.widen(&[0x01, 0x3c, 0x3d, 0x7b, 0xbc, 0x7c]);
        assert_eq!(e5m2, [2f32.powi(-16), 1.0, 1.25, 57344.0, -1.0, f32::INFINITY]);
    }

    #[test]
    fn what_a_model_keeps_holds_every_value() {
        let all: Vec<u8> = (0..=255).collect();
        for element in [Element::F8E4m3, Element::F8E5m2] {
            let kept = element.kept().unwrap();
            for x in element.widen(&all).into_iter().filter(|x| x.is_finite()) {
                assert_eq!(kept.round(f64::from(x)), x, "{}", element.name());
            }
        }
    }
}
