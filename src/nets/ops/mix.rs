//! Residual arithmetic with per-channel vectors: a·x + b·y in one pass, with the gradients of the vectors; a gain for each head.

use candle_core::{CpuStorage, CustomOp2, CustomOp3, D, Layout, Result, Shape, Tensor};

use super::simd::{rows, vectorized};
use super::{elements, fusible, output, with_elements};

/// x + s∘y.
struct ScaledAdd;

impl CustomOp3 for ScaledAdd {
    fn name(&self) -> &'static str {
        "scaled-add"
    }

    fn cpu_fwd(
        &self,
        s1: &CpuStorage,
        l1: &Layout,
        s2: &CpuStorage,
        l2: &Layout,
        s3: &CpuStorage,
        l3: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let (x, s, y) = (elements(s1, l1)?, elements(s2, l2)?, elements(s3, l3)?);
        let mut out = vec![0f32; x.len()];
        vectorized(
            #[inline(always)]
            || {
                for at in rows(x.len(), s.len()) {
                    let (x, y, out) = (&x[at.clone()], &y[at.clone()], &mut out[at]);
                    for i in 0..s.len() {
                        out[i] = x[i] + s[i] * y[i];
                    }
                }
            },
        );
        output(out, l1.shape().clone())
    }

    fn bwd(
        &self,
        _: &Tensor,
        s: &Tensor,
        y: &Tensor,
        _: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let grad = grad.contiguous()?;
        let (ds, dy) = with_elements([s, y, &grad], |[s, y, g]| {
            let mut ds = vec![0f32; s.len()];
            let mut dy = vec![0f32; g.len()];
            vectorized(
                #[inline(always)]
                || {
                    let ds = &mut ds[..s.len()];
                    for at in rows(g.len(), s.len()) {
                        let (y, g, dy) = (&y[at.clone()], &g[at.clone()], &mut dy[at]);
                        for i in 0..s.len() {
                            ds[i] += y[i] * g[i];
                            dy[i] = g[i] * s[i];
                        }
                    }
                },
            );
            (ds, dy)
        })?;
        let ds = s.track_op().then(|| Tensor::from_vec(ds, s.shape(), s.device())).transpose()?;
        let dy = Tensor::from_vec(dy, y.shape(), y.device())?;
        Ok((Some(grad), ds, Some(dy)))
    }
}

/// x (…, D) + scale (D) ∘ y (…, D).
pub fn scaled_add(x: &Tensor, scale: &Tensor, y: &Tensor) -> Result<Tensor> {
    if fusible(x) { x.apply_op3(scale, y, ScaledAdd) } else { composed_scaled_add(x, scale, y) }
}

fn composed_scaled_add(x: &Tensor, scale: &Tensor, y: &Tensor) -> Result<Tensor> {
    x + y.broadcast_mul(scale)?
}

/// m₀∘x + m₁∘y.
struct Blend;

impl CustomOp3 for Blend {
    fn name(&self) -> &'static str {
        "blend"
    }

    fn cpu_fwd(
        &self,
        s1: &CpuStorage,
        l1: &Layout,
        s2: &CpuStorage,
        l2: &Layout,
        s3: &CpuStorage,
        l3: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let (x, m, y) = (elements(s1, l1)?, elements(s2, l2)?, elements(s3, l3)?);
        let (a, b) = m.split_at(m.len() / 2);
        let mut out = vec![0f32; x.len()];
        vectorized(
            #[inline(always)]
            || {
                let b = &b[..a.len()];
                for at in rows(x.len(), a.len()) {
                    let (x, y, out) = (&x[at.clone()], &y[at.clone()], &mut out[at]);
                    for i in 0..a.len() {
                        out[i] = a[i] * x[i] + b[i] * y[i];
                    }
                }
            },
        );
        output(out, l1.shape().clone())
    }

    fn bwd(
        &self,
        x: &Tensor,
        m: &Tensor,
        y: &Tensor,
        _: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let grad = grad.contiguous()?;
        let (dx, dm, dy) = with_elements([x, m, y, &grad], |[x, m, y, g]| {
            let d = m.len() / 2;
            let (a, b) = m.split_at(d);
            let mut dm = vec![0f32; 2 * d];
            let (da, db) = dm.split_at_mut(d);
            let (mut dx, mut dy) = (vec![0f32; g.len()], vec![0f32; g.len()]);
            vectorized(
                #[inline(always)]
                || {
                    for at in rows(g.len(), d) {
                        let [x, y, g] = [x, y, g].map(|all| &all[at.clone()]);
                        let (dx, dy) = (&mut dx[at.clone()], &mut dy[at]);
                        for i in 0..d {
                            da[i] += x[i] * g[i];
                            db[i] += y[i] * g[i];
                            dx[i] = g[i] * a[i];
                            dy[i] = g[i] * b[i];
                        }
                    }
                },
            );
            (dx, dm, dy)
        })?;
        let dm = m.track_op().then(|| Tensor::from_vec(dm, m.shape(), m.device())).transpose()?;
        Ok((Some(Tensor::from_vec(dx, x.shape(), x.device())?), dm, Some(Tensor::from_vec(dy, y.shape(), y.device())?)))
    }
}

/// mix[0] ∘ x + mix[1] ∘ y for x, y (…, D) and mix (2, D).
pub fn blend(x: &Tensor, mix: &Tensor, y: &Tensor) -> Result<Tensor> {
    if fusible(x) { x.apply_op3(mix, y, Blend) } else { composed_blend(x, mix, y) }
}

fn composed_blend(x: &Tensor, mix: &Tensor, y: &Tensor) -> Result<Tensor> {
    x.broadcast_mul(&mix.get(0)?)? + y.broadcast_mul(&mix.get(1)?)?
}

/// Every head times its gain.
struct Gain;

/// x (…, H, d) with head h times `gain[h]`.
fn scaled_heads(x: &[f32], gain: &[f32], width: usize) -> Vec<f32> {
    let mut y = vec![0f32; x.len()];
    vectorized(
        #[inline(always)]
        || {
            for (head, at) in rows(x.len(), width).enumerate() {
                let (x, y, gain) = (&x[at.clone()], &mut y[at], gain[head % gain.len()]);
                for i in 0..width {
                    y[i] = x[i] * gain;
                }
            }
        },
    );
    y
}

impl CustomOp2 for Gain {
    fn name(&self) -> &'static str {
        "gain"
    }

    fn cpu_fwd(&self, s1: &CpuStorage, l1: &Layout, s2: &CpuStorage, l2: &Layout) -> Result<(CpuStorage, Shape)> {
        let (x, gain) = (elements(s1, l1)?, elements(s2, l2)?);
        output(scaled_heads(x, gain, l1.shape().dim(D::Minus1)?), l1.shape().clone())
    }

    fn bwd(&self, x: &Tensor, gain: &Tensor, _: &Tensor, grad: &Tensor) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let (grad, width) = (grad.contiguous()?, x.dim(D::Minus1)?);
        let dx = with_elements([gain, &grad], |[gain, g]| scaled_heads(g, gain, width))?;
        let dgain = || {
            with_elements([x, gain, &grad], |[x, gain, g]| {
                let mut sums = vec![0f32; gain.len()];
                // One position after the other, as candle's own sum over them.
                for (x, g) in x.chunks_exact(gain.len() * width).zip(g.chunks_exact(gain.len() * width)) {
                    for (sum, (x, g)) in sums.iter_mut().zip(x.chunks_exact(width).zip(g.chunks_exact(width))) {
                        x.iter().zip(g).for_each(|(x, g)| *sum += x * g);
                    }
                }
                sums
            })
        };
        let dgain = gain.track_op().then(|| Tensor::from_vec(dgain()?, gain.shape(), gain.device())).transpose()?;
        Ok((Some(Tensor::from_vec(dx, x.shape(), x.device())?), dgain))
    }
}

/// x (…, H, d) with head h times `gain` (H) at h.
pub fn head_gain(x: &Tensor, gain: &Tensor) -> Result<Tensor> {
    if fusible(x) { x.apply_op2(gain, Gain) } else { composed_head_gain(x, gain) }
}

fn composed_head_gain(x: &Tensor, gain: &Tensor) -> Result<Tensor> {
    x.broadcast_mul(&gain.unsqueeze(1)?)
}

#[cfg(test)]
mod tests {
    use crate::nets::ops::check;

    #[test]
    fn gradients() {
        check::gradients(&[&[3, 4], &[4], &[3, 4]], |a| super::scaled_add(&a[0], &a[1], &a[2]));
        check::gradients(&[&[3, 4], &[2, 4], &[3, 4]], |a| super::blend(&a[0], &a[1], &a[2]));
        check::gradients(&[&[2, 3, 2, 5], &[2]], |a| super::head_gain(&a[0], &a[1]));
    }

    #[test]
    fn composed_is_fused() {
        use super::{blend, composed_blend, composed_head_gain, composed_scaled_add, head_gain, scaled_add};
        let shapes: [&[usize]; 3] = [&[2, 3, 4], &[4], &[2, 3, 4]];
        check::agree(&shapes, |a| scaled_add(&a[0], &a[1], &a[2]), |a| composed_scaled_add(&a[0], &a[1], &a[2]));
        let shapes: [&[usize]; 3] = [&[2, 3, 4], &[2, 4], &[2, 3, 4]];
        check::agree(&shapes, |a| blend(&a[0], &a[1], &a[2]), |a| composed_blend(&a[0], &a[1], &a[2]));
        let shapes: [&[usize]; 2] = [&[2, 3, 2, 5], &[2]];
        check::agree(&shapes, |a| head_gain(&a[0], &a[1]), |a| composed_head_gain(&a[0], &a[1]));
    }
}
