//! Pieces of text that run as one: a piece alone would not keep a GPU busy.

use candle_core::{D, Device, Tensor};

use crate::error::Result;
use crate::eval::logits::{composed_log_softmax, tokens_of};
use crate::eval::windows::Windows;
use crate::nets::{Net, Params, Plain};

/// Tokens of one pass.
const TOKENS: usize = 16_384;

/// The rows of some pieces.
pub struct Joined {
    /// (rows, T) on the device.
    ids: Tensor,
    pub targets: Vec<u16>,
}

impl Joined {
    /// Logits (positions, V).
    ///
    /// # Errors
    /// If the forward pass fails.
    pub fn logits(&self, net: &dyn Net, params: &Params) -> Result<Tensor> {
        Ok(net.logits(params, &self.ids, &Plain)?.flatten_to(D::Minus2)?)
    }

    /// Log-probabilities (positions, V), in f32.
    ///
    /// # Errors
    /// If the forward pass fails.
    pub fn log_probabilities(&self, net: &dyn Net, params: &Params) -> Result<Tensor> {
        Ok(composed_log_softmax(&self.logits(net, params)?)?)
    }
}

/// All of `pieces`, which have rows of one length, in order.
///
/// # Errors
/// If they cannot be copied to the device.
pub fn join(pieces: &[Windows], device: &Device) -> Result<Vec<Joined>> {
    let most = pieces.first().map_or(1, |piece| (TOKENS / piece.tokens().max(1)).max(1));
    let one = |pieces: &[Windows]| {
        let rows = || pieces.iter().flat_map(|piece| (0..piece.rows()).map(move |r| (piece.input(r), piece.target(r))));
        let ids = tokens_of(rows().map(|(input, _)| input), pieces[0].length(), device)?;
        Ok(Joined { ids, targets: rows().flat_map(|(_, target)| target).copied().collect() })
    };
    pieces.chunks(most).map(one).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_row_once_in_order() {
        let tokens: Vec<u16> = (0..20_001).map(|i| (i % 1000) as u16).collect();
        let pieces: Vec<Windows> =
            (0..5).map(|i| Windows::new(&tokens[i * 4000..=(i + 1) * 4000], 100, None)).collect();
        let joined = join(&pieces, &Device::Cpu).unwrap();
        assert_eq!(joined.iter().map(|j| j.targets.len()).collect::<Vec<_>>(), [16_000, 4_000]);
        assert_eq!(joined.iter().flat_map(|j| j.targets.clone()).collect::<Vec<_>>(), &tokens[1..]);
        let ids = joined.iter().flat_map(|j| j.ids.flatten_all().unwrap().to_vec1::<u32>().unwrap());
        assert_eq!(ids.map(|id| id as u16).collect::<Vec<_>>(), &tokens[..20_000]);
        assert!(join(&[], &Device::Cpu).unwrap().is_empty());
    }
}
