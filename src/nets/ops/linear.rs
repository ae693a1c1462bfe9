//! Linear layers: y = x Wᵀ, or y = x W for weights stored the other way round; their input and output gradient can be shown
//! to a recorder.

use std::sync::Arc;

use candle_core::backend::BackendStorage;
use candle_core::{CpuStorage, CudaStorage, CustomOp2, Layout, Result, Shape, Tensor};

use super::product::{View, product};
use super::{elements, fusible, output, with_elements};

/// Sees the input x (…, C) and the loss gradient g (…, R) at the output of a linear layer, both contiguous and on the
/// device of the network.
pub trait Recorder: Send + Sync {
    /// # Errors
    /// If a tensor operation fails.
    fn record(&self, x: &Tensor, g: &Tensor) -> Result<()>;
}

struct LinearOp {
    recorder: Option<Arc<dyn Recorder>>,
    /// Rows of W are inputs, not outputs.
    transposed: bool,
    /// Whether to compute on slices, on one thread, and not by candle's matrix product.
    fused: bool,
}

impl LinearOp {
    /// The weight as (outputs, inputs).
    fn weight<'a>(&self, w: &'a [f32], rows: usize, cols: usize) -> View<'a> {
        let view = View::dense(w, rows, cols);
        if self.transposed { view.t() } else { view }
    }

    /// Inputs and outputs of a weight (R, C).
    fn sides(&self, rows: usize, cols: usize) -> (usize, usize) {
        if self.transposed { (rows, cols) } else { (cols, rows) }
    }

    /// Shape of the output for an input (…, inputs): (…, outputs).
    fn shape(&self, x: &Layout, w: &Layout) -> Result<Vec<usize>> {
        let (rows, cols) = w.shape().dims2()?;
        let (inputs, outputs) = self.sides(rows, cols);
        let mut dims = x.dims().to_vec();
        if dims.pop() != Some(inputs) {
            candle_core::bail!("linear: input {:?} against weight {:?}", x.dims(), w.dims());
        }
        dims.push(outputs);
        Ok(dims)
    }

    /// The forward pass by the matrix product of any device.
    fn composed<S: BackendStorage>(&self, x: &S, lx: &Layout, w: &S, lw: &Layout) -> Result<(S, Shape)> {
        let dims = self.shape(lx, lw)?;
        let (rows, cols) = lw.shape().dims2()?;
        let (inputs, outputs) = self.sides(rows, cols);
        let Some((start, end)) = lx.contiguous_offsets() else {
            candle_core::bail!("linear: needs a contiguous input, got {lx:?}")
        };
        let n = (end - start) / inputs;
        let lx = Layout::contiguous_with_offset((1, n, inputs), start);
        let lw = Layout::new((1, rows, cols).into(), [&[rows * cols], lw.stride()].concat(), lw.start_offset());
        let lw = if self.transposed { lw } else { lw.transpose(1, 2)? };
        Ok((x.matmul(w, (1, n, outputs, inputs), &lx, &lw)?, dims.into()))
    }
}

impl CustomOp2 for LinearOp {
    fn name(&self) -> &'static str {
        "linear"
    }

    fn cpu_fwd(&self, s1: &CpuStorage, l1: &Layout, s2: &CpuStorage, l2: &Layout) -> Result<(CpuStorage, Shape)> {
        if !self.fused {
            return self.composed(s1, l1, s2, l2);
        }
        let dims = self.shape(l1, l2)?;
        let (rows, cols) = l2.shape().dims2()?;
        let (x, w) = (elements(s1, l1)?, elements(s2, l2)?);
        let (inputs, outputs) = self.sides(rows, cols);
        let n = x.len() / inputs;
        let mut y = vec![0f32; n * outputs];
        product(&mut y, outputs, View::dense(x, n, inputs), self.weight(w, rows, cols).t(), 1.0, false);
        output(y, dims)
    }

    fn cuda_fwd(&self, s1: &CudaStorage, l1: &Layout, s2: &CudaStorage, l2: &Layout) -> Result<(CudaStorage, Shape)> {
        self.composed(s1, l1, s2, l2)
    }

    fn bwd(&self, x: &Tensor, w: &Tensor, _: &Tensor, grad: &Tensor) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let (rows, cols) = w.dims2()?;
        let grad = grad.contiguous()?;
        if let Some(recorder) = &self.recorder {
            // The Fisher information of Wᵀ is that of W with its two factors exchanged.
            if self.transposed { recorder.record(&grad, x)? } else { recorder.record(x, &grad)? }
        }
        let (inputs, outputs) = self.sides(rows, cols);
        if !self.fused {
            let (g, x2) = (grad.reshape(((), outputs))?, x.reshape(((), inputs))?);
            let (left, right) = if self.transposed { (&x2, &g) } else { (&g, &x2) };
            let dw = w.track_op().then(|| left.t()?.matmul(right)).transpose()?;
            let dx = if self.transposed { g.matmul(&w.t()?)? } else { g.matmul(w)? };
            return Ok((Some(dx.reshape(x.shape())?), dw));
        }
        let dx = with_elements([w, &grad], |[w, g]| {
            let n = g.len() / outputs;
            let mut dx = vec![0f32; n * inputs];
            product(&mut dx, inputs, View::dense(g, n, outputs), self.weight(w, rows, cols), 1.0, false);
            dx
        })?;
        let dx = Tensor::from_vec(dx, x.shape(), x.device())?;
        let dw = if w.track_op() {
            let dw = with_elements([x, &grad], |[x, g]| {
                // Rows from what the rows stand for, columns from the other.
                let (left, right) = if self.transposed { (x, g) } else { (g, x) };
                let n = left.len() / rows;
                let mut dw = vec![0f32; rows * cols];
                product(&mut dw, cols, View::dense(left, n, rows).t(), View::dense(right, n, cols), 1.0, false);
                dw
            })?;
            Some(Tensor::from_vec(dw, w.shape(), w.device())?)
        } else {
            None
        };
        Ok((Some(dx), dw))
    }
}

/// y (…, R) = x (…, C) · w (R, C)ᵀ; the recorder, if any, is called in the backward pass. x must be contiguous.
pub fn linear(x: &Tensor, w: &Tensor, recorder: Option<Arc<dyn Recorder>>) -> Result<Tensor> {
    x.apply_op2(w, LinearOp { recorder, transposed: false, fused: fusible(x) })
}

/// y = x W for x (…, R) and w (R, C), as GPT-2 stores its matrices.
///
/// # Errors
/// As [`linear`].
pub fn linear_transposed(x: &Tensor, w: &Tensor, recorder: Option<Arc<dyn Recorder>>) -> Result<Tensor> {
    x.apply_op2(w, LinearOp { recorder, transposed: true, fused: fusible(x) })
}

#[cfg(test)]
mod tests {
    use super::{LinearOp, linear, linear_transposed};
    use crate::nets::ops::check;

    #[test]
    fn gradients() {
        check::gradients(&[&[2, 3, 5], &[4, 5]], |a| linear(&a[0], &a[1], None));
        check::gradients(&[&[2, 3, 5], &[5, 4]], |a| linear_transposed(&a[0], &a[1], None));
    }

    #[test]
    fn composed_is_fused() {
        let composed = |transposed| LinearOp { recorder: None, transposed, fused: false };
        let shapes: [&[usize]; 2] = [&[2, 3, 5], &[4, 5]];
        check::agree(&shapes, |a| linear(&a[0], &a[1], None), |a| a[0].apply_op2(&a[1], composed(false)));
        let others: [&[usize]; 2] = [&[2, 3, 5], &[5, 4]];
        check::agree(&others, |a| linear_transposed(&a[0], &a[1], None), |a| a[0].apply_op2(&a[1], composed(true)));
        // A slice of a larger tensor starts inside its storage.
        let part = |a: &[candle_core::Tensor]| Ok((a[0].narrow(0, 1, 1)?, a[1].narrow(0, 1, 2)?));
        check::agree(
            &shapes,
            |a| part(a).and_then(|(x, w)| linear(&x, &w, None)),
            |a| part(a).and_then(|(x, w)| x.apply_op2(&w, composed(false))),
        );
    }
}
