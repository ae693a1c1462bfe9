//! Rounds a matrix to a trellis-coded lattice under its error metric: the encoder's search.

use super::metric::Metric;
use super::trellis::Trellis;
use crate::nets::ops::product::{View, product};

/// Rows behind the current one for which every survivor answers with its own errors; older rows are settled.
const MEMORY: usize = 16;

/// Columns whose feedback onto the later ones is applied in one matrix product.
const BLOCK: usize = 64;

/// Magnitudes with a price of their own; larger ones cost as much as the last plus 2 bits per doubling.
pub const PRICED: usize = 64;

/// Price in bits of an index, by the grid it lies on and what the coder expects at its place.
pub struct Prices {
    /// (buckets, 2 grids, PRICED magnitudes), the sign included.
    pub table: Vec<f32>,
    /// (C, R) column-major: bucket of each place.
    pub bucket: Vec<u8>,
    /// Metric units per bit.
    pub lambda: f32,
}

impl Prices {
    /// Rounding without regard to the rate.
    pub fn free() -> Self {
        Prices { table: vec![0.0; 2 * PRICED], bucket: Vec::new(), lambda: 0.0 }
    }
}

/// The integers chosen for a matrix and what they cost.
pub struct Rounded {
    /// (C, R) column-major, natural column order.
    pub indices: Vec<i32>,
    /// tr(O E H Eᵀ): twice the predicted loss.
    pub error: f64,
}

/// Rounds `w` (R, C) row-major to indices on steps `row[i] * col[j]`.
pub fn round(w: &[f32], metric: &Metric, row: &[f32], col: &[f32], trellis: &Trellis, prices: &Prices) -> Rounded {
    let (rows, cols) = (metric.rows, metric.cols);
    let mut indices = vec![0i32; rows * cols];
    // Total errors and pending shifts, (C, R) column-major in rounding order.
    let mut errors = vec![0f32; rows * cols];
    let mut shift = vec![0f32; BLOCK * rows];
    let mut column = Column::new(rows, trellis);
    let mut target = vec![0f32; rows];
    let mut total = 0f64;
    for start in (0..cols).step_by(BLOCK) {
        let end = (start + BLOCK).min(cols);
        // shift (block, R) = feed(done, block)ᵀ · errors (done, R)
        let feed = View::strided(&metric.feed[start..], start, end - start, cols);
        shift.fill(0.0);
        if start > 0 {
            product(&mut shift, rows, feed.t(), View::dense(&errors, start, rows), 1.0, false);
        }
        for k in start..end {
            let j = metric.order[k];
            let own = &mut shift[(k - start) * rows..(k - start + 1) * rows];
            for p in start..k {
                let f = metric.feed[p * cols + k];
                own.iter_mut().zip(&errors[p * rows..(p + 1) * rows]).for_each(|(s, e)| *s += f * e);
            }
            for i in 0..rows {
                target[i] = w[i * cols + j] + own[i];
            }
            let bucket = if prices.bucket.is_empty() { &[][..] } else { &prices.bucket[j * rows..(j + 1) * rows] };
            let out = &mut indices[j * rows..(j + 1) * rows];
            total += column.round(&target, metric, row, col[j], metric.input[k], trellis, prices, bucket, out);
            let errors = &mut errors[k * rows..(k + 1) * rows];
            for i in 0..rows {
                // Column-level innovation minus the shift is the plain error W − Ŵ.
                errors[i] = column.innovation[i] - own[i];
            }
        }
    }
    Rounded { indices, error: total }
}

/// Working memory of the search down one column.
struct Column {
    /// Target minus reconstruction of every row, once the path is known.
    innovation: Vec<f32>,
    settled: Vec<f32>,
    came: Vec<u8>,
    index: Vec<i32>,
    value: Vec<f32>,
    /// (states, MEMORY) innovations of the last rows, at row mod MEMORY.
    history: Vec<f32>,
    next_history: Vec<f32>,
    cost: Vec<f32>,
    next_cost: Vec<f32>,
}

impl Column {
    fn new(rows: usize, trellis: &Trellis) -> Self {
        let s = trellis.states;
        Column {
            innovation: vec![0.0; rows],
            settled: vec![0.0; rows],
            came: vec![0; rows * s],
            index: vec![0; rows * s],
            value: vec![0.0; rows * s],
            history: vec![0.0; s * MEMORY],
            next_history: vec![0.0; s * MEMORY],
            cost: vec![0.0; s],
            next_cost: vec![0.0; s],
        }
    }

    #[allow(clippy::too_many_arguments)]
    fn round(
        &mut self,
        target: &[f32],
        metric: &Metric,
        row: &[f32],
        col: f32,
        input: f32,
        trellis: &Trellis,
        prices: &Prices,
        bucket: &[u8],
        out: &mut [i32],
    ) -> f64 {
        let (rows, states) = (target.len(), trellis.states);
        let two_sided = !metric.across.is_empty();
        self.settled.fill(0.0);
        self.cost.fill(f32::INFINITY);
        self.cost[0] = 0.0;
        self.history.fill(0.0);
        let mut band = [0f32; MEMORY];
        let mut base = 0f64;
        for i in 0..rows {
            let step = row[i] * col;
            let weight = metric.output[i] * input;
            let inverse = 1.0 / step;
            let here = target[i] + self.settled[i];
            if two_sided {
                band.fill(0.0);
                for m in 1..=MEMORY.min(i) {
                    band[(i - m) % MEMORY] = metric.across[(i - m) * rows + i];
                }
            }
            let b = bucket.get(i).map_or(0, |b| usize::from(*b));
            let table = &prices.table[b * 2 * PRICED..(b + 1) * 2 * PRICED];
            self.next_cost.fill(f32::INFINITY);
            for s in 0..states {
                let cost = self.cost[s];
                if cost == f32::INFINITY {
                    continue;
                }
                let mut goal = here;
                if two_sided {
                    let h = &self.history[s * MEMORY..(s + 1) * MEMORY];
                    goal += h.iter().zip(&band).map(|(h, b)| h * b).sum::<f32>();
                }
                let x = goal * inverse;
                let grid = usize::from(trellis.grid[s]);
                let half = if grid == 0 { x * 0.5 } else { (x + 1f32.copysign(x)) * 0.5 };
                // floor(), which the baseline instruction set lacks.
                let low = half as i32 - i32::from(half < 0.0);
                let price = &table[grid * PRICED..(grid + 1) * PRICED];
                for t in -1..=2 {
                    let q = low + t;
                    let v = (2 * q - if grid == 0 { 0 } else { q.signum() }) as f32;
                    let e = (x - v) * step;
                    let c = cost + weight * e * e + prices.lambda * price[(q.unsigned_abs() as usize).min(PRICED - 1)];
                    let n = usize::from(trellis.next[s][(q & 1) as usize]);
                    if c < self.next_cost[n] {
                        self.next_cost[n] = c;
                        self.came[i * states + n] = s as u8;
                        self.index[i * states + n] = q;
                        // The innovation at column level: the row shifts are not part of the error.
                        self.value[i * states + n] = target[i] - v * step;
                    }
                }
            }
            let mut best = 0;
            for n in 0..states {
                if self.next_cost[n] < self.next_cost[best] {
                    best = n;
                }
            }
            if two_sided {
                for n in 0..states {
                    if self.next_cost[n] < f32::INFINITY {
                        let from = usize::from(self.came[i * states + n]);
                        let to = &mut self.next_history[n * MEMORY..(n + 1) * MEMORY];
                        to.copy_from_slice(&self.history[from * MEMORY..(from + 1) * MEMORY]);
                        to[i % MEMORY] = self.value[i * states + n];
                    }
                }
                std::mem::swap(&mut self.history, &mut self.next_history);
                if i + 1 >= MEMORY && i + 1 < rows {
                    // Row i + 1 − MEMORY leaves the window of row i + 2's survivors: settle it.
                    let old = i + 1 - MEMORY;
                    let e = self.history[best * MEMORY + old % MEMORY];
                    let across = &metric.across[old * rows + i + 2..(old + 1) * rows];
                    self.settled[(i + 2).min(rows)..].iter_mut().zip(across).for_each(|(s, a)| *s += e * a);
                }
            }
            let low = self.next_cost[best];
            base += f64::from(low);
            self.next_cost.iter_mut().for_each(|c| *c -= low);
            std::mem::swap(&mut self.cost, &mut self.next_cost);
        }
        let mut s = 0;
        for n in 0..states {
            if self.cost[n] < self.cost[s] {
                s = n;
            }
        }
        for i in (0..rows).rev() {
            out[i] = self.index[i * states + s];
            self.innovation[i] = self.value[i * states + s];
            s = usize::from(self.came[i * states + s]);
        }
        let _ = base;
        self.true_cost(metric, input)
    }

    /// d · ẽᵀ O ẽ of the chosen path.
    fn true_cost(&mut self, metric: &Metric, input: f32) -> f64 {
        let rows = self.innovation.len();
        if metric.across.is_empty() {
            let sum: f64 = self.innovation.iter().zip(&metric.output).map(|(e, o)| f64::from(o * e * e)).sum();
            return sum * f64::from(input);
        }
        self.settled.fill(0.0);
        let mut total = 0f64;
        for i in 0..rows {
            let e = self.innovation[i];
            let v = e + self.settled[i];
            total += f64::from(metric.output[i] * v * v);
            let across = &metric.across[i * rows + i + 1..(i + 1) * rows];
            self.settled[i + 1..].iter_mut().zip(across).for_each(|(s, a)| *s += e * a);
        }
        total * f64::from(input)
    }
}
