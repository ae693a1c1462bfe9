//! Running sums of the Kronecker factors of one matrix, made where the network runs.

use std::sync::{Mutex, MutexGuard, PoisonError};

use candle_core::{D, DType, Result, Tensor};

use crate::nets::Form;
use crate::nets::ops::linear::Recorder;
use crate::nets::ops::product::{add_gram, mirror_upper};
use crate::nets::ops::{dot, fusible, with_elements};

/// Above this many rows only blocks of the output factor are measured: its Gram matrix would cost more than the rest of the
/// backward pass. On a model of 256 to 1,024 rows blocks of 256 gave files as good as whole factors.
const FULL_OUTPUT_LIMIT: usize = 1024;
const OUTPUT_BLOCK: usize = 512;

/// Rows of the diagonal blocks of the output factor of a matrix: all for a whole factor, 1 for a diagonal, which is what an
/// embedding of a large vocabulary has: its rows stand in no order.
pub fn output_block(form: Form, rows: usize) -> usize {
    match form {
        _ if rows <= FULL_OUTPUT_LIMIT => rows,
        Form::Embedding => 1,
        Form::Matrix | Form::Vector => OUTPUT_BLOCK,
    }
}

/// Sums over the uses of one matrix (R, C): Σ |g|² x xᵀ (C, C), and the diagonal blocks of Σ |x|² g gᵀ, B rows each, one
/// below the other (R, B).
pub struct Sums {
    rows: usize,
    cols: usize,
    block: usize,
    totals: Mutex<Totals>,
}

enum Totals {
    /// Of fused passes, added to in place.
    Memory { input: Vec<f32>, output: Vec<f32> },
    /// On the device of passes that are not fused; made by the first use.
    Device {
        sums: Option<(Tensor, Tensor)>,
        /// Of lookups: places and energies, in memory (R, B), empty before the first.
        lookups: Vec<f32>,
    },
}

impl Sums {
    /// For passes that are fused, on the CPU and in f32, or not.
    pub fn new(rows: usize, cols: usize, block: usize, fused: bool) -> Self {
        let totals = match fused {
            true => Totals::Memory { input: vec![0.0; cols * cols], output: vec![0.0; rows * block] },
            false => Totals::Device { sums: None, lookups: Vec::new() },
        };
        Sums { rows, cols, block, totals: Mutex::new(totals) }
    }

    fn lock(&self) -> MutexGuard<'_, Totals> {
        self.totals.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// First row and number of rows of every block.
    fn blocks(&self) -> impl Iterator<Item = (usize, usize)> {
        let (rows, block) = (self.rows, self.block);
        (0..rows).step_by(block).map(move |start| (start, block.min(rows - start)))
    }

    /// A use as a lookup table: row `id` moves with gradient g (…, C), so x = g and the output side is one row.
    ///
    /// # Errors
    /// If a tensor operation fails.
    pub fn record_lookup(&self, ids: &[u32], g: &Tensor) -> Result<()> {
        let g = constant(&g.reshape(((), self.cols))?)?.contiguous()?;
        let place = |id: u32| id as usize * self.block + id as usize % self.block;
        match &mut *self.lock() {
            Totals::Memory { input, output } => with_elements([&g], |[g]| {
                add_gram(input, self.cols, g, self.cols, self.cols);
                for (id, row) in ids.iter().zip(g.chunks_exact(self.cols)) {
                    output[place(*id)] += dot(row, row);
                }
            }),
            Totals::Device { sums, lookups } => {
                lookups.resize(self.rows * self.block, 0.0);
                for (id, energy) in ids.iter().zip(g.sqr()?.sum(1)?.to_vec1::<f32>()?) {
                    lookups[place(*id)] += energy;
                }
                let input = g.t()?.matmul(&g)?;
                *sums = Some(match sums.take() {
                    None => (input, Tensor::zeros((self.rows, self.block), DType::F32, g.device())?),
                    Some((sum, output)) => ((sum + input)?, output),
                });
                Ok(())
            }
        }
    }

    /// Adds the sums of other uses.
    ///
    /// # Errors
    /// If a tensor operation fails.
    pub fn merge(&self, other: &Sums) -> Result<()> {
        match (&mut *self.lock(), &*other.lock()) {
            (Totals::Memory { input, output }, Totals::Memory { input: more_input, output: more_output }) => {
                input.iter_mut().zip(more_input).for_each(|(a, b)| *a += b);
                output.iter_mut().zip(more_output).for_each(|(a, b)| *a += b);
                Ok(())
            }
            (Totals::Device { sums, lookups }, Totals::Device { sums: more, lookups: more_lookups }) => {
                lookups.resize(lookups.len().max(more_lookups.len()), 0.0);
                lookups.iter_mut().zip(more_lookups).for_each(|(a, b)| *a += b);
                more.as_ref().map_or(Ok(()), |(input, output)| add(sums, (input.clone(), output.clone())))
            }
            _ => candle_core::bail!("sums of two devices"),
        }
    }

    /// Both sums, in memory: (C, C) and (R, B).
    ///
    /// # Errors
    /// If they cannot be fetched from the device.
    pub fn take(&self) -> Result<(Vec<f32>, Vec<f32>)> {
        let fetch = |t: &Tensor| t.flatten_all()?.to_vec1::<f32>();
        let (mut input, mut output) = match &mut *self.lock() {
            Totals::Memory { input, output } => (std::mem::take(input), std::mem::take(output)),
            Totals::Device { sums: Some((input, output)), lookups } => {
                let mut output = fetch(output)?;
                output.iter_mut().zip(lookups).for_each(|(a, b)| *a += *b);
                (fetch(input)?, output)
            }
            Totals::Device { sums: None, .. } => (vec![0.0; self.cols * self.cols], vec![0.0; self.rows * self.block]),
        };
        mirror_upper(&mut input, self.cols, self.cols);
        for (start, n) in self.blocks() {
            mirror_upper(&mut output[start * self.block..], n, self.block);
        }
        Ok((input, output))
    }
}

/// In f32, and no part of a graph: a sum that remembered where its terms came from would keep every pass alive.
fn constant(t: &Tensor) -> Result<Tensor> {
    t.detach().to_dtype(DType::F32)
}

fn add(totals: &mut Option<(Tensor, Tensor)>, more: (Tensor, Tensor)) -> Result<()> {
    *totals = Some(match totals.take() {
        None => more,
        Some((input, output)) => ((input + more.0)?, (output + more.1)?),
    });
    Ok(())
}

/// Rows times their scales; rows of scale 0 are 0, whatever is in them: behind the norm of a zero vector gradients overflow.
fn scaled_rows(data: &[f32], width: usize, scale: &[f32]) -> Vec<f32> {
    let mut out = Vec::with_capacity(data.len());
    for (row, s) in data.chunks_exact(width).zip(scale) {
        match *s {
            0.0 => out.extend(std::iter::repeat_n(0.0, width)),
            s => out.extend(row.iter().map(|v| v * s)),
        }
    }
    out
}

fn norms(data: &[f32], width: usize) -> Vec<f32> {
    data.chunks_exact(width).map(|row| dot(row, row).sqrt()).collect()
}

impl Recorder for Sums {
    fn record(&self, x: &Tensor, g: &Tensor) -> Result<()> {
        let (x, g) = (x.reshape(((), self.cols))?, g.reshape(((), self.rows))?);
        if !fusible(&x) {
            return self.record_tensors(&x, &g);
        }
        with_elements([&x, &g], |[x, g]| {
            let (mut of_x, mut of_g) = (norms(x, self.cols), norms(g, self.rows));
            for (x, g) in of_x.iter_mut().zip(&mut of_g).filter(|(x, g)| **x == 0.0 || **g == 0.0) {
                (*x, *g) = (0.0, 0.0);
            }
            let (xs, gs) = (scaled_rows(x, self.cols, &of_g), scaled_rows(g, self.rows, &of_x));
            let mut totals = self.lock();
            let Totals::Memory { input, output } = &mut *totals else { unreachable!("sums of a CPU are in memory") };
            add_gram(input, self.cols, &xs, self.cols, self.cols);
            if self.block == 1 {
                for row in gs.chunks_exact(self.rows) {
                    output.iter_mut().zip(row).for_each(|(s, v)| *s += v * v);
                }
                return;
            }
            for (start, n) in self.blocks() {
                add_gram(&mut output[start * self.block..], self.block, &gs[start..], self.rows, n);
            }
        })
    }
}

impl Sums {
    /// [`Recorder::record`] by candle's operations, for x (N, C) and g (N, R).
    fn record_tensors(&self, x: &Tensor, g: &Tensor) -> Result<()> {
        let (x, g) = (&constant(x)?, &constant(g)?);
        let norms = |t: &Tensor| t.sqr()?.sum_keepdim(D::Minus1)?.sqrt();
        let (of_x, of_g) = (norms(x)?, norms(g)?);
        let seen = (of_x.ne(0f64)? * of_g.ne(0f64)?)?;
        let kept = |t: Tensor| seen.broadcast_as(t.shape())?.where_cond(&t, &t.zeros_like()?);
        let (xs, gs) = (kept(x.broadcast_mul(&of_g)?)?, kept(g.broadcast_mul(&of_x)?)?);
        let part = |(start, n): (usize, usize)| {
            let part = gs.narrow(1, start, n)?.contiguous()?;
            part.t()?.matmul(&part)?.pad_with_zeros(1, 0, self.block - n)
        };
        let output = match self.block {
            1 => gs.sqr()?.sum(0)?.unsqueeze(1)?,
            _ => Tensor::cat(&self.blocks().map(part).collect::<Result<Vec<_>>>()?, 0)?,
        };
        match &mut *self.lock() {
            Totals::Device { sums, .. } => add(sums, (xs.t()?.matmul(&xs)?, output)),
            Totals::Memory { .. } => candle_core::bail!("sums of a device cannot be in memory"),
        }
    }
}

#[cfg(test)]
mod tests {
    use candle_core::{Device, Var};

    use super::*;
    use crate::nets::ops::check::values;

    #[test]
    fn sums_do_not_keep_the_passes_that_they_come_from() {
        let x = Var::from_vec(values(12, 1), (3, 4), &Device::Cpu).unwrap();
        let g = (x.as_tensor() * 2.0).unwrap();
        let sums = Sums::new(4, 4, 4, false);
        for _ in 0..2 {
            sums.record_tensors(&x, &g).unwrap();
            sums.record_lookup(&[0, 3, 1], &g).unwrap();
        }
        let Totals::Device { sums: Some((input, output)), .. } = &*sums.lock() else { panic!("sums of a device") };
        assert!(!input.track_op() && !output.track_op());
    }

    #[test]
    fn tensors_sum_to_what_slices_sum_to() {
        for (rows, block) in [(5, 5), (7, 1), (7, 3)] {
            let (n, cols) = (7, 4);
            let fused = [(); 2].map(|()| Sums::new(rows, cols, block, true));
            let composed = [(); 2].map(|()| Sums::new(rows, cols, block, false));
            let ids = [3, 0, 1, 3, 3, 4, 2];
            for (seed, part) in [0, 1, 0].into_iter().enumerate() {
                // Nothing comes of a use without input, however large its gradient.
                let mut g = values(n * rows, 10 + seed as u64);
                let mut x = values(n * cols, seed as u64);
                x[cols..2 * cols].fill(0.0);
                g[rows..2 * rows].fill(f32::INFINITY);
                let x = Tensor::from_vec(x, (n, cols), &Device::Cpu).unwrap();
                let g = Tensor::from_vec(g, (n, rows), &Device::Cpu).unwrap();
                fused[part].record(&x, &g).unwrap();
                composed[part].record_tensors(&x, &g).unwrap();
                fused[part].record_lookup(&ids, &x).unwrap();
                composed[part].record_lookup(&ids, &x).unwrap();
            }
            fused[0].merge(&fused[1]).unwrap();
            composed[0].merge(&composed[1]).unwrap();
            let (a, b) = (fused[0].take().unwrap(), composed[0].take().unwrap());
            for (a, b) in [(a.0, b.0), (a.1, b.1)] {
                assert_eq!(a.len(), b.len());
                let scale = a.iter().fold(0f32, |m, v| m.max(v.abs()));
                assert!(
                    scale > 0.0 && scale.is_finite() && a.iter().zip(&b).all(|(a, b)| (a - b).abs() < 1e-5 * scale)
                );
            }
        }
    }
}
