//! The machines of trellis-coded quantization.
//!
//! Every state lies on one of two interleaved grids, even multiples of the step (grid 0) or odd ones (grid 1); the
//! parity of the index leads to the next state. With [`Odd::WithZero`] this is the dependent quantization of VVC and
//! ISO/IEC 15938-17, with [`Odd::Plain`] entropy-coded trellis-coded quantization with union quantizers (Fischer and
//! Wang, IEEE Trans. Inf. Theory 38, 1992). Machines of more than four states come from Ungerboeck's codes for
//! amplitude modulation (IEEE Trans. Inf. Theory 28, 1982, table I).
//!
//! Gap to the Gaussian rate-distortion bound in dB, measured with rate-aware Viterbi search (uniform grid: 1.53):
//!
//! | states | with zero, 5.1 / 2.6 / 2.0 / 1.6 bits | plain, 5.1 / 2.5 / 1.8 / 1.2 bits |
//! |---|---|---|
//! | 4 | .55 .68 .76 .85 | .52 .54 .53 .53 |
//! | 8 | .43 .59 .65 .75 | .39 .45 .44 .46 |
//! | 16 | .40 .51 .58 .64 | .36 .37 .39 .39 |
//! | 32 | .32 .45 .50 .56 | .28 .31 .32 .33 |
//! | 64 | .26 .38 .45 .48 | .24 .26 .26 .28 |
//! | 128 | .22 .34 .37 .42 | .20 .22 .24 .23 |
//! | 256 | .18 .29 .33 .37 | not measured |
//!
//! Below about one bit, or at 1.3 bits of a Laplacian source, the zero on grid 1 pays and plain odd grids do not.

/// The points of grid 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Odd {
    /// Odd multiples and zero: q stands for 2q - sign(q).
    WithZero,
    /// Odd multiples only: q stands for 2q - 1.
    Plain,
}

/// A state machine over the parities of the indices down a column; it starts in state 0.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trellis {
    pub states: usize,
    /// Next state by state and parity of the index.
    pub next: Vec<[u8; 2]>,
    /// Grid of each state.
    pub grid: Vec<u8>,
    pub odd: Odd,
}

/// Parity-check polynomials h0, h1 of Ungerboeck's rate-1/2 codes by number of delay elements, from 2 up.
const CODES: [(u32, u32); 7] =
    [(0o5, 0o2), (0o13, 0o4), (0o23, 0o4), (0o45, 0o10), (0o103, 0o24), (0o235, 0o126), (0o515, 0o362)];

impl Trellis {
    /// The plain uniform grid: one state, and q stands for 2q.
    pub fn uniform() -> Self {
        Trellis { states: 1, next: vec![[0, 0]], grid: vec![0], odd: Odd::WithZero }
    }

    /// The four-state machine of VVC.
    pub fn four() -> Self {
        Trellis { states: 4, next: vec![[0, 2], [2, 0], [1, 3], [3, 1]], grid: vec![0, 0, 1, 1], odd: Odd::WithZero }
    }

    /// The eight-state machine.
    pub fn eight() -> Self {
        Self::ungerboeck(3)
    }

    /// The same machine with another grid 1.
    pub fn odd(self, odd: Odd) -> Self {
        Trellis { odd, ..self }
    }

    /// The value of an index, in steps.
    #[inline]
    pub fn value(&self, grid: u8, q: i32) -> i32 {
        match (grid, self.odd) {
            (0, _) => 2 * q,
            (_, Odd::WithZero) => 2 * q - q.signum(),
            (_, Odd::Plain) => 2 * q - 1,
        }
    }

    /// The index that stands for a value on the grid.
    #[inline]
    pub fn index_of(&self, grid: u8, value: i32) -> i32 {
        match (grid, self.odd) {
            (0, _) => value / 2,
            (_, Odd::WithZero) => (value + value.signum()) / 2,
            (_, Odd::Plain) => (value + 1) / 2,
        }
    }

    /// Number of the grid's points on the same side of zero that are nearer to it. The coder codes it beside a sign.
    #[inline]
    pub fn magnitude_index(&self, grid: u8, q: i32) -> u32 {
        if grid == 1 && self.odd == Odd::Plain { (if q > 0 { q - 1 } else { -q }) as u32 } else { q.unsigned_abs() }
    }

    /// Distance from zero in steps of the point with this magnitude index.
    #[inline]
    pub fn magnitude(&self, grid: u8, magnitude_index: u32) -> u32 {
        match (grid, self.odd) {
            (0, _) => 2 * magnitude_index,
            (_, Odd::WithZero) => 2 * magnitude_index - u32::from(magnitude_index > 0),
            (_, Odd::Plain) => 2 * magnitude_index + 1,
        }
    }

    /// The index of the point with this magnitude index on the side given by `negative`.
    #[inline]
    pub fn index(&self, grid: u8, magnitude_index: u32, negative: bool) -> i32 {
        match (grid == 1 && self.odd == Odd::Plain, negative) {
            (true, false) => magnitude_index as i32 + 1,
            (_, true) => -(magnitude_index as i32),
            (false, false) => magnitude_index as i32,
        }
    }

    /// The machine with this many states: 1, 4, 8, 16, 32, 64, 128 or 256.
    pub fn with_states(states: usize) -> Option<Self> {
        match states {
            1 => Some(Self::uniform()),
            4 => Some(Self::four()),
            8..=256 if states.is_power_of_two() => Some(Self::ungerboeck(states.ilog2())),
            _ => None,
        }
    }

    /// Ungerboeck's code with `delays` delay elements as a systematic feedback encoder in observer form.
    ///
    /// Labels z0 (grid) and z1 (parity) satisfy h0(D) z0 + h1(D) z1 = 0. The registers hold the part of that sum which
    /// the past has settled; as h0 begins with 1 and h1 with 0, the first of them is the grid.
    pub fn ungerboeck(delays: u32) -> Self {
        let (h0, h1) = CODES[delays as usize - 2];
        let states = 1usize << delays;
        let next = |state: u32, parity: u32| {
            // Register k is bit k - 1; the shift moves register k + 1 to k.
            let grid = state & 1;
            ((state >> 1) ^ (grid * (h0 >> 1)) ^ (parity * (h1 >> 1))) as u8
        };
        Trellis {
            states,
            next: (0..states as u32).map(|s| [next(s, 0), next(s, 1)]).collect(),
            grid: (0..states).map(|s| (s & 1) as u8).collect(),
            odd: Odd::WithZero,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all() -> Vec<Trellis> {
        let plain = [4, 8, 16, 32, 64, 128, 256].into_iter().filter_map(Trellis::with_states);
        plain.flat_map(|t| [t.clone(), t.odd(Odd::Plain)]).chain([Trellis::uniform()]).collect()
    }

    #[test]
    fn every_state_has_two_ways_in_and_two_ways_out() {
        for t in all().into_iter().filter(|t| t.states > 1) {
            let mut ways = vec![0; t.states];
            for next in &t.next {
                assert_ne!(next[0], next[1]);
                next.iter().for_each(|n| ways[usize::from(*n)] += 1);
            }
            assert!(ways.iter().all(|w| *w == 2));
        }
    }

    #[test]
    fn rank_and_side_give_the_index_back() {
        for t in all() {
            for grid in 0..2 {
                for q in -1000..=1000 {
                    let v = t.value(grid, q);
                    assert_eq!(t.index_of(grid, v), q);
                    assert_eq!(v.unsigned_abs(), t.magnitude(grid, t.magnitude_index(grid, q)));
                    assert_eq!(t.index(grid, t.magnitude_index(grid, q), v < 0), q);
                }
            }
        }
    }

    #[test]
    fn four_states_are_those_of_the_code() {
        // The same machine up to the names of states: equal grids along every sequence of parities.
        let (a, b) = (Trellis::four(), Trellis::ungerboeck(2));
        for bits in 0u32..1 << 12 {
            let (mut s, mut t) = (0usize, 0usize);
            for k in 0..12 {
                assert_eq!(a.grid[s], b.grid[t]);
                let parity = (bits >> k & 1) as usize;
                (s, t) = (usize::from(a.next[s][parity]), usize::from(b.next[t][parity]));
            }
        }
    }

    /// Mean squared error of Viterbi-quantized uniform noise, in squared steps: no source statistics interfere.
    fn error(t: &Trellis, n: usize) -> f64 {
        let mut seed = 1u64;
        let (mut cost, mut new) = (vec![f64::INFINITY; t.states], vec![f64::INFINITY; t.states]);
        cost[0] = 0.0;
        for _ in 0..n {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let x = (seed >> 40) as f64 / f64::from(1 << 24) * 64.0 + 32.0;
            new.fill(f64::INFINITY);
            for (s, cost) in cost.iter().enumerate() {
                let low = (x / 2.0).floor() as i32;
                for q in low - 1..=low + 2 {
                    let e = x - f64::from(t.value(t.grid[s], q));
                    let to = usize::from(t.next[s][(q & 1) as usize]);
                    new[to] = new[to].min(cost + e * e);
                }
            }
            std::mem::swap(&mut cost, &mut new);
        }
        cost.iter().copied().fold(f64::INFINITY, f64::min) / n as f64
    }

    #[test]
    fn more_states_quantize_better() {
        // Gains over the uniform grid in dB as tabled by Ungerboeck's successors (Marcellin and Fischer, 1990).
        let uniform = 4.0 / 12.0;
        for (states, gain) in [(4, 0.99), (8, 1.09), (16, 1.16), (32, 1.22), (64, 1.27), (128, 1.31), (256, 1.33)] {
            let t = Trellis::with_states(states).unwrap();
            let measured = 10.0 * (uniform / error(&t, 20_000)).log10();
            assert!((measured - gain).abs() < 0.04, "{states} states: {measured:.3} dB, expected {gain}");
        }
    }
}
