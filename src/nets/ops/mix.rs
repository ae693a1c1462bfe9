//! Residual arithmetic with per-channel vectors: a·x + b·y in one pass, with the gradients of the vectors; a gain for each head.

use candle_core::{CpuStorage, CustomOp2, CustomOp3, D, Layout, Result, Shape, Tensor};

use super::simd::vectorized;
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
                let n = s.len();
                for ((x, y), out) in x.chunks_exact(n).zip(y.chunks_exact(n)).zip(out.chunks_exact_mut(n)) {
                    out.iter_mut().zip(x).zip(s).zip(y).for_each(|(((out, x), s), y)| *out = x + s * y);
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
                    let n = s.len();
                    for ((y, g), dy) in y.chunks_exact(n).zip(g.chunks_exact(n)).zip(dy.chunks_exact_mut(n)) {
                        ds.iter_mut().zip(y).zip(g).for_each(|((ds, y), g)| *ds += y * g);
                        dy.iter_mut().zip(g).zip(s).for_each(|((dy, g), s)| *dy = g * s);
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
                let n = a.len();
                for ((x, y), out) in x.chunks_exact(n).zip(y.chunks_exact(n)).zip(out.chunks_exact_mut(n)) {
                    let inputs = x.iter().zip(y).zip(a.iter().zip(b));
                    out.iter_mut().zip(inputs).for_each(|(out, ((x, y), (a, b)))| *out = a * x + b * y);
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
                    let inputs = x.chunks_exact(d).zip(y.chunks_exact(d)).zip(g.chunks_exact(d));
                    let outputs = dx.chunks_exact_mut(d).zip(dy.chunks_exact_mut(d));
                    for (((x, y), g), (dx, dy)) in inputs.zip(outputs) {
                        da.iter_mut().zip(x).zip(g).for_each(|((da, x), g)| *da += x * g);
                        db.iter_mut().zip(y).zip(g).for_each(|((db, y), g)| *db += y * g);
                        dx.iter_mut().zip(g).zip(a).for_each(|((dx, g), a)| *dx = g * a);
                        dy.iter_mut().zip(g).zip(b).for_each(|((dy, g), b)| *dy = g * b);
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
            let all = x.chunks_exact(width).zip(y.chunks_exact_mut(width)).zip(gain.iter().cycle());
            for ((x, y), gain) in all {
                y.iter_mut().zip(x).for_each(|(y, x)| *y = x * gain);
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
