//! Binary logarithm in integers.

/// round(64 * log2(1 + m / 256)) / 4, rounded to nearest.
const FRACTION: [u8; 256] = {
    let mut table = [0u8; 256];
    let mut m = 0;
    while m < 256 {
        // One bit of the logarithm per squaring (30 fractional bits).
        let mut x = (256 + m as u64) << 22;
        let (mut bits, mut k) = (0u32, 0);
        while k < 6 {
            x = (x * x) >> 30;
            bits <<= 1;
            if x >= 2 << 30 {
                x >>= 1;
                bits |= 1;
            }
            k += 1;
        }
        table[m] = ((bits + 2) / 4) as u8;
        m += 1;
    }
    table
};

/// log2(x) in units of 1/16, rounded; 0 for x = 0.
#[inline]
pub fn log16(x: u64) -> i32 {
    let x = x.max(1);
    let octave = x.ilog2();
    let mantissa = if octave >= 8 { x >> (octave - 8) } else { x << (8 - octave) } & 255;
    octave as i32 * 16 + i32::from(FRACTION[mantissa as usize])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn within_a_step_of_the_real_one() {
        for x in (1..5000).chain((0..60).map(|k| (1u64 << k) + 12_345)) {
            assert!((f64::from(log16(x)) - 16.0 * (x as f64).log2()).abs() < 0.65, "{x}");
        }
    }
}
