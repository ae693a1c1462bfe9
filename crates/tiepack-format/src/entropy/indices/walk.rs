//! The one walk over all indices of a matrix, for both directions.

use super::layout::Layout;
use super::model::{Model, Position};
use super::scales::{Expected, Scales};
use crate::entropy::range::BitIo;

/// 2^(k/8) in units of 2^-16.
const EIGHTHS: [u64; 8] = [65_536, 71_468, 77_936, 84_990, 92_682, 101_070, 110_218, 120_194];

/// Codes or decodes all indices; `see` hears what is expected at each place. `None`: the decoder met nonsense.
pub(super) fn walk<B: BitIo>(
    io: &mut B,
    layout: &Layout,
    level: u8,
    q: &mut [i32],
    mut see: impl FnMut(usize, Expected),
) -> Option<Model> {
    let level = (0..8).fold(0, |l, k| (l << 1) | usize::from(io.even_bit((level >> (7 - k)) & 1 == 1)));
    let level = (EIGHTHS[level % 8] << (level / 8)) >> 16;
    let trellis = layout.trellis;
    let mut model = Model::new(trellis);
    let mut scales = Scales::new(layout.row_exp, layout.col_exp, level);
    for j in layout.order() {
        scales.begin_column(j);
        let mut state = 0;
        for (i, q) in q[j * layout.rows..(j + 1) * layout.rows].iter_mut().enumerate() {
            let expected = scales.expect(i);
            see(j * layout.rows + i, expected);
            let z = trellis.grid[state];
            let position = Position::new(expected, usize::from(z), state, trellis.states);
            let magnitude_index = model.magnitude_index(io, &position, trellis.magnitude_index(z, *q), true)?;
            let magnitude = trellis.magnitude(z, magnitude_index);
            let negative = magnitude > 0 && model.sign(io, scales.lean(), magnitude, trellis.value(z, *q) < 0);
            *q = trellis.index(z, magnitude_index, negative);
            scales.see(i, magnitude, negative);
            state = usize::from(trellis.next[state][(*q & 1) as usize]);
        }
        scales.end_column();
    }
    Some(model)
}
