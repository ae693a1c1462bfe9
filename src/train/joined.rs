//! Pieces of text that run as one: on a GPU, which a piece alone would not keep busy.

use candle_core::{Device, Tensor};

use crate::error::Result;
use crate::eval::logits::{device_rows, tokens_of};
use crate::eval::predictions::{Predictions, turn};
use crate::eval::windows::Windows;
use crate::nets::{Net, Params, PlainLayers};

/// The rows of some pieces.
pub struct Joined {
    /// (rows, T) on the device.
    pub ids: Tensor,
    /// The tokens of `ids`.
    pub inputs: Vec<u32>,
    pub targets: Vec<u32>,
}

impl Joined {
    /// What a network predicts.
    ///
    /// # Errors
    /// If the forward pass fails.
    pub fn predict<'n>(&self, net: &'n dyn Net, params: &Params) -> Result<Predictions<'n>> {
        let _turn = turn(self.ids.device());
        Predictions::of_state(net, params, net.run(params, &self.ids, &PlainLayers)?)
    }
}

/// All of `pieces`, which have rows of one length, in order; one by one on the CPU.
///
/// # Errors
/// If they cannot be copied to the device.
pub fn join(pieces: &[Windows], device: &Device) -> Result<Vec<Joined>> {
    let most = match pieces.first() {
        Some(piece) if !device.is_cpu() => (device_rows(piece.length()) / piece.rows().max(1)).max(1),
        _ => 1,
    };
    let one = |pieces: &[Windows]| {
        let rows = || pieces.iter().flat_map(|piece| (0..piece.rows()).map(move |r| (piece.input(r), piece.target(r))));
        let ids = tokens_of(rows().map(|(input, _)| input), pieces[0].length(), device)?;
        let inputs = rows().flat_map(|(input, _)| input).copied().collect();
        Ok(Joined { ids, inputs, targets: rows().flat_map(|(_, target)| target).copied().collect() })
    };
    pieces.chunks(most).map(one).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_row_once_in_order() {
        let tokens: Vec<u32> = (0..20_001).map(|i| (i % 1000) as u32).collect();
        let pieces: Vec<Windows> =
            (0..5).map(|i| Windows::new(&tokens[i * 4000..=(i + 1) * 4000], 100, None)).collect();
        let joined = join(&pieces, &Device::Cpu).unwrap();
        assert_eq!(joined.iter().map(|j| j.targets.len()).collect::<Vec<_>>(), [4_000; 5]);
        assert_eq!(joined.iter().flat_map(|j| j.targets.clone()).collect::<Vec<_>>(), &tokens[1..]);
        let ids = joined.iter().flat_map(|j| j.ids.flatten_all().unwrap().to_vec1::<u32>().unwrap());
        assert_eq!(ids.collect::<Vec<_>>(), &tokens[..20_000]);
        assert_eq!(joined.iter().flat_map(|j| j.inputs.clone()).collect::<Vec<_>>(), &tokens[..20_000]);
        assert!(join(&[], &Device::Cpu).unwrap().is_empty());
    }
}
