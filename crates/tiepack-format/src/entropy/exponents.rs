//! Codes the scale exponents of a matrix's rows and columns: small integers, many of them alike.

use super::ensemble::{Counter, Mixer, stretch};
use super::range::{BitIo, Decoder, Encoder};
use crate::grid::step_sizes::SCALE_LIMIT as LIMIT;

/// Bits of a shifted exponent.
const BITS: u32 = 6;

/// Two opinions on every bit of the binary form: one that knows only the bits before it, one that also knows the
/// exponent before this one.
struct Model {
    alone: Vec<Counter>,
    after: Vec<Counter>,
    mixer: Mixer<2>,
}

impl Model {
    fn new() -> Self {
        let nodes = 1 << BITS;
        Model {
            alone: vec![Counter::NEW; nodes],
            after: vec![Counter::NEW; nodes * nodes],
            mixer: Mixer::new(nodes, [3 << 14, 1 << 14]),
        }
    }

    fn code(&mut self, io: &mut impl BitIo, values: &mut [i16]) {
        let mut before = LIMIT as usize;
        for value in values {
            let shifted = (*value + LIMIT) as usize;
            let mut node = 1usize;
            for b in (0..BITS).rev() {
                let context = before << BITS | node;
                let opinions = [stretch(self.alone[node].p()), stretch(self.after[context].p())];
                let p = self.mixer.mix(node, &opinions).clamp(32, 65_504);
                let bit = io.bit(p, shifted >> b & 1 == 1);
                self.mixer.update(node, &opinions, bit, p);
                self.alone[node].update(bit);
                self.after[context].update(bit);
                node = node << 1 | usize::from(bit);
            }
            before = node & ((1 << BITS) - 1);
            *value = before as i16 - LIMIT;
        }
    }
}

/// Writes lists of exponents, each list with statistics of its own.
///
/// # Panics
/// If an exponent lies outside ±[`LIMIT`].
pub fn encode(lists: &[&[i16]]) -> Vec<u8> {
    let mut io = Encoder::new();
    for list in lists {
        assert!(list.iter().all(|v| v.abs() <= LIMIT), "scale exponent out of range");
        Model::new().code(&mut io, &mut list.to_vec());
    }
    io.finish()
}

/// Reads lists of these lengths, or `None` if the bytes are not what [`encode`] writes.
pub fn decode(bytes: &[u8], lengths: &[usize]) -> Option<Vec<Vec<i16>>> {
    let mut io = Decoder::new(bytes);
    let lists: Vec<Vec<i16>> = lengths
        .iter()
        .map(|n| {
            let mut values = vec![0; *n];
            Model::new().code(&mut io, &mut values);
            values
        })
        .collect();
    let sane = lists.iter().flatten().all(|v| v.abs() <= LIMIT);
    (sane && !io.damaged()).then_some(lists)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn round_trip(a in prop::collection::vec(-LIMIT..=LIMIT, 0..300), b in prop::collection::vec(-LIMIT..=LIMIT, 0..9)) {
            let back = decode(&encode(&[&a, &b]), &[a.len(), b.len()]).unwrap();
            prop_assert_eq!(back, vec![a, b]);
        }

        #[test]
        fn any_bytes_are_survived(bytes in prop::collection::vec(any::<u8>(), 0..100)) {
            let _ = decode(&bytes, &[40, 3]);
        }
    }
}
