//! Root-mean-square normalisation over the last axis, without a weight.

use candle_core::{CpuStorage, CustomOp1, D, Layout, Result, Shape, Tensor};

use super::{dot, elements, fusible, output, with_elements};

/// PyTorch's default for f32: machine epsilon.
const EPS: f32 = f32::EPSILON;

struct RmsNorm;

fn inverse_rms(x: &[f32]) -> f32 {
    1.0 / (dot(x, x) / x.len() as f32 + EPS).sqrt()
}

impl CustomOp1 for RmsNorm {
    fn name(&self) -> &'static str {
        "rms-norm"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let x = elements(storage, layout)?;
        let d = *layout.dims().last().unwrap_or(&1);
        let mut y = Vec::with_capacity(x.len());
        for row in x.chunks_exact(d) {
            let r = inverse_rms(row);
            y.extend(row.iter().map(|v| v * r));
        }
        output(y, layout.shape().clone())
    }

    /// With y = x·r: dx = r·(g − y·mean(g·y)).
    fn bwd(&self, x: &Tensor, y: &Tensor, grad: &Tensor) -> Result<Option<Tensor>> {
        let d = *x.dims().last().unwrap_or(&1);
        let grad = grad.contiguous()?;
        let dx = with_elements([x, y, &grad], |[x, y, g]| {
            let mut dx = Vec::with_capacity(x.len());
            for ((x, y), g) in x.chunks_exact(d).zip(y.chunks_exact(d)).zip(g.chunks_exact(d)) {
                let r = inverse_rms(x);
                let mean = dot(g, y) / d as f32;
                dx.extend(g.iter().zip(y).map(|(g, y)| r * (g - y * mean)));
            }
            dx
        })?;
        Ok(Some(Tensor::from_vec(dx, x.shape(), x.device())?))
    }
}

/// x / sqrt(mean(x²) + ε) over the last axis; x must be contiguous.
pub fn rms_norm(x: &Tensor) -> Result<Tensor> {
    if fusible(x) { x.apply_op1(RmsNorm) } else { composed(x) }
}

fn composed(x: &Tensor) -> Result<Tensor> {
    let mean = x.sqr()?.mean_keepdim(D::Minus1)?;
    x.broadcast_div(&(mean + f64::from(EPS))?.sqrt()?)
}

#[cfg(test)]
mod tests {
    use crate::nets::ops::check;

    #[test]
    fn gradients() {
        check::gradients(&[&[3, 6]], |a| super::rms_norm(&a[0]));
    }

    #[test]
    fn composed_is_fused() {
        check::agree(&[&[2, 3, 6]], |a| super::rms_norm(&a[0]), |a| super::composed(&a[0]));
    }
}
