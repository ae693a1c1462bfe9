//! Normalisation over the last axis, without weights: by the root mean square, and by mean and variance.

use candle_core::{CpuStorage, CustomOp1, D, Layout, Result, Shape, Tensor};

use super::simd::{rows, vectorized};
use super::{dot, elements, fusible, output, sum, wide, with_elements};

/// PyTorch's default for f32: machine epsilon.
const EPS: f32 = f32::EPSILON;

struct RmsNorm(f32);

#[inline(always)]
fn inverse_rms(x: &[f32], eps: f32) -> f32 {
    1.0 / (dot(x, x) / x.len() as f32 + eps).sqrt()
}

impl CustomOp1 for RmsNorm {
    fn name(&self) -> &'static str {
        "rms-norm"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let x = elements(storage, layout)?;
        let d = *layout.dims().last().unwrap_or(&1);
        let mut y = vec![0f32; x.len()];
        vectorized(
            #[inline(always)]
            || {
                for at in rows(x.len(), d) {
                    let (x, y) = (&x[at.clone()], &mut y[at]);
                    let r = inverse_rms(x, self.0);
                    for i in 0..d {
                        y[i] = x[i] * r;
                    }
                }
            },
        );
        output(y, layout.shape().clone())
    }

    /// With y = x·r: dx = r·(g − y·mean(g·y)).
    fn bwd(&self, x: &Tensor, y: &Tensor, grad: &Tensor) -> Result<Option<Tensor>> {
        let d = *x.dims().last().unwrap_or(&1);
        let grad = grad.contiguous()?;
        let dx = with_elements([x, y, &grad], |[x, y, g]| {
            let mut dx = vec![0f32; x.len()];
            vectorized(
                #[inline(always)]
                || {
                    for at in rows(x.len(), d) {
                        let [x, y, g] = [x, y, g].map(|all| &all[at.clone()]);
                        let dx = &mut dx[at];
                        let r = inverse_rms(x, self.0);
                        let mean = dot(g, y) / d as f32;
                        for i in 0..d {
                            dx[i] = r * (g[i] - y[i] * mean);
                        }
                    }
                },
            );
            dx
        })?;
        Ok(Some(Tensor::from_vec(dx, x.shape(), x.device())?))
    }
}

/// x / sqrt(mean(x²) + ε) over the last axis; x must be contiguous.
pub fn rms_norm(x: &Tensor) -> Result<Tensor> {
    rms_norm_eps(x, EPS)
}

/// x / sqrt(mean(x²) + eps) over the last axis; x must be contiguous.
///
/// # Errors
/// As candle's operations.
pub fn rms_norm_eps(x: &Tensor, eps: f32) -> Result<Tensor> {
    if fusible(x) { x.apply_op1(RmsNorm(eps)) } else { composed(x, eps) }
}

fn composed(x: &Tensor, eps: f32) -> Result<Tensor> {
    let wide = wide(x)?;
    let mean = wide.sqr()?.mean_keepdim(D::Minus1)?;
    wide.broadcast_div(&(mean + f64::from(eps))?.sqrt()?)?.to_dtype(x.dtype())
}

struct LayerNorm(f32);

/// Mean, and the inverse of the standard deviation.
fn moments(x: &[f32], eps: f32) -> (f32, f32) {
    let mean = sum(x) / x.len() as f32;
    let variance = x.iter().map(|v| (v - mean) * (v - mean)).sum::<f32>() / x.len() as f32;
    (mean, 1.0 / (variance + eps).sqrt())
}

impl CustomOp1 for LayerNorm {
    fn name(&self) -> &'static str {
        "layer-norm"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let x = elements(storage, layout)?;
        let d = *layout.dims().last().unwrap_or(&1);
        let mut y = Vec::with_capacity(x.len());
        for row in x.chunks_exact(d) {
            let (mean, r) = moments(row, self.0);
            y.extend(row.iter().map(|v| (v - mean) * r));
        }
        output(y, layout.shape().clone())
    }

    fn bwd(&self, x: &Tensor, y: &Tensor, grad: &Tensor) -> Result<Option<Tensor>> {
        let d = *x.dims().last().unwrap_or(&1);
        let grad = grad.contiguous()?;
        let dx = with_elements([x, y, &grad], |[x, y, g]| {
            let mut dx = Vec::with_capacity(x.len());
            for ((x, y), g) in x.chunks_exact(d).zip(y.chunks_exact(d)).zip(g.chunks_exact(d)) {
                let (_, r) = moments(x, self.0);
                let (along, mean) = (dot(g, y) / d as f32, sum(g) / d as f32);
                dx.extend(g.iter().zip(y).map(|(g, y)| r * (g - mean - y * along)));
            }
            dx
        })?;
        Ok(Some(Tensor::from_vec(dx, x.shape(), x.device())?))
    }
}

/// (x − mean) / sqrt(variance + eps) over the last axis (Ba et al., arXiv:1607.06450); x must be contiguous.
///
/// # Errors
/// As candle's operations.
pub fn layer_norm(x: &Tensor, eps: f32) -> Result<Tensor> {
    if fusible(x) { x.apply_op1(LayerNorm(eps)) } else { composed_layer_norm(x, eps) }
}

fn composed_layer_norm(x: &Tensor, eps: f32) -> Result<Tensor> {
    let wide = wide(x)?;
    let centred = wide.broadcast_sub(&wide.mean_keepdim(D::Minus1)?)?;
    composed(&centred, eps)?.to_dtype(x.dtype())
}

#[cfg(test)]
mod tests {
    use crate::nets::ops::check;

    #[test]
    fn gradients() {
        check::gradients(&[&[3, 6]], |a| super::rms_norm(&a[0]));
        check::gradients(&[&[3, 6]], |a| super::layer_norm(&a[0], 1e-5));
    }

    #[test]
    fn composed_is_fused() {
        check::agree(&[&[2, 3, 6]], |a| super::rms_norm(&a[0]), |a| super::composed(&a[0], super::EPS));
        check::agree(&[&[2, 3, 6]], |a| super::layer_norm(&a[0], 1e-5), |a| super::composed_layer_norm(&a[0], 1e-5));
    }
}
