//! What magnitude to expect at each place of a matrix: a row factor times a column factor, learned on the way.
//!
//! Magnitudes |v| are counted in grid steps. Row factors are averages over the columns already coded, column factors
//! decayed averages over the rows above, both drawn towards a prior. How strongly is itself estimated (empirical
//! Bayes): the prior counts as many observations as make its spread equal to the spread that the factors have shown
//! beyond sampling noise. Integers only: factors have [`ROW_BITS`] or [`COL_BITS`] fractional bits.

use super::logarithm::log16;

const ROW_BITS: u32 = 12;
const COL_BITS: u32 = 16;
const ONE: u64 = 1 << COL_BITS;

/// Larger magnitudes count as this in the averages, so that sums cannot overflow.
const MAGNITUDE_CAP: u32 = 1 << 19;
/// One weight counts at most as this multiple of what was expected.
const OUTLIER: u64 = 32 << COL_BITS;
/// Smallest row factor, 2^-8 steps.
const ROW_FLOOR: u64 = 1 << (ROW_BITS - 8);
/// log2 of the rows after which the column's average has forgotten half: 2^DECAY ln 2.
const DECAY: u32 = 6;
/// log2 of the length of the short average that tells of local changes.
const SHORT: u32 = 3;
/// Observations that a prior counts, least and most.
const ROW_PRIOR: (u64, u64) = (2, 300);
const COL_PRIOR: (u64, u64) = (2, 1000);

/// 2^(k/4) in units of 2^-16.
const QUARTERS: [u64; 4] = [65_536, 77_936, 92_682, 110_218];

/// 2^(-e/4), 16 fractional bits, for a quarter-octave exponent.
fn inverse_scale(e: i16) -> u64 {
    let e = -i32::from(e.clamp(-48, 48));
    let (octave, quarter) = (e.div_euclid(4), e.rem_euclid(4) as usize);
    if octave >= 0 { QUARTERS[quarter] << octave } else { (QUARTERS[quarter] >> -octave).max(1) }
}

/// What is known about a place before its index is coded. Logarithms to base 2 in units of 1/16.
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
    level: u64,
    /// This column: row factors as logarithm and as 2^44 / factor.
    row_log: Vec<i32>,
    row_inverse: Vec<u64>,
    /// Per column exponent seen: (exponent, sum of factors, columns).
    classes: Vec<(i16, u64, u64)>,
    last: u64,
    /// Squared deviation of columns from their prior beyond noise: sum (COL_BITS) and number.
    spread: (u64, u64),
    /// The column being coded.
    class: usize,
    center: u64,
    prior_count: u64,
    total: u64,
    decayed: u64,
    weight: u64,
    short: u64,
    magnitude: Vec<u32>,
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
            spread: (4 * ONE / 24, 4),
            class: 0,
            center: ONE,
            prior_count: 0,
            total: 0,
            decayed: 0,
            weight: 0,
            short: 0,
            magnitude: vec![0; rows],
        }
    }

    /// Prepares for column `j`.
    pub fn begin_column(&mut self, j: usize) {
        let n = self.columns;
        // The strength of the row prior hardly changes from column to column: look at n = 2, 3, 4, 6, 8, 12, 16, ...
        if n >= 2 && (n.is_power_of_two() || (n % 3 == 0 && (n / 3).is_power_of_two())) {
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
        self.prior_count = ((number << COL_BITS) / deviation.max(1)).clamp(COL_PRIOR.0, COL_PRIOR.1);
        self.total = 0;
        self.decayed = 0;
        self.weight = 0;
        self.short = self.center;
    }

    /// Estimates the spread of the row factors around their prior, and from it what the prior is worth.
    fn weigh_row_prior(&mut self, n: u64) {
        let rows = self.rows as u64;
        // Row factor over prior, COL_BITS.
        let ratio = |i: usize| ((u128::from(self.sum[i]) * u128::from(self.inverse_prior[i])) >> 24) as u64 / n;
        let mean = ((0..self.rows).map(ratio).sum::<u64>() / rows).max(1);
        let square = |i: usize| {
            let relative = ((ratio(i) << COL_BITS) / mean).min(8 * ONE);
            let d = relative.abs_diff(ONE);
            (d * d) >> COL_BITS
        };
        let spread = (0..self.rows).map(square).sum::<u64>() / rows;
        let noise = ONE / n;
        let beyond = spread.saturating_sub(noise).max(1);
        self.row_prior_count = (ONE / beyond).clamp(ROW_PRIOR.0, ROW_PRIOR.1);
        self.level = mean.min(64 * ONE);
    }

    /// What to expect in row `i` of the current column.
    #[inline]
    pub fn expect(&self, i: usize) -> Expected {
        let column = log16(self.decayed + self.center * self.prior_count)
            - log16(self.weight + (self.prior_count << COL_BITS));
        let recent = log16(self.short) - 16 * COL_BITS as i32 - column;
        Expected { log: self.row_log[i] + column, recent }
    }

    /// Takes note of the magnitude in row `i`.
    #[inline]
    pub fn see(&mut self, i: usize, magnitude: u32) {
        let v = magnitude.min(MAGNITUDE_CAP);
        self.magnitude[i] = v;
        let x = ((u64::from(v) * self.row_inverse[i]) >> 16).min(OUTLIER);
        self.total += x;
        self.decayed = self.decayed + x - (self.decayed >> DECAY);
        self.weight = self.weight + ONE - (self.weight >> DECAY);
        self.short = self.short + (x >> SHORT) - (self.short >> SHORT);
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
