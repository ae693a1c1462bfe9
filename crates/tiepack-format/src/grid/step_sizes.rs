//! Step sizes of a matrix: the distance of grid points for every weight, from one base and scales by row and column.

/// Scales are quarter octaves; the base step is in 64ths, so that one table serves both.
pub const FINE: i32 = 64;
const QUARTERS: i32 = FINE / 4;

/// 2^(k/64), rounded to f32.
#[rustfmt::skip]
#[allow(clippy::approx_constant)] // one of them is √2
const ROOTS: [f32; FINE as usize] = [
    1.0, 1.010_889_3, 1.021_897_2, 1.033_024_9, 1.044_273_7, 1.055_645_2, 1.067_140_5, 1.078_760_7, 1.090_507_7,
    1.102_382_5, 1.114_386_8, 1.126_521_6, 1.138_788_6, 1.151_189_2, 1.163_724_9, 1.176_397, 1.189_207_1,
    1.202_156_8, 1.215_247_4, 1.228_480_6, 1.241_857_8, 1.255_380_7, 1.269_051, 1.282_87, 1.296_839_6, 1.310_961_2,
    1.325_236_7, 1.339_667_6, 1.354_255_6, 1.369_002_5, 1.383_91, 1.398_979_7, 1.414_213_5, 1.429_613_4, 1.445_180_8,
    1.460_917_8, 1.476_826_2, 1.492_907_8, 1.509_164_5, 1.525_598_2, 1.542_210_8, 1.559_004_4, 1.575_980_9,
    1.593_142_2, 1.610_490_3, 1.628_027_4, 1.645_755_5, 1.663_676_6, 1.681_792_9, 1.700_106_4, 1.718_619_3,
    1.737_333_9, 1.756_252_2, 1.775_376_4, 1.794_709_1, 1.814_252_1, 1.834_008_1, 1.853_979_1, 1.874_167_7,
    1.894_576, 1.915_206_6, 1.936_061_7, 1.957_144_1, 1.978_456,
];

/// Exponents of base steps that f32 can hold with room for the scales on both sides.
pub const BASE_LIMIT: i16 = 100 * FINE as i16;

/// Scales lie in −SCALE_LIMIT..=SCALE_LIMIT quarter octaves: 1/16 to 16.
pub const SCALE_LIMIT: i16 = 16;

/// The grid of one matrix: the step of weight (i, j) is 2^(base/64 + (row\[i\] + column\[j\])/4).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StepSizes {
    /// 64ths of an octave, within ±[`BASE_LIMIT`].
    pub base: i16,
    /// Quarter octaves, within ±[`SCALE_LIMIT`].
    pub rows: Vec<i16>,
    pub cols: Vec<i16>,
}

/// 2^(n/64) in f32: a table value times a power of two, so the same on every machine. Zero or infinite far out.
#[inline]
pub fn power(n: i32) -> f32 {
    let octave = n.div_euclid(FINE);
    let scale = match octave {
        -126..=127 => f32::from_bits(((octave + 127) as u32) << 23),
        i32::MIN..=-127 => 0.0,
        _ => f32::INFINITY,
    };
    ROOTS[n.rem_euclid(FINE) as usize] * scale
}

impl StepSizes {
    /// Step of weight (i, j).
    #[inline]
    pub fn at(&self, i: usize, j: usize) -> f32 {
        power(i32::from(self.base) + QUARTERS * (i32::from(self.rows[i]) + i32::from(self.cols[j])))
    }

    /// Row factors times column factors give the steps up to rounding: what the search computes with.
    pub fn factors(&self) -> (Vec<f32>, Vec<f32>) {
        let base = i32::from(self.base);
        let rows = self.rows.iter().map(|r| power(base + QUARTERS * i32::from(*r))).collect();
        let cols = self.cols.iter().map(|c| power(QUARTERS * i32::from(*c))).collect();
        (rows, cols)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn powers_are_correctly_rounded_in_the_table() {
        for k in 0..FINE {
            assert_eq!(power(k), (f64::from(k) / 64.0).exp2() as f32, "2^({k}/64)");
        }
        assert_eq!(power(-2 * FINE), 0.25);
        assert_eq!(power(-127 * FINE), 0.0);
        assert_eq!(power(128 * FINE), f32::INFINITY);
    }
}
