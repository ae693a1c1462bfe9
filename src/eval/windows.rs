//! Cutting a token stream into the challenge's evaluation rows: disjoint windows of the training length.

/// Tokens as digests read them: two bytes each, little-endian, where all ids have no more, otherwise four and a byte at the end,
/// so that no two texts have the same.
pub fn token_bytes(tokens: &[u32]) -> Vec<u8> {
    let narrow = tokens.iter().all(|token| *token <= u32::from(u16::MAX));
    let bytes = tokens.iter().flat_map(|token| token.to_le_bytes().into_iter().take(if narrow { 2 } else { 4 }));
    bytes.chain((!narrow).then_some(0)).collect()
}

/// Non-overlapping (input, target) rows of `length` tokens; the last partial one is dropped.
#[derive(Clone, Copy)]
pub struct Windows<'a> {
    tokens: &'a [u32],
    length: usize,
    rows: usize,
}

impl<'a> Windows<'a> {
    /// At most `limit` rows, from the start.
    pub fn new(tokens: &'a [u32], length: usize, limit: Option<usize>) -> Self {
        let all = tokens.len().saturating_sub(1) / length;
        Windows { tokens, length, rows: limit.map_or(all, |n| n.min(all)) }
    }

    pub fn rows(&self) -> usize {
        self.rows
    }

    pub fn length(&self) -> usize {
        self.length
    }

    /// Number of predicted tokens.
    pub fn tokens(&self) -> usize {
        self.rows * self.length
    }

    /// Inputs of row `i`.
    pub fn input(&self, i: usize) -> &'a [u32] {
        &self.tokens[i * self.length..(i + 1) * self.length]
    }

    /// Targets of row `i`: the inputs shifted by one.
    pub fn target(&self, i: usize) -> &'a [u32] {
        &self.tokens[i * self.length + 1..(i + 1) * self.length + 1]
    }

    /// Every predicted token and the one before it, as (previous, target), in order.
    pub fn pairs(&self) -> impl Iterator<Item = (u32, u32)> + 'a {
        let used = if self.rows == 0 { &[] } else { &self.tokens[..self.tokens() + 1] };
        used.windows(2).map(|w| (w[0], w[1]))
    }

    /// Row ranges of at most `size` rows, covering all of them.
    pub fn batches(&self, size: usize) -> Vec<std::ops::Range<usize>> {
        (0..self.rows).step_by(size).map(|start| start..(start + size).min(self.rows)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_partial_row_is_dropped() {
        let tokens: Vec<u32> = (0..12).collect();
        let w = Windows::new(&tokens, 4, None);
        assert_eq!((w.rows(), w.tokens()), (2, 8));
        assert_eq!(w.input(1), &[4, 5, 6, 7]);
        assert_eq!(w.target(1), &[5, 6, 7, 8]);
        assert_eq!(w.pairs().last(), Some((7, 8)));
        assert_eq!(w.batches(2), vec![0..2]);
        assert_eq!(Windows::new(&tokens, 4, Some(1)).rows(), 1);
        assert_eq!(Windows::new(&tokens[..1], 4, None).rows(), 0);
        // Thirteen tokens hold three full rows: the last target is token 12.
        let tokens: Vec<u32> = (0..13).collect();
        assert_eq!(Windows::new(&tokens, 4, None).rows(), 3);
    }
}
