//! Causal softmax attention with grouped-query heads, forward and backward, one (row, head) at a time.

use candle_core::{CpuStorage, CustomOp3, D, Layout, Result, Shape, Tensor};

use super::pointwise::exp;
use super::product::{View, product};
use super::simd::{rows, vectorized};
use super::{dot, elements, fusible, output, sum, top, wide, with_elements};

struct Attention {
    /// Positions that a query sees, itself included.
    window: usize,
}

/// Dimensions of one call: q (batch, length, heads, width), k and v (batch, length, kv, width).
#[derive(Clone, Copy)]
struct Dims {
    batch: usize,
    length: usize,
    heads: usize,
    kv: usize,
    width: usize,
    window: usize,
}

/// Queries are taken in blocks, so that the half of the scores that causality removes is mostly never computed.
const BLOCK: usize = 64;

impl Dims {
    fn of(q: &[usize], k: &[usize], window: usize) -> Result<Self> {
        match (q, k) {
            (&[batch, length, heads, width], &[b, t, kv, w])
                if b == batch && t == length && w == width && kv > 0 && heads % kv == 0 =>
            {
                Ok(Dims { batch, length, heads, kv, width, window })
            }
            _ => candle_core::bail!("attention: queries {q:?} against keys {k:?}"),
        }
    }

    fn scale(&self) -> f32 {
        1.0 / (self.width as f32).sqrt()
    }

    /// Head `h` of batch row `b`, positions `from..to`, of a (batch, length, heads, width) slice.
    fn head<'a>(&self, data: &'a [f32], heads: usize, b: usize, h: usize, from: usize, to: usize) -> View<'a> {
        let stride = heads * self.width;
        View::strided(&data[self.at(heads, b, h, from)..], to - from, self.width, stride)
    }

    fn at(&self, heads: usize, b: usize, h: usize, t: usize) -> usize {
        ((b * self.length + t) * heads + h) * self.width
    }

    /// Attention probabilities of queries `from..to` over keys `0..to`, (to − from, to) dense, into `p`.
    fn probabilities(&self, [q, k]: [&[f32]; 2], b: usize, h: usize, [from, to]: [usize; 2], p: &mut [f32]) {
        let keys = self.head(k, self.kv, b, h * self.kv / self.heads, 0, to);
        product(p, to, self.head(q, self.heads, b, h, from, to), keys.t(), self.scale(), false);
        vectorized(
            #[inline(always)]
            || {
                for (i, at) in rows((to - from) * to, to).enumerate() {
                    let row = &mut p[at];
                    let (seen, future) = row.split_at_mut(from + i + 1);
                    let (past, seen) = seen.split_at_mut((from + i + 1).saturating_sub(self.window));
                    past.fill(0.0);
                    let top = top(seen);
                    seen.iter_mut().for_each(|v| *v = exp(*v - top));
                    let inverse = 1.0 / sum(seen);
                    seen.iter_mut().for_each(|v| *v *= inverse);
                    future.fill(0.0);
                }
            },
        );
    }

    /// Calls `f(b, h, from, to)` for every block of queries.
    fn blocks(&self, mut f: impl FnMut(usize, usize, usize, usize)) {
        for b in 0..self.batch {
            for h in 0..self.heads {
                for from in (0..self.length).step_by(BLOCK) {
                    f(b, h, from, (from + BLOCK).min(self.length));
                }
            }
        }
    }
}

impl CustomOp3 for Attention {
    fn name(&self) -> &'static str {
        "attention"
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
        let d = Dims::of(l1.dims(), l2.dims(), self.window)?;
        let (q, k, v) = (elements(s1, l1)?, elements(s2, l2)?, elements(s3, l3)?);
        let mut y = vec![0f32; q.len()];
        let mut p = vec![0f32; BLOCK * d.length];
        d.blocks(|b, h, from, to| {
            d.probabilities([q, k], b, h, [from, to], &mut p);
            let values = d.head(v, d.kv, b, h * d.kv / d.heads, 0, to);
            let out = &mut y[d.at(d.heads, b, h, from)..];
            product(out, d.heads * d.width, View::dense(&p, to - from, to), values, 1.0, false);
        });
        output(y, l1.shape().clone())
    }

    /// dV = Pᵀ dY, dS = P ∘ (dY Vᵀ − rowsum(dY ∘ Y)), dQ = dS K, dK = dSᵀ Q (scaled).
    fn bwd(
        &self,
        q: &Tensor,
        k: &Tensor,
        v: &Tensor,
        y: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let d = Dims::of(q.dims(), k.dims(), self.window)?;
        let grad = grad.contiguous()?;
        let (dq, dk, dv) = with_elements([q, k, v, y, &grad], |[q, k, v, y, g]| {
            let (mut dq, mut dk, mut dv) = (vec![0f32; q.len()], vec![0f32; k.len()], vec![0f32; v.len()]);
            let (mut p, mut ds) = (vec![0f32; BLOCK * d.length], vec![0f32; BLOCK * d.length]);
            let (wide, narrow) = (d.heads * d.width, d.kv * d.width);
            d.blocks(|b, h, from, to| {
                let (kv, n) = (h * d.kv / d.heads, to - from);
                d.probabilities([q, k], b, h, [from, to], &mut p);
                let dy = d.head(g, d.heads, b, h, from, to);
                product(&mut ds, to, dy, d.head(v, d.kv, b, kv, 0, to).t(), 1.0, false);
                product(&mut dv[d.at(d.kv, b, kv, 0)..], narrow, View::dense(&p, n, to).t(), dy, 1.0, true);
                vectorized(
                    #[inline(always)]
                    || {
                        for (i, row) in rows(n * to, to).enumerate() {
                            let at = d.at(d.heads, b, h, from + i);
                            let mean = dot(&y[at..at + d.width], &g[at..at + d.width]);
                            let (ds, p) = (&mut ds[row.clone()], &p[row]);
                            for j in 0..to {
                                ds[j] = p[j] * (ds[j] - mean);
                            }
                        }
                    },
                );
                let ds = View::dense(&ds, n, to);
                let keys = d.head(k, d.kv, b, kv, 0, to);
                product(&mut dq[d.at(d.heads, b, h, from)..], wide, ds, keys, d.scale(), false);
                let queries = d.head(q, d.heads, b, h, from, to);
                product(&mut dk[d.at(d.kv, b, kv, 0)..], narrow, ds.t(), queries, d.scale(), true);
            });
            (dq, dk, dv)
        })?;
        Ok((
            Some(Tensor::from_vec(dq, q.shape(), q.device())?),
            Some(Tensor::from_vec(dk, k.shape(), k.device())?),
            Some(Tensor::from_vec(dv, v.shape(), v.device())?),
        ))
    }
}

/// Causal attention of q (B, T, H, d) over k, v (B, T, K, d), scaled by 1/√d; query head h reads kv head h·K/H.
pub fn attention(q: &Tensor, k: &Tensor, v: &Tensor) -> Result<Tensor> {
    attention_within(q, k, v, usize::MAX)
}

/// [`attention`] in which a query sees at most `window` positions, itself included (sliding-window attention of
/// arXiv:2310.06825).
///
/// # Errors
/// As [`attention`].
pub fn attention_within(q: &Tensor, k: &Tensor, v: &Tensor, window: usize) -> Result<Tensor> {
    if fusible(q) { q.apply_op3(k, v, Attention { window }) } else { composed(q, k, v, window) }
}

/// All scores at once: (B, H, T, T) elements.
fn composed(q: &Tensor, k: &Tensor, v: &Tensor, window: usize) -> Result<Tensor> {
    let d = Dims::of(q.dims(), k.dims(), window)?;
    let heads = |x: &Tensor| x.transpose(1, 2)?.contiguous();
    // Every query head's own copy of its kv head.
    let repeated = |x: &Tensor| {
        let (group, shape) = (d.heads / d.kv, (d.batch, d.heads, d.length, d.width));
        let copies = heads(x)?.unsqueeze(2)?.broadcast_as((d.batch, d.kv, group, d.length, d.width))?;
        copies.contiguous()?.reshape(shape)
    };
    let unseen = (0..d.length * d.length).map(|i| {
        let (query, key) = (i / d.length, i % d.length);
        if key > query || query - key >= window { f32::NEG_INFINITY } else { 0.0 }
    });
    let mask = Tensor::from_vec(unseen.collect(), (d.length, d.length), q.device())?;
    let scores = wide(&(heads(q)?.matmul(&repeated(k)?.t()?)? * f64::from(d.scale()))?)?;
    let scores = scores.broadcast_add(&mask.to_dtype(scores.dtype())?)?;
    // Softmax does not depend on what is subtracted, so no gradient needs to flow through it.
    let weights = scores.broadcast_sub(&scores.max_keepdim(D::Minus1)?.detach())?.exp()?;
    let weights = weights.broadcast_div(&weights.sum_keepdim(D::Minus1)?)?.to_dtype(q.dtype())?;
    weights.matmul(&repeated(v)?)?.transpose(1, 2)?.contiguous()
}

#[cfg(test)]
mod tests {
    use crate::nets::ops::check;

    #[test]
    fn gradients() {
        let shapes: [&[usize]; 3] = [&[1, 5, 4, 3], &[1, 5, 2, 3], &[1, 5, 2, 3]];
        check::gradients(&shapes, |a| super::attention(&a[0], &a[1], &a[2]));
        check::gradients(&shapes, |a| super::attention_within(&a[0], &a[1], &a[2], 2));
    }

    #[test]
    fn composed_is_fused() {
        use super::{attention_within, composed};
        let shapes: [&[usize]; 3] = [&[2, 7, 4, 3], &[2, 7, 2, 3], &[2, 7, 2, 3]];
        for window in [3, usize::MAX] {
            let fused = |a: &[candle_core::Tensor]| attention_within(&a[0], &a[1], &a[2], window);
            check::agree(&shapes, fused, |a| composed(&a[0], &a[1], &a[2], window));
        }
    }

    #[test]
    fn blocks_do_not_change_the_result() {
        use candle_core::{Device, Tensor};
        let (t, w) = (super::BLOCK + 9, 4);
        let x = |seed| Tensor::from_vec(check::values(t * w, seed), (1, t, 1, w), &Device::Cpu).unwrap();
        let (q, k, v) = (x(1), x(2), x(3));
        let whole = super::attention(&q, &k, &v).unwrap();
        let cut = |a: &Tensor| a.narrow(1, 0, 40).unwrap().contiguous().unwrap();
        let part = super::attention(&cut(&q), &cut(&k), &cut(&v)).unwrap();
        let a = cut(&whole).flatten_all().unwrap().to_vec1::<f32>().unwrap();
        let b = part.flatten_all().unwrap().to_vec1::<f32>().unwrap();
        assert!(a.iter().zip(&b).all(|(a, b)| (a - b).abs() < 1e-6));
    }
}
