//! Rotary position embedding (arXiv:2104.09864), half-split: the pair (u, v) of dimensions m and m + half turns by an angle
//! that grows with the position. The Parameter Golf baseline turns backwards, (u cos + v sin, v cos − u sin), everybody
//! else forwards. Dimensions beyond the pairs pass unchanged (partial rotary).

use std::sync::Arc;

use candle_core::{CpuStorage, CustomOp1, Layout, Result, Shape, Tensor};

use super::simd::{rows, vectorized};
use super::{elements, fusible, output, with_elements};

/// Cosines and sines of every position and pair.
#[derive(Clone)]
pub struct Rotary {
    /// (T, half) cosines, then as many sines.
    table: Arc<(Vec<f32>, Vec<f32>)>,
    half: usize,
    /// 1 backwards, −1 forwards.
    sign: f32,
}

impl Rotary {
    /// Angles p · base^(−2m / dims) for positions p < `length` and pairs m < dims / 2, turned backwards.
    pub fn new(length: usize, dims: usize, base: f64) -> Self {
        Rotary { sign: 1.0, ..Self::forwards(length, &frequencies(dims, base)) }
    }

    /// Angles p · f_m for positions p < `length` and the frequencies of all pairs, turned forwards.
    pub fn forwards(length: usize, frequencies: &[f32]) -> Self {
        let half = frequencies.len();
        let mut table = (Vec::with_capacity(length * half), Vec::with_capacity(length * half));
        for p in 0..length {
            for frequency in frequencies {
                let angle = p as f32 * frequency;
                table.0.push(angle.cos());
                table.1.push(angle.sin());
            }
        }
        Rotary { table: Arc::new(table), half, sign: -1.0 }
    }

    /// With all cosines and sines multiplied by a number.
    pub fn scaled(mut self, by: f32) -> Self {
        if by != 1.0 {
            let (cos, sin) = Arc::make_mut(&mut self.table);
            cos.iter_mut().chain(sin).for_each(|v| *v *= by);
        }
        self
    }

    /// Rotates x (B, T, heads, dims), contiguous.
    ///
    /// # Errors
    /// As candle's operations; x has fewer dimensions than the pairs, or more positions than the table.
    pub fn apply(&self, x: &Tensor) -> Result<Tensor> {
        if fusible(x) { x.apply_op1(RotaryOp { rotary: self.clone(), sign: self.sign }) } else { self.composed(x) }
    }

    fn composed(&self, x: &Tensor) -> Result<Tensor> {
        let (_, length, _, width) = x.dims4()?;
        let half = self.half;
        if width < 2 * half || length * half > self.table.0.len() {
            candle_core::bail!("rotary: input {:?} against a table for {half} pairs", x.dims());
        }
        let table = |values: &[f32]| {
            Tensor::from_slice(&values[..length * half], (length, 1, half), x.device())?.to_dtype(x.dtype())
        };
        let (cos, sin) = (table(&self.table.0)?, (table(&self.table.1)? * f64::from(self.sign))?);
        let (u, v) = (x.narrow(3, 0, half)?, x.narrow(3, half, half)?);
        let first = (u.broadcast_mul(&cos)? + v.broadcast_mul(&sin)?)?;
        let second = (v.broadcast_mul(&cos)? - u.broadcast_mul(&sin)?)?;
        let rest = x.narrow(3, 2 * half, width - 2 * half)?;
        if rest.elem_count() == 0 { Tensor::cat(&[first, second], 3) } else { Tensor::cat(&[first, second, rest], 3) }
    }

    fn turn(&self, x: &[f32], dims: &[usize], sign: f32) -> Vec<f32> {
        let (length, heads, width) = (dims[1], dims[2], dims[3]);
        let half = self.half;
        let mut y = vec![0f32; x.len()];
        vectorized(
            #[inline(always)]
            || {
                for (n, position) in rows(x.len(), heads * width).enumerate() {
                    let p = n % length;
                    let cos = &self.table.0[p * half..(p + 1) * half];
                    let sin = &self.table.1[p * half..(p + 1) * half];
                    let (x, y) = (&x[position.clone()], &mut y[position]);
                    for head in rows(x.len(), width) {
                        let (x, y) = (&x[head.clone()], &mut y[head]);
                        let ((u, x), (first, y)) = (x.split_at(half), y.split_at_mut(half));
                        let ((v, rest), (second, beyond)) = (x.split_at(half), y.split_at_mut(half));
                        for m in 0..half {
                            let s = sign * sin[m];
                            first[m] = u[m] * cos[m] + v[m] * s;
                            second[m] = v[m] * cos[m] - u[m] * s;
                        }
                        beyond.copy_from_slice(rest);
                    }
                }
            },
        );
        y
    }
}

/// base^(−2m / dims) for all pairs m < dims / 2.
pub fn frequencies(dims: usize, base: f64) -> Vec<f32> {
    // In f32, operation by operation, as the references compute it.
    (0..dims / 2).map(|m| 1.0 / (base as f32).powf((2 * m) as f32 / dims as f32)).collect()
}

struct RotaryOp {
    rotary: Rotary,
    sign: f32,
}

impl CustomOp1 for RotaryOp {
    fn name(&self) -> &'static str {
        "rotary"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let x = elements(storage, layout)?;
        let dims = layout.dims();
        if dims.len() != 4 || dims[3] < 2 * self.rotary.half || dims[1] * self.rotary.half > self.rotary.table.0.len() {
            candle_core::bail!("rotary: input {dims:?} against a table for {} pairs", self.rotary.half);
        }
        output(self.rotary.turn(x, dims, self.sign), layout.shape().clone())
    }

    fn bwd(&self, x: &Tensor, _: &Tensor, grad: &Tensor) -> Result<Option<Tensor>> {
        let grad = grad.contiguous()?;
        let dx = with_elements([&grad], |[g]| self.rotary.turn(g, x.dims(), -self.sign))?;
        Ok(Some(Tensor::from_vec(dx, x.shape(), x.device())?))
    }
}

#[cfg(test)]
mod tests {
    use crate::nets::ops::check;

    #[test]
    fn gradients() {
        let rotary = super::Rotary::new(5, 6, 100.0);
        check::gradients(&[&[2, 5, 2, 6]], move |a| rotary.apply(&a[0]));
        let partial = super::Rotary::forwards(5, &super::frequencies(4, 100.0));
        check::gradients(&[&[2, 5, 2, 6]], move |a| partial.apply(&a[0]));
    }

    #[test]
    fn composed_is_fused() {
        let rotary = super::Rotary::new(7, 6, 100.0);
        check::agree(&[&[2, 5, 3, 6]], |a| rotary.apply(&a[0]), |a| rotary.composed(&a[0]));
    }
}
