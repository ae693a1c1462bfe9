//! Control tensors: which integers stand for them. The stream is [`tiepack_format::streams::vectors`].

mod encode;

pub use encode::{CodedVectors, EQUAL_SLOPE, Tensor, encode};
pub use tiepack_format::streams::vectors::*;

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn like_vectors_cost_little_and_values_are_near() {
        let a: Vec<f32> = (0..256).map(|i| 1.0 + (i as f32 * 0.7).sin()).collect();
        let b: Vec<f32> = a.iter().map(|v| 0.5 * v - 3.0).collect();
        let f = vec![1e-3f32; 256];
        let tensor = |data| Tensor { data, curvature: (&f[..]).into(), width: 256 };
        let c = 1e-4;
        let one = encode(&[tensor(&a)], c);
        let two = encode(&[tensor(&a), tensor(&b)], c);
        assert!(two.bytes.len() < one.bytes.len() * 7 / 4, "{} after {}", two.bytes.len(), one.bytes.len());
        let back = decode(&two.bytes, &[(256, 256), (256, 256)]).unwrap();
        let step = 2f32.powi(encode::step_of(&a, &f, c));
        assert!(a.iter().zip(&back[0]).all(|(a, b)| (a - b).abs() <= step / 2.0));
    }

    proptest! {
        #[test]
        fn round_trip(
            a in prop::collection::vec(-1e3f32..1e3, 12),
            b in prop::collection::vec(-1e-3f32..1e-3, 12),
            d in prop::collection::vec(-1f32..1.0, 4),
            c in 1e-6f64..1e3,
        ) {
            let f = [0.5f32; 12];
            let tensors = [
                Tensor { data: &a, curvature: (&f[..]).into(), width: 6 },
                Tensor { data: &b, curvature: (&f[..]).into(), width: 6 },
                Tensor { data: &d, curvature: (&f[..4]).into(), width: 4 },
            ];
            let coded = encode(&tensors, c);
            let back = decode(&coded.bytes, &[(12, 6), (12, 6), (4, 4)]).unwrap();
            // What was decoded lies on the grid, so coding it again at the same steps gives it back.
            let loss: f64 = [&a, &b, &d].iter().zip(&back).map(|(x, y)| {
                x.iter().zip(y).map(|(x, y)| 0.25 * (f64::from(*x) - f64::from(*y)).powi(2)).sum::<f64>()
            }).sum();
            prop_assert!((loss - coded.loss).abs() <= 1e-6 * (1.0 + loss), "{} against {}", loss, coded.loss);
        }
    }
}
