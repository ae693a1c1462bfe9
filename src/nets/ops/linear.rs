//! Linear layers: y = x Wᵀ, and a variant that shows its input and output gradient to a recorder.

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
    /// Whether to compute on slices, on one thread, and not by candle's matrix product.
    fused: bool,
}

/// Shape of the output for an input and a weight: (…, C) and (R, C) give (…, R).
fn shape(x: &Layout, w: &Layout) -> Result<Vec<usize>> {
    let (rows, cols) = w.shape().dims2()?;
    let mut dims = x.dims().to_vec();
    if dims.pop() != Some(cols) {
        candle_core::bail!("linear: input {:?} against weight {:?}", x.dims(), w.dims());
    }
    dims.push(rows);
    Ok(dims)
}

/// The forward pass by the matrix product of any device.
fn composed<S: BackendStorage>(x: &S, lx: &Layout, w: &S, lw: &Layout) -> Result<(S, Shape)> {
    let dims = shape(lx, lw)?;
    let (rows, cols) = lw.shape().dims2()?;
    let Some((start, end)) = lx.contiguous_offsets() else {
        candle_core::bail!("linear: needs a contiguous input, got {lx:?}")
    };
    let n = (end - start) / cols;
    let lx = Layout::contiguous_with_offset((1, n, cols), start);
    let lw = Layout::new((1, rows, cols).into(), [&[rows * cols], lw.stride()].concat(), lw.start_offset());
    Ok((x.matmul(w, (1, n, rows, cols), &lx, &lw.transpose(1, 2)?)?, dims.into()))
}

impl CustomOp2 for LinearOp {
    fn name(&self) -> &'static str {
        "linear"
    }

    fn cpu_fwd(&self, s1: &CpuStorage, l1: &Layout, s2: &CpuStorage, l2: &Layout) -> Result<(CpuStorage, Shape)> {
        if !self.fused {
            return composed(s1, l1, s2, l2);
        }
        let dims = shape(l1, l2)?;
        let (rows, cols) = l2.shape().dims2()?;
        let (x, w) = (elements(s1, l1)?, elements(s2, l2)?);
        let n = x.len() / cols;
        let mut y = vec![0f32; n * rows];
        product(&mut y, rows, View::dense(x, n, cols), View::dense(w, rows, cols).t(), 1.0, false);
        output(y, dims)
    }

    fn cuda_fwd(&self, s1: &CudaStorage, l1: &Layout, s2: &CudaStorage, l2: &Layout) -> Result<(CudaStorage, Shape)> {
        composed(s1, l1, s2, l2)
    }

    fn bwd(&self, x: &Tensor, w: &Tensor, _: &Tensor, grad: &Tensor) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let (rows, cols) = w.dims2()?;
        let grad = grad.contiguous()?;
        if let Some(recorder) = &self.recorder {
            recorder.record(x, &grad)?;
        }
        if !self.fused {
            let g = grad.reshape(((), rows))?;
            let dw = w.track_op().then(|| g.t()?.matmul(&x.reshape(((), cols))?)).transpose()?;
            return Ok((Some(g.matmul(w)?.reshape(x.shape())?), dw));
        }
        let dx = with_elements([w, &grad], |[w, g]| {
            let n = g.len() / rows;
            let mut dx = vec![0f32; n * cols];
            product(&mut dx, cols, View::dense(g, n, rows), View::dense(w, rows, cols), 1.0, false);
            dx
        })?;
        let dx = Tensor::from_vec(dx, x.shape(), x.device())?;
        let dw = if w.track_op() {
            let dw = with_elements([x, &grad], |[x, g]| {
                let n = g.len() / rows;
                let mut dw = vec![0f32; rows * cols];
                product(&mut dw, cols, View::dense(g, n, rows).t(), View::dense(x, n, cols), 1.0, false);
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
    x.apply_op2(w, LinearOp { recorder, fused: fusible(x) })
}

#[cfg(test)]
mod tests {
    use super::{LinearOp, linear};
    use crate::nets::ops::check;

    #[test]
    fn gradients() {
        check::gradients(&[&[2, 3, 5], &[4, 5]], |a| linear(&a[0], &a[1], None));
    }

    #[test]
    fn composed_is_fused() {
        let composed = || LinearOp { recorder: None, fused: false };
        let shapes: [&[usize]; 2] = [&[2, 3, 5], &[4, 5]];
        check::agree(&shapes, |a| linear(&a[0], &a[1], None), |a| a[0].apply_op2(&a[1], composed()));
        // A slice of a larger tensor starts inside its storage.
        let part = |a: &[candle_core::Tensor]| Ok((a[0].narrow(0, 1, 1)?, a[1].narrow(0, 1, 2)?));
        check::agree(
            &shapes,
            |a| part(a).and_then(|(x, w)| linear(&x, &w, None)),
            |a| part(a).and_then(|(x, w)| x.apply_op2(&w, composed())),
        );
    }
}
