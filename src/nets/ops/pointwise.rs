//! Activations applied element by element: relu², and tanh softcapping of logits.

use candle_core::{CpuStorage, CustomOp1, Layout, Result, Shape, Tensor};

use super::simd::vectorized;
use super::{elements, fusible, output, wide, with_elements};

#[inline(always)]
fn map(x: &[f32], f: impl Fn(f32) -> f32) -> Vec<f32> {
    let mut y = vec![0f32; x.len()];
    vectorized(
        #[inline(always)]
        || y.iter_mut().zip(x).for_each(|(y, x)| *y = f(*x)),
    );
    y
}

#[inline(always)]
fn zip_map(a: &[f32], b: &[f32], f: impl Fn(f32, f32) -> f32) -> Vec<f32> {
    let mut y = vec![0f32; a.len()];
    vectorized(
        #[inline(always)]
        || y.iter_mut().zip(a).zip(b).for_each(|((y, a), b)| *y = f(*a, *b)),
    );
    y
}

struct LeakyRelu2 {
    slope: f32,
}

impl LeakyRelu2 {
    #[inline(always)]
    fn leaky(&self, x: f32) -> f32 {
        if x > 0.0 { x } else { self.slope * x }
    }
}

impl CustomOp1 for LeakyRelu2 {
    fn name(&self) -> &'static str {
        "relu-squared"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        output(map(elements(storage, layout)?, |x| self.leaky(x) * self.leaky(x)), layout.shape().clone())
    }

    fn bwd(&self, x: &Tensor, _: &Tensor, grad: &Tensor) -> Result<Option<Tensor>> {
        let grad = grad.contiguous()?;
        let dx = with_elements([x, &grad], |[x, g]| {
            let slope = |x: f32| if x > 0.0 { 1.0 } else { self.slope };
            zip_map(x, g, |x, g| 2.0 * self.leaky(x) * slope(x) * g)
        })?;
        Ok(Some(Tensor::from_vec(dx, x.shape(), x.device())?))
    }
}

/// max(x, 0)².
pub fn relu_squared(x: &Tensor) -> Result<Tensor> {
    leaky_relu_squared(x, 0.0)
}

/// (x for x > 0, else `slope`·x)², element by element: never negative.
///
/// # Errors
/// As candle's operations.
pub fn leaky_relu_squared(x: &Tensor, slope: f32) -> Result<Tensor> {
    if fusible(x) { x.apply_op1(LeakyRelu2 { slope }) } else { composed_relu_squared(x, slope) }
}

fn composed_relu_squared(x: &Tensor, slope: f32) -> Result<Tensor> {
    let leak = (x.neg()?.relu()?.sqr()? * f64::from(slope * slope))?;
    x.relu()?.sqr()? + leak
}

struct Softcap(f32);

impl CustomOp1 for Softcap {
    fn name(&self) -> &'static str {
        "softcap"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        output(map(elements(storage, layout)?, |x| self.0 * tanh(x / self.0)), layout.shape().clone())
    }

    /// d/dx c·tanh(x/c) = 1 − (y/c)².
    fn bwd(&self, x: &Tensor, y: &Tensor, grad: &Tensor) -> Result<Option<Tensor>> {
        let grad = grad.contiguous()?;
        let dx = with_elements([y, &grad], |[y, g]| zip_map(y, g, |y, g| g * (1.0 - (y / self.0) * (y / self.0))))?;
        Ok(Some(Tensor::from_vec(dx, x.shape(), x.device())?))
    }
}

/// tanh by its continued-fraction rational form below 1 and by [`exp`] above: the library call is several times
/// slower and does not vectorise. Error below 3e-7.
#[inline(always)]
fn tanh(x: f32) -> f32 {
    let a = x.abs();
    let x2 = x * x;
    let small = x * (10395.0 + x2 * (1260.0 + x2 * 21.0)) / (10395.0 + x2 * (4725.0 + x2 * (210.0 + x2)));
    let e = exp(-2.0 * a);
    let large = ((1.0 - e) / (1.0 + e)).copysign(x);
    if a < 0.5 { small } else { large }
}

/// eˣ for x ≤ 0 in plain arithmetic that vectorises (Cephes' `expf`): relative error below 2e-7; 0 below −87.
#[inline(always)]
pub fn exp(x: f32) -> f32 {
    let clamped = x.max(-87.0);
    // Adding and taking away 1.5·2²³ rounds to an integer without a call to the library.
    const ROUND: f32 = 12_582_912.0;
    let n = (clamped * std::f32::consts::LOG2_E + ROUND) - ROUND;
    let r = (clamped - n * 0.693_359_4) + n * 2.121_944_4e-4;
    let p = 1.987_569_2e-4_f32;
    let p = p * r + 1.398_2e-3;
    let p = p * r + 8.333_452e-3;
    let p = p * r + 4.166_579_6e-2;
    let p = p * r + 1.666_666_5e-1;
    let p = p * r + 0.5;
    let y = p * r * r + r + 1.0;
    let scaled = y * f32::from_bits(((n as i32 + 127) as u32) << 23);
    if x < -87.0 { 0.0 } else { scaled }
}

/// c·tanh(x / c).
pub fn softcap(x: &Tensor, cap: f32) -> Result<Tensor> {
    if fusible(x) { x.apply_op1(Softcap(cap)) } else { composed_softcap(x, cap) }
}

fn composed_softcap(x: &Tensor, cap: f32) -> Result<Tensor> {
    (wide(x)? / f64::from(cap))?.tanh()? * f64::from(cap)
}

#[cfg(test)]
mod tests {
    use crate::nets::ops::check;

    #[test]
    fn gradients() {
        check::gradients(&[&[2, 9]], |a| super::relu_squared(&a[0]));
        check::gradients(&[&[2, 9]], |a| super::leaky_relu_squared(&a[0], 0.5));
        check::gradients(&[&[2, 9]], |a| super::softcap(&a[0], 1.5));
    }

    #[test]
    fn composed_is_fused() {
        check::agree(&[&[2, 9]], |a| super::relu_squared(&a[0]), |a| super::composed_relu_squared(&a[0], 0.0));
        check::agree(&[&[2, 9]], |a| super::softcap(&a[0], 1.5), |a| super::composed_softcap(&a[0], 1.5));
    }

    #[test]
    fn exp_and_tanh_agree_with_f64() {
        for i in -4000..=4000 {
            let x = i as f32 * 0.01;
            let t = super::tanh(x) as f64;
            assert!((t - (x as f64).tanh()).abs() < 3e-7, "tanh({x}) = {t}");
            if x <= 0.0 {
                let (e, want) = (super::exp(x) as f64, (x as f64).exp());
                assert!((e - want).abs() <= 2.5e-7 * want, "exp({x}) = {e}");
            }
        }
        assert_eq!(super::exp(-200.0), 0.0);
    }
}
