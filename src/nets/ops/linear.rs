//! Linear layers: y = x Wᵀ, or y = x W for weights stored the other way round; their input and output gradient can be shown
//! to a recorder.

use std::sync::Arc;

use candle_core::{CpuStorage, CustomOp2, Layout, Result, Shape, Tensor};

use super::product::{View, product};
use super::{elements, output, with_elements};

/// Sees the input x (N, C) and the loss gradient g (N, R) at the output of a linear layer, both dense row-major.
pub trait Recorder: Send + Sync {
    fn record(&self, x: &[f32], g: &[f32]);
}

struct LinearOp {
    recorder: Option<Arc<dyn Recorder>>,
    /// Rows of W are inputs, not outputs.
    transposed: bool,
}

impl LinearOp {
    /// The weight as (outputs, inputs).
    fn weight<'a>(&self, w: &'a [f32], rows: usize, cols: usize) -> View<'a> {
        let view = View::dense(w, rows, cols);
        if self.transposed { view.t() } else { view }
    }
}

impl CustomOp2 for LinearOp {
    fn name(&self) -> &'static str {
        "linear"
    }

    fn cpu_fwd(&self, s1: &CpuStorage, l1: &Layout, s2: &CpuStorage, l2: &Layout) -> Result<(CpuStorage, Shape)> {
        let (rows, cols) = l2.shape().dims2()?;
        let (x, w) = (elements(s1, l1)?, elements(s2, l2)?);
        let (inputs, outputs) = if self.transposed { (rows, cols) } else { (cols, rows) };
        let mut dims = l1.dims().to_vec();
        if dims.pop() != Some(inputs) {
            candle_core::bail!("linear: input {:?} against weight {:?}", l1.dims(), l2.dims());
        }
        dims.push(outputs);
        let n = x.len() / inputs;
        let mut y = vec![0f32; n * outputs];
        product(&mut y, outputs, View::dense(x, n, inputs), self.weight(w, rows, cols).t(), 1.0, false);
        output(y, dims)
    }

    fn bwd(&self, x: &Tensor, w: &Tensor, _: &Tensor, grad: &Tensor) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let (rows, cols) = w.dims2()?;
        let grad = grad.contiguous()?;
        let dx = with_elements([x, w, &grad], |[x, w, g]| {
            if let Some(recorder) = &self.recorder {
                // The Fisher information of Wᵀ is that of W with its two factors exchanged.
                if self.transposed { recorder.record(g, x) } else { recorder.record(x, g) }
            }
            let (inputs, outputs) = if self.transposed { (rows, cols) } else { (cols, rows) };
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

/// y (…, R) = x (…, C) · w (R, C)ᵀ; the recorder, if any, is called in the backward pass.
pub fn linear(x: &Tensor, w: &Tensor, recorder: Option<Arc<dyn Recorder>>) -> Result<Tensor> {
    x.apply_op2(w, LinearOp { recorder, transposed: false })
}

/// y = x W for x (…, R) and w (R, C), as GPT-2 stores its matrices.
///
/// # Errors
/// As [`linear`].
pub fn linear_transposed(x: &Tensor, w: &Tensor, recorder: Option<Arc<dyn Recorder>>) -> Result<Tensor> {
    x.apply_op2(w, LinearOp { recorder, transposed: true })
}

#[cfg(test)]
mod tests {
    use crate::nets::ops::check;

    #[test]
    fn gradients() {
        check::gradients(&[&[2, 3, 5], &[4, 5]], |a| super::linear(&a[0], &a[1], None));
        check::gradients(&[&[2, 3, 5], &[5, 4]], |a| super::linear_transposed(&a[0], &a[1], None));
    }
}
