//! The nearest points of a trellis-coded grid, without feedback: cheap enough for every step of a training run.
//!
//! What [`super::viterbi`] finds takes the errors of other weights into account, so each survivor has a goal of its own.
//! Here all survivors want the same, and only four kinds of points (two grids, two parities) are to be priced for each
//! weight.

use super::viterbi::{Rate, Scale};
use crate::code::entropy::indices::PRICED;
use crate::code::grid::trellis::Trellis;

/// Columns that are searched side by side, one in each lane of the processor's vectors.
pub const LANES: usize = 8;

type Lanes = [f32; LANES];

/// What the search of one column needs to know.
#[derive(Clone, Copy)]
pub struct Goal<'a> {
    /// (R): what the weights want to be, in steps.
    pub values: &'a [f32],
    /// A squared error of one step in row i costs row_weight[i] times this.
    pub weight: f32,
    /// (R): buckets of the prices; empty: the first.
    pub bucket: &'a [u8],
}

/// The search down the columns of one matrix.
pub struct Nearest<'a> {
    trellis: &'a Trellis,
    /// For every state its two predecessors: where they come from, and which of the four kinds of points leads here.
    before: Vec<[(u8, u8); 2]>,
    cost: Vec<Lanes>,
    next: Vec<Lanes>,
    /// (R, states): which predecessor each state came from.
    chosen: Vec<[u8; LANES]>,
    /// (R): index of each kind of point.
    points: Vec<[[i32; 4]; LANES]>,
}

impl<'a> Nearest<'a> {
    /// For columns of `rows` weights.
    pub fn new(trellis: &'a Trellis, rows: usize) -> Self {
        let states = trellis.states;
        let mut before: Vec<Vec<(u8, u8)>> = vec![Vec::new(); states];
        for (s, next) in trellis.next.iter().enumerate() {
            for (parity, n) in next.iter().enumerate() {
                before[usize::from(*n)].push((s as u8, 2 * trellis.grid[s] + parity as u8));
            }
        }
        Nearest {
            trellis,
            before: before.into_iter().map(|b| [b[0], b[1]]).collect(),
            cost: vec![[0.0; LANES]; states],
            next: vec![[0.0; LANES]; states],
            chosen: vec![[0; LANES]; rows * states],
            points: vec![[[0; 4]; LANES]; rows],
        }
    }

    /// Indices of the paths down at most [`LANES`] columns that are nearest to their goals: least Σ weight·e² + λ·bits.
    /// `out` takes one column after the other.
    pub fn columns(&mut self, goals: &[Goal], row_weight: &[f32], rate: &Rate, out: &mut [i32]) {
        let (rows, states) = (row_weight.len(), self.trellis.states);
        self.cost.fill([f32::INFINITY; LANES]);
        self.cost[0] = [0.0; LANES];
        for (i, row_weight) in row_weight.iter().enumerate() {
            let mut price = [[0f32; LANES]; 4];
            for (lane, goal) in goals.iter().enumerate() {
                let scale = Scale { step: 1.0, inverse: 1.0, weight: goal.weight * row_weight };
                let b = goal.bucket.get(i).map_or(0, |b| usize::from(*b));
                let table = &rate.prices.table[b * 2 * PRICED..(b + 1) * 2 * PRICED];
                for grid in 0..if states > 1 { 2 } else { 1 } {
                    for (parity, (q, _, c)) in scale.branches(goal.values[i], self.trellis, grid, table, rate.lambda) {
                        let kind = 2 * usize::from(grid) + parity;
                        (self.points[i][lane][kind], price[kind][lane]) = (q, c);
                    }
                }
            }
            let mut low = [f32::INFINITY; LANES];
            let chosen = &mut self.chosen[i * states..(i + 1) * states];
            for ((chosen, [a, b]), next) in chosen.iter_mut().zip(&self.before).zip(&mut self.next) {
                let [(a, pa), (b, pb)] =
                    [a, b].map(|(s, kind)| (&self.cost[usize::from(*s)], &price[usize::from(*kind)]));
                for l in 0..LANES {
                    let (a, b) = (a[l] + pa[l], b[l] + pb[l]);
                    chosen[l] = u8::from(b < a);
                    next[l] = if b < a { b } else { a };
                    low[l] = if next[l] < low[l] { next[l] } else { low[l] };
                }
            }
            // Costs relative to the best one stay small, so that f32 can tell them apart.
            for (cost, next) in self.cost.iter_mut().zip(&self.next) {
                (0..LANES).for_each(|l| cost[l] = next[l] - low[l]);
            }
        }
        for (lane, out) in out.chunks_exact_mut(rows.max(1)).enumerate() {
            let mut s = (0..states).fold(0, |s, n| if self.cost[n][lane] < self.cost[s][lane] { n } else { s });
            for i in (0..rows).rev() {
                let (from, kind) = self.before[s][usize::from(self.chosen[i * states + s][lane])];
                out[i] = self.points[i][lane][usize::from(kind)];
                s = usize::from(from);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::code::grid::trellis::Odd;
    use crate::code::quantize::metric::Metric;
    use crate::code::quantize::viterbi::round;
    use crate::nets::ops::check::values;

    #[test]
    fn finds_what_the_search_with_feedback_finds_where_there_is_none() {
        let (rows, cols) = (53, 4);
        let metric = Metric::flat(rows, cols, 1.0);
        let w: Vec<f32> = values(rows * cols, 5).iter().map(|v| v * 6.0).collect();
        for states in [1, 4, 8, 32, 128, 256] {
            for odd in [Odd::Plain, Odd::WithZero] {
                let trellis = Trellis::with_states(states).unwrap().odd(if states == 1 { Odd::WithZero } else { odd });
                let found = round(&w, &metric, &vec![1.0; rows], &vec![1.0; cols], &trellis, &Rate::free());
                let mut nearest = Nearest::new(&trellis, rows);
                let columns: Vec<Vec<f32>> = (0..cols).map(|j| (0..rows).map(|i| w[i * cols + j]).collect()).collect();
                let goals: Vec<Goal> = columns.iter().map(|values| Goal { values, weight: 1.0, bucket: &[] }).collect();
                let mut q = vec![0; rows * cols];
                nearest.columns(&goals, &vec![1.0; rows], &Rate::free(), &mut q);
                assert_eq!(q, found.indices, "{states} states, {odd:?}");
            }
        }
    }
}
