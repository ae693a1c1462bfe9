//! What a teacher says of pieces of text, of which many come again.
//!
//! A run goes over its text more than once, and runs that are compared go over the same text. Of a piece that was seen the
//! residual stream after the last step is kept: it is smaller than the predictions, and saves all of the pass but the head. On a
//! GPU, where pieces run together, they are known again in the same company only: as in the candidates of a search.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use candle_core::Tensor;

use super::joined::Joined;
use crate::error::Result;
use crate::eval::logits::predict_from;
use crate::eval::predictions::{Predictions, turn};
use crate::nets::{Net, Params, PlainLayers, State};

/// Bytes of residual streams that are kept; what comes later is computed anew each time.
pub const KEPT: usize = 512 << 20;

/// A network that others are trained towards.
pub struct Teacher<'a> {
    net: &'a dyn Net,
    params: Params,
    /// Bytes that may still be kept, and the residual streams by the tokens of their pieces.
    known: Mutex<(usize, HashMap<Vec<u32>, Tensor>)>,
}

impl<'a> Teacher<'a> {
    pub fn new(net: &'a dyn Net, params: Params) -> Self {
        Teacher { net, params, known: Mutex::new((KEPT, HashMap::new())) }
    }

    pub fn params(&self) -> &Params {
        &self.params
    }

    /// What it predicts for a piece on its own device.
    ///
    /// # Errors
    /// If the forward pass fails.
    pub fn predict(&self, piece: &Joined) -> Result<Predictions<'a>> {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner).1.get(&piece.inputs).cloned();
        let x = match known {
            Some(x) => x,
            None => {
                let _turn = turn(piece.ids.device());
                let x = self.net.run(&self.params, &piece.ids, &PlainLayers)?.x;
                self.keep(&piece.inputs, &x);
                x
            }
        };
        predict_from(self.net, &self.params, self.net.order().len(), State { x, kept: Vec::new() })
    }

    fn keep(&self, inputs: &[u32], x: &Tensor) {
        let (room, known) = &mut *self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let bytes = x.elem_count() * x.dtype().size_in_bytes() + size_of_val(inputs);
        if bytes <= *room && known.insert(inputs.to_vec(), x.clone()).is_none() {
            *room -= bytes;
        }
    }
}

#[cfg(test)]
mod tests {
    use candle_core::D;

    use super::*;
    use crate::eval::windows::Windows;
    use crate::train::joined::join;

    #[test]
    fn what_was_seen_is_said_again() {
        let model = crate::model::bundled();
        let net = model.network().unwrap();
        let teacher = Teacher::new(net, model.params().unwrap());
        let length = net.context();
        let tokens: Vec<u32> = (0..2 * length + 1).map(|i| (i * 37 % net.vocab_size()) as u32).collect();
        let piece = |i: usize| Windows::new(&tokens[i * length..=(i + 1) * length], length, None);
        let pieces = join(&[piece(0), piece(1)], model.device()).unwrap();
        let say = |piece: &Joined| match teacher.predict(piece).unwrap() {
            Predictions::Host { values, .. } => values.into_owned(),
            _ => unreachable!("the bundled model is small and on the CPU"),
        };
        let alone = |piece: &Joined| match piece.predict(net, teacher.params()).unwrap() {
            Predictions::Host { values, .. } => values.into_owned(),
            _ => unreachable!("the bundled model is small and on the CPU"),
        };
        for piece in pieces.iter().chain(&pieces) {
            assert!(say(piece) == alone(piece));
        }
        let known = teacher.known.lock().unwrap();
        assert_eq!(known.1.len(), 2);
        let width = known.1.values().next().unwrap().dim(D::Minus1).unwrap();
        assert_eq!(KEPT - known.0, 2 * length * (4 * width + 4));
    }

    #[test]
    fn no_more_is_kept_than_there_is_room_for() {
        let model = crate::model::bundled();
        let net = model.network().unwrap();
        let mut teacher = Teacher::new(net, model.params().unwrap());
        teacher.known = Mutex::new((100, HashMap::new()));
        let tokens = vec![1; net.context() + 1];
        let piece = join(&[Windows::new(&tokens, net.context(), None)], model.device()).unwrap().remove(0);
        teacher.predict(&piece).unwrap();
        assert!(teacher.known.lock().unwrap().1.is_empty());
    }
}
