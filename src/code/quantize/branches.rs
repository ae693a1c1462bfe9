//! The branches of a trellis from one row to the next: the cost of each, and the cheaper of the two that lead into a state.
//!
//! All states are weighed side by side, in f32 alone and without a branch, so that compilers find vector instructions for it.

use crate::code::entropy::indices::PRICED;
use crate::code::grid::trellis::{Odd, Trellis};

/// Indices beyond this are far from any sane one; up to it f32 tells integers apart.
const FAR: f32 = (1 << 22) as f32;

/// The grid at one place and what an error there costs.
pub struct Scale<'a> {
    pub step: f32,
    pub inverse: f32,
    pub weight: f32,
    /// (2 grids, ranks): bits.
    pub table: &'a [f32; 2 * PRICED],
    /// Metric units per bit.
    pub lambda: f32,
}

/// Branches into the S states of a trellis: where each comes from, the lower state first, and the working memory.
pub struct Branches<const S: usize> {
    /// 1 for the states on the odd grid, else 0.
    grid: [f32; S],
    plain: bool,
    /// Places in what is weighed.
    into: [[u16; S]; 2],
    /// For the even and for the odd index: value in steps of the cheaper of the two nearest points, cost of the path with it.
    value: [[f32; S]; 2],
    total: [[f32; S]; 2],
}

impl<const S: usize> Branches<S> {
    pub fn new(trellis: &Trellis) -> Self {
        assert_eq!(trellis.states, S, "states of the trellis");
        let mut into = [[0; S]; 2];
        let mut found = [0; S];
        for (s, next) in trellis.next.iter().enumerate() {
            for (parity, n) in next.iter().map(|n| usize::from(*n)).enumerate() {
                into[found[n]][n] = (parity * S + s) as u16;
                found[n] += 1;
            }
        }
        Branches {
            grid: std::array::from_fn(|s| f32::from(trellis.grid[s])),
            plain: trellis.odd == Odd::Plain,
            into,
            value: [[0.0; S]; 2],
            total: [[0.0; S]; 2],
        }
    }

    /// Computes the cost of the two branches out of every state, which has `cost` so far and rounds `target`.
    #[inline(always)]
    pub fn weigh(&mut self, target: &[f32; S], cost: &[f32; S], scale: &Scale) {
        match self.plain {
            true => weigh::<S, true>((&mut self.value, &mut self.total), &self.grid, (target, cost), scale),
            false => weigh::<S, false>((&mut self.value, &mut self.total), &self.grid, (target, cost), scale),
        }
    }

    /// Keeps the cheaper branch into every state: its predecessor, and the value on the branch. `cost` relative to the best one stays
    /// small, so that f32 can tell them apart.
    #[inline(always)]
    pub fn choose(&self, cost: &mut [f32; S], predecessor: &mut [u8; S], value: &mut [f32; S]) {
        let total = self.total.as_flattened();
        let [mut first, mut second] = [[0f32; S]; 2];
        for to in 0..S {
            first[to] = total[usize::from(self.into[0][to]) % (2 * S)];
            second[to] = total[usize::from(self.into[1][to]) % (2 * S)];
        }
        let mut way = [0u16; S];
        let mut low = f32::INFINITY;
        for to in 0..S {
            // The comparison is as good as random: no branch.
            let other = u16::from(second[to] < first[to]).wrapping_neg();
            way[to] = self.into[0][to] ^ ((self.into[0][to] ^ self.into[1][to]) & other);
            cost[to] = if second[to] < first[to] { second[to] } else { first[to] };
        }
        for to in 0..S {
            value[to] = self.value.as_flattened()[usize::from(way[to]) % (2 * S)];
            predecessor[to] = (usize::from(way[to]) % S) as u8;
        }
        for c in cost.iter() {
            low = if *c < low { *c } else { low };
        }
        for c in cost.iter_mut() {
            *c -= low;
        }
    }
}

#[inline(always)]
fn weigh<const S: usize, const PLAIN: bool>(
    (value, total): (&mut [[f32; S]; 2], &mut [[f32; S]; 2]),
    grid: &[f32; S],
    (target, cost): (&[f32; S], &[f32; S]),
    scale: &Scale,
) {
    // Of each parity the point next to the goal and the one on its other side.
    let (mut x, mut q) = ([0f32; S], [[0f32; S]; 4]);
    let (mut v, mut place) = ([[0f32; S]; 4], [[0u32; S]; 4]);
    for s in 0..S {
        let g = grid[s];
        x[s] = target[s] * scale.inverse;
        let toward = if PLAIN { 1.0 } else { 1f32.copysign(x[s]) };
        let half = ((x[s] + g * toward) * 0.5).clamp(-FAR, FAR);
        let low = half.floor();
        let odd = low - 2.0 * (0.5 * low).floor();
        q[0][s] = low + odd;
        q[1][s] = low + 2.0 - 3.0 * odd;
        q[2][s] = low + 1.0 - odd;
        q[3][s] = low - 1.0 + 3.0 * odd;
    }
    for k in 0..4 {
        for s in 0..S {
            let (q, g) = (q[k][s], grid[s]);
            let above = if q > 0.0 { 1.0 } else { 0.0 };
            let below = if q < 0.0 { 1.0 } else { 0.0 };
            v[k][s] = 2.0 * q - g * if PLAIN { 1.0 } else { above - below };
            let magnitude_index = q.abs() - if PLAIN { g * above } else { 0.0 };
            let magnitude_index =
                if magnitude_index < (PRICED - 1) as f32 { magnitude_index } else { (PRICED - 1) as f32 };
            // Integers stand in the low bits of a float of this size.
            place[k][s] = (magnitude_index + g * PRICED as f32 + (1 << 23) as f32).to_bits() % (2 * PRICED) as u32;
        }
    }
    let mut price = [[0f32; S]; 4];
    for k in 0..4 {
        for s in 0..S {
            price[k][s] = scale.table[place[k][s] as usize % (2 * PRICED)];
        }
    }
    for p in 0..2 {
        for s in 0..S {
            let of = |k: usize| {
                let e = (x[s] - v[k][s]) * scale.step;
                scale.weight * e * e + scale.lambda * price[k][s]
            };
            let [a, b] = [of(2 * p), of(2 * p + 1)];
            let first = a <= b;
            value[p][s] = if first { v[2 * p][s] } else { v[2 * p + 1][s] };
            total[p][s] = cost[s] + if first { a } else { b };
        }
    }
}
