//! Sampled gradients whose second moment is the Fisher information, which is the Hessian of the KL divergence.

use candle_core::{CpuStorage, CustomOp1, D, DType, Layout, Result, Shape, Tensor};

use crate::nets::ops::pointwise::exp;
use crate::nets::ops::{fusible, output, sum, with_elements};

/// A reproducible stream of random signs (splitmix64).
pub struct Signs(u64);

impl Signs {
    pub fn new(seed: u64) -> Self {
        Signs(seed)
    }

    /// 64 random bits.
    pub fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// ±1 in every place.
    pub fn fill(&mut self, out: &mut [f32]) {
        for chunk in out.chunks_mut(64) {
            let bits = self.bits();
            for (i, v) in chunk.iter_mut().enumerate() {
                *v = if bits >> i & 1 == 1 { 1.0 } else { -1.0 };
            }
        }
    }
}

/// Mean of 1 − Σp² over positions below which predictions are too certain to be measured as they are: a curvature that
/// vanishes there says nothing about errors as large as the distance to the next token.
const UNCERTAIN: f64 = 1e-2;
/// Highest temperature, 2 to this power.
const HOTTEST: i32 = 24;

/// The temperature T ≥ 1, a power of two, at which predictions softmax(logits / T) are uncertain enough for their Fisher
/// information to tell which errors change them: 1 for all but models that are certain nearly everywhere. Its softened
/// predictions are those of distillation (Hinton, Vinyals and Dean, arXiv:1503.02531).
///
/// # Errors
/// If a tensor operation fails.
pub fn temperature(logits: &Tensor) -> Result<f32> {
    let vocab = logits.dim(D::Minus1)?;
    let logits = logits.detach().to_dtype(DType::F32)?.flatten_all()?.to_vec1::<f32>()?;
    let rows = logits.chunks_exact(vocab);
    let positions = rows.len().max(1) as f64;
    let uncertainty = |t: f32| -> f64 {
        let one = |x: &[f32]| {
            let top = x.iter().fold(f32::NEG_INFINITY, |m, v| m.max(*v));
            let (mut total, mut squares) = (0f64, 0f64);
            for x in x {
                let p = f64::from((x - top) / t).exp();
                total += p;
                squares += p * p;
            }
            1.0 - squares / (total * total)
        };
        rows.clone().map(one).sum::<f64>() / positions
    };
    let enough = |t: &f32| uncertainty(*t) >= UNCERTAIN;
    let temperatures = (0..=HOTTEST).map(|k| (k as f32).exp2());
    // Logits that are all equal, or no numbers, are no more certain at any temperature.
    Ok(temperatures.into_iter().find(enough).unwrap_or(1.0))
}

/// For logits (…, V) whose softmax at temperature T is p, cotangents (√p∘z − p·(√p·z)) / T with random signs z.
///
/// At T = 1 their covariance is diag(p) − ppᵀ, the Fisher information of a softmax: the same as that of the gradient for a
/// label drawn from p, but with far lighter tails, so fewer tokens give the same precision. At other temperatures it is that
/// of the softened predictions.
pub fn cotangent(logits: &Tensor, temperature: f32, signs: &mut Signs) -> Result<Tensor> {
    let colder = 1.0 / temperature;
    if !fusible(logits) {
        return composed(logits, colder, signs);
    }
    let vocab = logits.dim(D::Minus1)?;
    let data = with_elements([logits], |[x]| {
        let mut out = vec![0f32; x.len()];
        let (mut p, mut root, mut z) = (vec![0f32; vocab], vec![0f32; vocab], vec![0f32; vocab]);
        for (x, out) in x.chunks_exact(vocab).zip(out.chunks_exact_mut(vocab)) {
            let top = x.iter().fold(f32::NEG_INFINITY, |m, v| m.max(*v));
            for (p, x) in p.iter_mut().zip(x) {
                *p = exp((*x - top) * colder);
            }
            let inverse = 1.0 / sum(&p);
            signs.fill(&mut z);
            for ((root, p), z) in root.iter_mut().zip(&mut p).zip(&z) {
                *p *= inverse;
                *root = p.sqrt() * z;
            }
            let mean = sum(&root);
            for ((out, root), p) in out.iter_mut().zip(&root).zip(&p) {
                *out = (root - p * mean) * colder;
            }
        }
        out
    })?;
    Tensor::from_vec(data, logits.shape(), logits.device())
}

/// [`cotangent`] by candle's operations, from the same signs.
fn composed(logits: &Tensor, colder: f32, signs: &mut Signs) -> Result<Tensor> {
    let mut z = vec![0f32; logits.elem_count()];
    z.chunks_exact_mut(logits.dim(D::Minus1)?).for_each(|row| signs.fill(row));
    let z = Tensor::from_vec(z, logits.shape(), logits.device())?;
    let x = logits.detach().to_dtype(DType::F32)?;
    let p = (x.broadcast_sub(&x.max_keepdim(D::Minus1)?)? * f64::from(colder))?.exp()?;
    let p = p.broadcast_div(&p.sum_keepdim(D::Minus1)?)?;
    let root = (p.sqrt()? * z)?;
    (&root - p.broadcast_mul(&root.sum_keepdim(D::Minus1)?)?)? * f64::from(colder)
}

struct Seed(Tensor);

impl CustomOp1 for Seed {
    fn name(&self) -> &'static str {
        "seed"
    }

    fn cpu_fwd(&self, _: &CpuStorage, _: &Layout) -> Result<(CpuStorage, Shape)> {
        output(vec![0.0], ())
    }

    fn bwd(&self, _: &Tensor, _: &Tensor, _: &Tensor) -> Result<Option<Tensor>> {
        Ok(Some(self.0.clone()))
    }
}

/// A scalar whose backward pass starts from `cotangent` at `x`.
pub fn seed(x: &Tensor, cotangent: Tensor) -> Result<Tensor> {
    if fusible(x) { x.apply_op1(Seed(cotangent)) } else { (x.to_dtype(DType::F32)? * cotangent.detach())?.sum_all() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nets::ops::dot;
    use candle_core::Device;

    #[test]
    fn composed_is_fused() {
        let logits = Tensor::from_vec(crate::nets::ops::check::values(60, 8), (2, 3, 10), &Device::Cpu).unwrap();
        for temperature in [1.0, 4.0] {
            let a = cotangent(&logits, temperature, &mut Signs::new(3)).unwrap();
            let b = composed(&logits, 1.0 / temperature, &mut Signs::new(3)).unwrap();
            let largest = (a - b).unwrap().abs().unwrap().max_all().unwrap().to_scalar::<f32>().unwrap();
            assert!(largest < 1e-6, "off by {largest:e}");
        }
    }

    #[test]
    fn only_certain_predictions_are_softened() {
        let at = |scale: f32| {
            let logits: Vec<f32> = [2.0, -1.0, 0.5, 0.0, 1.0, -2.0].iter().map(|v| v * scale).collect();
            temperature(&Tensor::from_vec(logits, (2, 3), &Device::Cpu).unwrap()).unwrap()
        };
        assert_eq!(at(0.0), 1.0);
        assert_eq!(at(1.0), 1.0);
        assert_eq!(at(3.0), 1.0);
        // The second place is 1.0 · scale behind: e⁻⁵ is about .0067, twice that is 1 − Σp².
        assert_eq!(at(64.0), 16.0);
        assert_eq!(at(f32::NAN), 1.0);
    }

    #[test]
    fn second_moment_is_the_fisher_information_of_a_softmax() {
        let logits = [0.3f32, -1.0, 2.0, 0.1];
        let total: f32 = logits.iter().map(|x| x.exp()).sum();
        let p: Vec<f32> = logits.iter().map(|x| x.exp() / total).collect();
        let n = 40_000;
        let x = Tensor::from_vec(logits.repeat(n), (n, 4), &Device::Cpu).unwrap();
        let g = cotangent(&x, 1.0, &mut Signs::new(5)).unwrap().to_vec2::<f32>().unwrap();
        for i in 0..4 {
            for j in 0..4 {
                let moment =
                    dot(&g.iter().map(|g| g[i]).collect::<Vec<_>>(), &g.iter().map(|g| g[j]).collect::<Vec<_>>())
                        / n as f32;
                let fisher = if i == j { p[i] } else { 0.0 } - p[i] * p[j];
                assert!((moment - fisher).abs() < 0.01, "{i},{j}: {moment} against {fisher}");
            }
        }
    }
}
