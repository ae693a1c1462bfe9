//! Operations of a transformer block with their gradients. For contiguous f32 tensors on the CPU they are fused into
//! candle custom operations; on other devices and types they are composed of candle's own.
//!
//! candle runs elementwise operations one at a time on one thread, each with a tensor of its own. The operations here
//! do a whole step of a transformer block in one pass. The fused ones are single-threaded on purpose: evaluation and measuring
//! run many small batches side by side, which keeps results independent of the number of threads.

pub mod attention;
pub mod linear;
pub mod mix;
pub mod norm;
pub mod pointwise;
pub mod product;
pub mod rope;
pub(crate) mod simd;

use candle_core::{CpuStorage, DType, Layout, Result, Shape, Tensor};

/// Whether fused operations run on `x`.
pub(crate) fn fusible(x: &Tensor) -> bool {
    x.device().is_cpu() && x.dtype() == DType::F32
}

/// In f32 where `x` has 16 bits: sums of squares and exponentials need more digits than activations.
pub(crate) fn wide(x: &Tensor) -> Result<Tensor> {
    match x.dtype() {
        DType::F16 | DType::BF16 => x.to_dtype(DType::F32),
        _ => Ok(x.clone()),
    }
}

/// The elements of a contiguous f32 tensor.
pub(crate) fn elements<'a>(storage: &'a CpuStorage, layout: &Layout) -> Result<&'a [f32]> {
    let Some((start, end)) = layout.contiguous_offsets() else {
        candle_core::bail!("a fused operation needs a contiguous tensor, got {layout:?}")
    };
    Ok(&storage.as_slice::<f32>()?[start..end])
}

/// Σ aᵢbᵢ in a fixed order with eight running sums: a plain sum cannot be vectorised without changing its value.
#[inline(always)]
pub(crate) fn dot(a: &[f32], b: &[f32]) -> f32 {
    let mut sums = [0f32; 8];
    let ((a8, a), (b8, b)) = (a.as_chunks::<8>(), b.as_chunks::<8>());
    let mut tail = -0.0;
    for i in 0..a.len().min(b.len()) {
        tail += a[i] * b[i];
    }
    for i in 0..a8.len().min(b8.len()) {
        for k in 0..8 {
            sums[k] += a8[i][k] * b8[i][k];
        }
    }
    sums.iter().sum::<f32>() + tail
}

/// Σ aᵢ, in the order of [`dot`].
#[inline(always)]
pub(crate) fn sum(a: &[f32]) -> f32 {
    let mut sums = [0f32; 8];
    let (a8, a) = a.as_chunks::<8>();
    let tail: f32 = a.iter().sum();
    for a in a8 {
        for k in 0..8 {
            sums[k] += a[k];
        }
    }
    sums.iter().sum::<f32>() + tail
}

/// The largest element; −∞ of none. Eight running maxima: a single one waits for itself at every step.
#[inline(always)]
pub(crate) fn top(a: &[f32]) -> f32 {
    let mut tops = [f32::NEG_INFINITY; 8];
    let (a8, a) = a.as_chunks::<8>();
    let tail = a.iter().fold(f32::NEG_INFINITY, |m, v| m.max(*v));
    for a in a8 {
        for k in 0..8 {
            tops[k] = tops[k].max(a[k]);
        }
    }
    tops.iter().fold(tail, |m, v| m.max(*v))
}

/// What a custom operation returns.
pub(crate) fn output(data: Vec<f32>, shape: impl Into<Shape>) -> Result<(CpuStorage, Shape)> {
    Ok((CpuStorage::F32(data), shape.into()))
}

/// Runs `f` on the elements of contiguous f32 tensors, without copying them.
pub(crate) fn with_elements<const N: usize, T>(tensors: [&Tensor; N], f: impl FnOnce([&[f32]; N]) -> T) -> Result<T> {
    let held = tensors.map(|t| t.storage_and_layout());
    let mut slices: [&[f32]; N] = [&[]; N];
    for (slice, (storage, layout)) in slices.iter_mut().zip(&held) {
        *slice = match &**storage {
            candle_core::Storage::Cpu(s) => elements(s, layout)?,
            _ => candle_core::bail!("a fused operation runs on the CPU only"),
        };
    }
    Ok(f(slices))
}

#[cfg(test)]
pub(crate) mod check {
    //! Gradients of fused operations against central differences.
    use candle_core::{Device, Tensor, Var};

    /// Values that are neither symmetric nor degenerate.
    pub fn values(n: usize, seed: u64) -> Vec<f32> {
        let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
        (0..n)
            .map(|_| {
                state ^= state << 13;
                state ^= state >> 7;
                state ^= state << 17;
                (state >> 40) as f32 / (1u64 << 23) as f32 - 1.0
            })
            .collect()
    }

    /// A symmetric (n, n) matrix, positive definite: inner products of columns of [`values`].
    pub fn gram(n: usize, seed: u64) -> Vec<f32> {
        let x = values(n * (n + 3), seed);
        let dot = |i: usize, j: usize| (0..n + 3).map(|k| x[k * n + i] * x[k * n + j]).sum();
        (0..n * n).map(|k| dot(k / n, k % n)).collect()
    }

    /// Value of `f` and gradients of sum(f(x) * c) for every argument, flattened.
    fn run(shapes: &[&[usize]], f: impl Fn(&[Tensor]) -> candle_core::Result<Tensor>) -> Vec<Vec<f32>> {
        let argument = |(i, s): (usize, &&[usize])| {
            let data = values(s.iter().product(), 31 + i as u64);
            Var::from_tensor(&Tensor::from_slice(&data, *s, &Device::Cpu).unwrap()).unwrap()
        };
        let vars: Vec<Var> = shapes.iter().enumerate().map(argument).collect();
        let out = f(&vars.iter().map(|v| v.as_tensor().clone()).collect::<Vec<_>>()).unwrap();
        let weight = Tensor::from_slice(&values(out.elem_count(), 98), out.dims(), &Device::Cpu).unwrap();
        let grads = (&out * &weight).unwrap().sum_all().unwrap().backward().unwrap();
        let flat = |t: &Tensor| t.flatten_all().unwrap().to_vec1::<f32>().unwrap();
        let gradients = vars.iter().map(|v| {
            let gradient = grads.get(v).unwrap();
            assert_eq!(gradient.dims(), v.dims());
            flat(gradient)
        });
        [flat(&out)].into_iter().chain(gradients).collect()
    }

    /// Compares values and gradients of an operation computed in two ways.
    pub fn agree(
        shapes: &[&[usize]],
        fused: impl Fn(&[Tensor]) -> candle_core::Result<Tensor>,
        composed: impl Fn(&[Tensor]) -> candle_core::Result<Tensor>,
    ) {
        for (part, (a, b)) in run(shapes, fused).iter().zip(&run(shapes, composed)).enumerate() {
            assert_eq!(a.len(), b.len());
            let scale = a.iter().fold(0f32, |m, v| m.max(v.abs()));
            for (i, (a, b)) in a.iter().zip(b).enumerate() {
                assert!((a - b).abs() <= 1e-5 * scale, "part {part}[{i}]: {a} fused, {b} composed");
            }
        }
    }

    /// Compares d(sum(f(x) * c))/dx from backpropagation with central differences, for every argument.
    pub fn gradients(shapes: &[&[usize]], f: impl Fn(&[Tensor]) -> candle_core::Result<Tensor>) {
        let data: Vec<Vec<f32>> =
            shapes.iter().enumerate().map(|(i, s)| values(s.iter().product(), 7 + i as u64)).collect();
        let tensor = |d: &[f32], s: &[usize]| Tensor::from_slice(d, s, &Device::Cpu).unwrap();
        let vars: Vec<Var> = data.iter().zip(shapes).map(|(d, s)| Var::from_tensor(&tensor(d, s)).unwrap()).collect();
        let args: Vec<Tensor> = vars.iter().map(|v| v.as_tensor().clone()).collect();
        let out = f(&args).unwrap();
        let weight = tensor(&values(out.elem_count(), 99), out.dims());
        let grads = (&out * &weight).unwrap().sum_all().unwrap().backward().unwrap();
        let score = |data: &[Vec<f32>]| {
            let args: Vec<Tensor> = data.iter().zip(shapes).map(|(d, s)| tensor(d, s)).collect();
            let y = f(&args).unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap();
            let w = weight.flatten_all().unwrap().to_vec1::<f32>().unwrap();
            y.iter().zip(&w).map(|(a, b)| *a as f64 * *b as f64).sum::<f64>()
        };
        for (i, var) in vars.iter().enumerate() {
            let grad = grads.get(var).unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap();
            for k in 0..grad.len() {
                let (mut up, mut down) = (data.clone(), data.clone());
                let h = 2e-3;
                up[i][k] += h;
                down[i][k] -= h;
                let expected = (score(&up) - score(&down)) / (up[i][k] as f64 - down[i][k] as f64);
                let error = (grad[k] as f64 - expected).abs();
                assert!(error < 2e-2 * (1.0 + expected.abs()), "argument {i}[{k}]: {} against {expected}", grad[k]);
            }
        }
    }
}
