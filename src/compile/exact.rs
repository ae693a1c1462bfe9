//! Every tensor exactly as it is.

use rayon::prelude::*;

use super::Pieces;
use crate::artifact::layout::{StreamEntry, codec};
use crate::code::lossless;
use crate::error::Result;
use crate::model::{Dtype, Model};
use crate::nets::Form;
use crate::progress::Progress;

/// One stream for every matrix, and one for all control tensors of a type.
pub(super) fn code(model: &Model, progress: &dyn Progress) -> Result<Pieces> {
    let all = 0..model.stored.len();
    let (mut groups, small): (Vec<Vec<usize>>, Vec<usize>) = {
        let (small, large): (Vec<usize>, Vec<usize>) = all.partition(|i| model.spec(*i).form == Form::Vector);
        (large.into_iter().map(|i| vec![i]).collect(), small)
    };
    for dtype in [Dtype::F32, Dtype::F16, Dtype::Bf16] {
        let group: Vec<usize> = small.iter().copied().filter(|i| model.stored[*i].dtype == dtype).collect();
        if !group.is_empty() {
            groups.push(group);
        }
    }
    progress.begin("coding exactly", model.stored.len() as u64);
    let coded: Vec<(StreamEntry, Vec<u8>)> = groups
        .into_par_iter()
        .map(|group| {
            let dtype = model.stored[group[0]].dtype;
            let tensors: Vec<(&[f32], &[usize])> =
                group.iter().map(|i| (&model.stored[*i].data[..], model.shape(*i))).collect();
            let bytes = lossless::encode_group(&tensors, dtype)?;
            progress.advance(group.len() as u64);
            let entry = StreamEntry {
                codec: codec::LOSSLESS,
                params: Vec::new(),
                tensors: group.iter().map(|i| *i as u32).collect(),
                dtypes: vec![dtype; group.len()],
                len: bytes.len() as u64,
            };
            Ok((entry, bytes))
        })
        .collect::<Result<_>>()?;
    progress.end();
    let (entries, streams) = coded.into_iter().unzip();
    Ok(Pieces { entries, streams, decoded: model.stored.iter().map(|s| s.data.to_vec()).collect() })
}
