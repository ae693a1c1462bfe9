//! The lossless coder gives back every bit, and withstands any bytes.

use half::{bf16, f16};
use proptest::prelude::*;
use tiepack_format::Dtype;
use tiepack_format::streams::exact::{decode, decode_group, encode, encode_group};

const DTYPES: [Dtype; 3] = [Dtype::F32, Dtype::F16, Dtype::Bf16];

/// The number with these bits in the type; bits that make no number (NaN, infinity) give zero of the same sign.
fn number(bits: u32, dtype: Dtype) -> f32 {
    let v = match dtype {
        Dtype::F32 => f32::from_bits(bits),
        Dtype::F16 => f16::from_bits((bits >> 16) as u16).to_f32(),
        Dtype::Bf16 => bf16::from_bits((bits >> 16) as u16).to_f32(),
    };
    if v.is_finite() { v } else { f32::copysign(0.0, v) }
}

fn check(data: &[f32], shape: &[usize], dtype: Dtype) -> usize {
    let bytes = encode(data, shape, dtype).unwrap();
    let back = decode(&bytes, shape, dtype).unwrap();
    assert!(back.iter().map(|v| v.to_bits()).eq(data.iter().map(|v| v.to_bits())), "{dtype:?} {shape:?}");
    bytes.len()
}

/// Deterministic pseudo-random bits (a linear congruential generator).
fn noise() -> impl Iterator<Item = u32> {
    std::iter::successors(Some(1u64), |s| Some(s.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1)))
        .map(|s| (s >> 32) as u32)
}

/// About normal: the sum of twelve uniform numbers, rounded to bf16.
fn bell(n: usize) -> Vec<f32> {
    let mut bits = noise();
    let mut one = || bits.by_ref().take(12).map(|b| f64::from(b) / 4_294_967_296.0).sum::<f64>() - 6.0;
    (0..n).map(|_| bf16::from_f64(one()).to_f32()).collect()
}

#[test]
fn every_half_precision_number_survives() {
    for dtype in [Dtype::F16, Dtype::Bf16] {
        let all: Vec<f32> = (0..=65_535u32).map(|b| number(b << 16, dtype)).collect();
        check(&all, &[256, 256], dtype);
    }
}

#[test]
fn the_ends_of_f32_survive() {
    let mut ends = vec![0.0, -0.0, f32::MIN, f32::MAX, f32::MIN_POSITIVE, -f32::MIN_POSITIVE, f32::EPSILON];
    ends.extend([1, 2, 0x7f_ffff, 0x8000_0001].map(f32::from_bits));
    check(&ends, &[ends.len()], Dtype::F32);
}

#[test]
fn empty_and_scalar_tensors_survive() {
    for dtype in DTYPES {
        check(&[], &[0], dtype);
        check(&[], &[3, 0], dtype);
        check(&[-1.5], &[], dtype);
    }
}

#[test]
fn a_bell_curve_in_bf16_takes_10_6_bits() {
    let n = 256 * 256;
    let bytes = check(&bell(n), &[256, 256], Dtype::Bf16);
    assert!(bytes * 80 < n * 106, "{bytes} bytes");
}

#[test]
fn scales_of_rows_and_columns_are_learned() {
    // Rows spread over four octaves, columns over four others: of that, little may remain.
    let scaled: Vec<f32> = bell(256 * 256)
        .iter()
        .enumerate()
        .map(|(k, v)| v * 2f32.powi((k / 256 * 5 % 4) as i32) * 2f32.powi((k % 256 * 3 % 4) as i32))
        .collect();
    let bytes = check(&scaled, &[256, 256], Dtype::Bf16);
    assert!(bytes * 80 < 256 * 256 * 107, "{bytes} bytes");
}

#[test]
fn zeros_and_repeats_cost_next_to_nothing() {
    assert!(check(&[0.0; 65_536], &[256, 256], Dtype::Bf16) < 150);
    assert!(check(&[1.0; 65_536], &[256, 256], Dtype::F32) < 400);
    // Values of bf16 kept in f32: the 16 low bits are found to be empty.
    assert!(check(&bell(65_536), &[256, 256], Dtype::F32) < 65_536 * 107 / 80 + 400);
}

#[test]
fn a_value_that_the_type_cannot_hold_is_refused() {
    for (value, dtype) in [(1.001, Dtype::Bf16), (1e6, Dtype::F16), (1e-9, Dtype::F16)] {
        let error = encode(&[value], &[1], dtype).unwrap_err();
        assert!(error.message.contains("not exactly"), "{error}");
    }
    assert!(encode(&[1.0], &[2], Dtype::F32).is_err());
}

#[test]
fn a_shape_beyond_the_bytes_is_refused_before_anything_is_allocated() {
    for shape in [vec![usize::MAX], vec![usize::MAX, 2], vec![1 << 20, 1 << 20]] {
        assert!(decode(&[1, 2, 3], &shape, Dtype::F32).is_err());
    }
}

proptest! {
    // Nothing is written into the source tree.
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_numbers_survive(bits in prop::collection::vec(any::<u32>(), 0..200), columns in 1usize..20) {
        for dtype in DTYPES {
            let rows = bits.len() / columns;
            let data: Vec<f32> = bits[..rows * columns].iter().map(|&b| number(b, dtype)).collect();
            check(&data, &[rows, columns], dtype);
        }
    }

    #[test]
    fn groups_survive(lengths in prop::collection::vec(0usize..40, 0..8)) {
        let data: Vec<Vec<f32>> = lengths.iter().map(|&n| bell(n)).collect();
        let shapes: Vec<[usize; 1]> = lengths.iter().map(|&n| [n]).collect();
        let group: Vec<(&[f32], &[usize])> = data.iter().zip(&shapes).map(|(d, s)| (&d[..], &s[..])).collect();
        let bytes = encode_group(&group, Dtype::F32).unwrap();
        let shapes: Vec<&[usize]> = shapes.iter().map(|s| &s[..]).collect();
        prop_assert_eq!(decode_group(&bytes, &shapes, Dtype::F32).unwrap(), data);
    }

    #[test]
    fn any_bytes_decode_to_something_or_to_an_error(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        for dtype in DTYPES {
            if let Ok(data) = decode(&bytes, &[7, 31], dtype) {
                prop_assert_eq!(data.len(), 7 * 31);
            }
        }
    }
}
