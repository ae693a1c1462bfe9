//! Residual arithmetic with per-channel vectors: a·x + b·y in one pass, with the gradients of the vectors.

use candle_core::{CpuStorage, CustomOp3, Layout, Result, Shape, Tensor};

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
        let mut out = Vec::with_capacity(x.len());
        for (x, y) in x.chunks_exact(s.len()).zip(y.chunks_exact(s.len())) {
            out.extend(x.iter().zip(s).zip(y).map(|((x, s), y)| x + s * y));
        }
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
            let mut dy = Vec::with_capacity(g.len());
            for (y, g) in y.chunks_exact(s.len()).zip(g.chunks_exact(s.len())) {
                for ((ds, y), g) in ds.iter_mut().zip(y).zip(g) {
                    *ds += y * g;
                }
                dy.extend(g.iter().zip(s).map(|(g, s)| g * s));
            }
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
        let mut out = Vec::with_capacity(x.len());
        for (x, y) in x.chunks_exact(a.len()).zip(y.chunks_exact(a.len())) {
            out.extend(x.iter().zip(y).zip(a.iter().zip(b)).map(|((x, y), (a, b))| a * x + b * y));
        }
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
            let (mut dx, mut dy) = (Vec::with_capacity(g.len()), Vec::with_capacity(g.len()));
            for ((x, y), g) in x.chunks_exact(d).zip(y.chunks_exact(d)).zip(g.chunks_exact(d)) {
                for i in 0..d {
                    da[i] += x[i] * g[i];
                    db[i] += y[i] * g[i];
                }
                dx.extend(g.iter().zip(a).map(|(g, a)| g * a));
                dy.extend(g.iter().zip(b).map(|(g, b)| g * b));
            }
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

#[cfg(test)]
mod tests {
    use crate::nets::ops::check;

    #[test]
    fn gradients() {
        check::gradients(&[&[3, 4], &[4], &[3, 4]], |a| super::scaled_add(&a[0], &a[1], &a[2]));
        check::gradients(&[&[3, 4], &[2, 4], &[3, 4]], |a| super::blend(&a[0], &a[1], &a[2]));
    }

    #[test]
    fn composed_is_fused() {
        use super::{blend, composed_blend, composed_scaled_add, scaled_add};
        let shapes: [&[usize]; 3] = [&[2, 3, 4], &[4], &[2, 3, 4]];
        check::agree(&shapes, |a| scaled_add(&a[0], &a[1], &a[2]), |a| composed_scaled_add(&a[0], &a[1], &a[2]));
        let shapes: [&[usize]; 3] = [&[2, 3, 4], &[2, 4], &[2, 3, 4]];
        check::agree(&shapes, |a| blend(&a[0], &a[1], &a[2]), |a| composed_blend(&a[0], &a[1], &a[2]));
    }
}
