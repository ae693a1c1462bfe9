//! Expected magnitude at each place of a matrix: a row factor times a column factor, learned on the way.
//!
//! Magnitudes |v| are counted in grid steps. Row factors are averages over the columns already coded and start at
//! the inverse row scale; column factors are averages over the rows above and start at what earlier columns of the same
//! scale had. How much these priors count is itself estimated (empirical Bayes): as many observations as fit the spread
//! that the factors have shown beyond sampling noise.
//!
//! Two guesses are made for a column, one from all its rows and one from the last few only; each row is blended from
//! the two by how well they did in it of late. (Embeddings need the second: rare tokens do not share the columns'
//! ways.) Integers only: factors have [`ROW_BITS`] or [`COL_BITS`] fractional bits.

use crate::entropy::logarithm::log16;

const ROW_BITS: u32 = 12;
const COL_BITS: u32 = 16;
const ONE: u64 = 1 << COL_BITS;

/// Larger magnitudes count as this in the averages, so that sums cannot overflow.
const MAGNITUDE_CAP: u32 = 1 << 19;
/// One weight counts at most as this multiple of what was expected.
const OUTLIER: u64 = 32 << COL_BITS;
/// Smallest row factor, 2^-8 steps.
const ROW_FLOOR: u64 = 1 << (ROW_BITS - 8);
/// log2 of the number of rows that the local average of a column reaches back.
const DECAY: u32 = 4;
/// Observations that the whole column counts against its last rows.
const STEADY: u64 = 150;
/// Observations that a column's balance of signs takes to be believed.
const PATIENCE: u64 = 16 * ONE;
/// Observations that a prior counts, least and most.
const ROW_PRIOR: (u64, u64) = (2, 1000);
const COL_PRIOR: (u64, u64) = (2, 1000);

/// 2^(k/4) in units of 2^-16.
const QUARTERS: [u64; 4] = [65_536, 77_936, 92_682, 110_218];

/// 2^(-e/4), 16 fractional bits, for a quarter-octave exponent.
fn inverse_scale(e: i16) -> u64 {
    let e = -i32::from(e.clamp(-48, 48));
    let (octave, quarter) = (e.div_euclid(4), e.rem_euclid(4) as usize);
    if octave >= 0 { QUARTERS[quarter] << octave } else { (QUARTERS[quarter] >> -octave).max(1) }
}

/// 2^(k/16) in units of 2^-16.
const SIXTEENTHS: [u64; 16] = [
    65_536, 68_438, 71_468, 74_632, 77_936, 81_386, 84_990, 88_752, 92_682, 96_785, 101_070, 105_545, 110_218, 115_098,
    120_194, 125_515,
];

/// Code length of magnitude `v` under a Laplacian of expected magnitude 2^(log / 16), up to a constant, in 2^-16 nats.
#[inline]
fn laplace(log: i32, v: u32) -> i32 {
    const LN2: i32 = 45_426;
    let inverse = SIXTEENTHS[(-log).rem_euclid(16) as usize];
    let octave = (-log).div_euclid(16).clamp(-40, 20);
    let scaled = u64::from(v) * inverse;
    let ratio = if octave >= 0 { scaled << octave } else { scaled >> -octave };
    (log >> 4) * LN2 + (log & 15) * (LN2 / 16) + ratio.min(8 << 16) as i32
}

/// The expectation at a place before its index is coded. Logarithms to base 2 in units of 1/16.
#[derive(Clone, Copy, Debug)]
pub struct Expected {
    /// log2 of the expected magnitude in grid steps.
    pub log: i32,
    /// How the last few rows of this column compare with what was expected of them.
    pub recent: i32,
}

pub struct Scales<'a> {
    rows: usize,
    col_exp: &'a [i16],
    /// Prior row factors and the same in the form 2^40 / factor.
    prior: Vec<u64>,
    inverse_prior: Vec<u64>,
    /// Per row: sum of |v| / column factor, ROW_BITS.
    sum: Vec<u64>,
    columns: u64,
    row_prior_count: u64,
    /// By how much rows exceed their prior on the whole, COL_BITS.
    level: u64,
    /// This column: row factors as logarithm and as 2^44 / factor.
    row_log: Vec<i32>,
    row_inverse: Vec<u64>,
    /// Per column exponent seen: (exponent, sum of factors, columns); and the average of the last few columns.
    classes: Vec<(i16, u64, u64)>,
    last: u64,
    /// Squared deviation of columns from their prior beyond noise: sum (COL_BITS) and number.
    spread: (u64, u64),
    /// The column being coded.
    class: usize,
    /// Its prior factor, and the observations that counts.
    center: u64,
    prior_count: u64,
    /// Over its rows so far: |v| / row factor, the same with signs, the same decayed, the decayed number.
    total: u64,
    balance: i64,
    decayed: u64,
    weight: u64,
    magnitude: Vec<u32>,
    /// Expected magnitudes (logarithms) with and without the column as a whole, and by row the lead of the latter.
    guesses: [i32; 2],
    lead: Vec<i32>,
}

impl<'a> Scales<'a> {
    /// `level`: mean magnitude of the matrix, ROW_BITS fractional bits.
    pub fn new(row_exp: &[i16], col_exp: &'a [i16], level: u64) -> Self {
        let rows = row_exp.len();
        let raw: Vec<u64> = row_exp.iter().map(|e| inverse_scale(*e)).collect();
        let mean = (raw.iter().sum::<u64>() / rows.max(1) as u64).max(1);
        let prior: Vec<u64> = raw.iter().map(|r| (r * level / mean).clamp(ROW_FLOOR, 1 << 31)).collect();
        Scales {
            rows,
            col_exp,
            inverse_prior: prior.iter().map(|p| (1 << 40) / p).collect(),
            prior,
            sum: vec![0; rows],
            columns: 0,
            row_prior_count: 30,
            level: ONE,
            row_log: vec![0; rows],
            row_inverse: vec![0; rows],
            classes: Vec::new(),
            last: ONE,
            spread: (8 * ONE / 24, 4),
            class: 0,
            center: ONE,
            prior_count: 0,
            total: 0,
            balance: 0,
            decayed: 0,
            weight: 0,
            magnitude: vec![0; rows],
            guesses: [0; 2],
            lead: vec![0; rows],
        }
    }

    /// Prepares for column `j`.
    pub fn begin_column(&mut self, j: usize) {
        let n = self.columns;
        // The strength of the row prior hardly changes from column to column: look at n = 2, 3, 4, 6, 8, 12, 16, ...
        if n >= 2 && (n.is_power_of_two() || (n.is_multiple_of(3) && (n / 3).is_power_of_two())) {
            self.weigh_row_prior(n);
        }
        let k = self.row_prior_count;
        let share = (1u64 << 32) / (n + k);
        let pull = k * self.level;
        for i in 0..self.rows {
            let x = self.sum[i] + ((self.prior[i] * pull) >> COL_BITS);
            let r = ((u128::from(x) * u128::from(share)) >> 32) as u64;
            let r = r.clamp(ROW_FLOOR, 1 << 31);
            self.row_log[i] = log16(r) - 16 * ROW_BITS as i32;
            self.row_inverse[i] = (1u64 << 44) / r;
        }
        let e = self.col_exp[j];
        self.class = self.classes.iter().position(|c| c.0 == e).unwrap_or_else(|| {
            self.classes.push((e, 0, 0));
            self.classes.len() - 1
        });
        let (_, sum, count) = self.classes[self.class];
        self.center = ((sum + self.last) / (count + 1)).max(1);
        let (deviation, number) = self.spread;
        self.prior_count = (((2 * number) << COL_BITS) / deviation.max(1)).clamp(COL_PRIOR.0, COL_PRIOR.1);
        self.total = 0;
        self.balance = 0;
        self.decayed = 0;
        self.weight = 0;
    }

    /// Estimates the spread of the row factors around their prior, and from it the weight of the prior.
    fn weigh_row_prior(&mut self, n: u64) {
        let rows = self.rows as u64;
        // Row factor over prior, COL_BITS.
        let ratio = |i: usize| ((u128::from(self.sum[i]) * u128::from(self.inverse_prior[i])) >> 24) as u64 / n;
        let mean = ((0..self.rows).map(ratio).fold(0, u64::saturating_add) / rows).max(1);
        let square = |i: usize| {
            let relative = ((ratio(i) << COL_BITS) / mean).min(8 * ONE);
            let d = relative.abs_diff(ONE);
            (d * d) >> COL_BITS
        };
        let spread = (0..self.rows).map(square).sum::<u64>() / rows;
        let noise = ONE / n;
        let beyond = spread.saturating_sub(noise).max(1);
        self.row_prior_count = (2 * ONE / beyond).clamp(ROW_PRIOR.0, ROW_PRIOR.1);
        self.level = mean.min(64 * ONE);
    }

    /// The expectation in row `i` of the current column.
    #[inline]
    pub fn expect(&mut self, i: usize) -> Expected {
        let whole = (self.total + self.center * self.prior_count) / (i as u64 + self.prior_count);
        let logs = [
            log16(self.decayed + whole * STEADY) - log16(self.weight + (STEADY << COL_BITS)),
            log16(self.decayed + self.center * self.prior_count) - log16(self.weight + (self.prior_count << COL_BITS)),
        ];
        self.guesses = logs.map(|l| l + self.row_log[i]);
        // Blend by how much shorter the one's code was for this row of late: even at 0, all of one at 4 nats.
        let share = ((self.lead[i] >> 16) + 4).clamp(0, 8);
        let column = (logs[0] * (8 - share) + logs[1] * share + 4) >> 3;
        let recent = log16(self.decayed + self.center) - log16(self.weight + ONE) - column;
        Expected { log: self.row_log[i] + column, recent }
    }

    /// Which side the column leans to so far, -8..=8.
    #[inline]
    pub fn lean(&self) -> i32 {
        let total = (self.total + PATIENCE) as i64;
        ((self.balance * 32 + total / 2).div_euclid(total) as i32).clamp(-8, 8)
    }

    /// Takes note of the magnitude in row `i`.
    #[inline]
    pub fn see(&mut self, i: usize, magnitude: u32, negative: bool) {
        let v = magnitude.min(MAGNITUDE_CAP);
        self.magnitude[i] = v;
        let [whole, local] = self.guesses.map(|log| laplace(log, v));
        self.lead[i] += whole - local - (self.lead[i] >> 7);
        let x = ((u64::from(v) * self.row_inverse[i]) >> 16).min(OUTLIER);
        self.total += x;
        self.balance += if negative { -(x as i64) } else { x as i64 };
        self.decayed = self.decayed + x - (self.decayed >> DECAY);
        self.weight = self.weight + ONE - (self.weight >> DECAY);
    }

    /// Learns from the finished column.
    pub fn end_column(&mut self) {
        let rows = self.rows as u64;
        let mean = self.total / rows;
        if self.columns > 0 {
            let relative = ((mean << COL_BITS) / self.center).min(8 * ONE);
            let d = relative.abs_diff(ONE);
            let beyond = ((d * d) >> COL_BITS) as i64 - (ONE / rows) as i64;
            self.spread.0 = self.spread.0.saturating_add_signed(beyond);
            self.spread.1 += 1;
        }
        let k = self.prior_count;
        let factor = ((self.total + self.center * k) / (rows + k)).max(1);
        self.last = (self.last * 7 + factor * 3) / 10;
        self.classes[self.class].1 += factor;
        self.classes[self.class].2 += 1;
        let inverse = (1u64 << (ROW_BITS + COL_BITS)) / factor.max(ONE >> 5);
        for (s, v) in self.sum.iter_mut().zip(&self.magnitude) {
            *s += u64::from(*v) * inverse;
        }
        self.columns += 1;
    }
}
