//! One stream in training, of any recipe.

use super::freeze::Freezing;
use super::param::ParamRef;
use super::small::Small;
use super::sum::Sum;
use crate::train::adam::Betas;

/// The trainable form of a stream's tensors.
pub enum Trainable {
    /// Exact tensors and zeros: nothing to learn.
    Fixed,
    Vectors(Small),
    /// A matrix.
    Sum(Box<Sum>),
}

/// A stream of the file.
pub struct TrainedStream {
    /// Stored tensors in it, ascending.
    pub tensors: Vec<usize>,
    /// The stored tensor that it starts from; its stream comes earlier.
    pub from: Option<usize>,
    pub trainable: Trainable,
}

impl TrainedStream {
    /// The tensors as they are now, row-major; none where nothing changes. `weights` are those of all stored tensors, earlier
    /// streams already as they are now.
    pub fn weights(&self, weights: &[Vec<f32>]) -> Vec<Vec<f32>> {
        match &self.trainable {
            Trainable::Fixed => Vec::new(),
            Trainable::Vectors(small) => small.coded().1,
            Trainable::Sum(sum) => vec![sum.weights(self.from.map(|from| &weights[from][..]))],
        }
    }

    /// The bytes of the stream once all columns are frozen; `None` where nothing changes.
    pub fn bytes(&self) -> Option<Vec<u8>> {
        match &self.trainable {
            Trainable::Fixed => None,
            Trainable::Vectors(small) => Some(small.coded().0),
            Trainable::Sum(sum) => Some(sum.stream()),
        }
    }

    /// The matrix of this stream that is frozen column by column, if it has one.
    pub fn freezing(&self) -> Option<&Freezing> {
        match &self.trainable {
            Trainable::Sum(sum) => sum.residual.as_ref(),
            Trainable::Fixed | Trainable::Vectors(_) => None,
        }
    }

    /// Freezes columns until `share` of them are, bits at `price` times their usual price.
    pub fn freeze(&mut self, share: f64, price: f32) {
        match &mut self.trainable {
            Trainable::Fixed | Trainable::Vectors(_) => {}
            Trainable::Sum(sum) => sum.residual.iter_mut().for_each(|residual| residual.freeze(share, price)),
        }
    }

    /// The reference whose changes the residual compensates: the tensor that this stream is predicted from.
    pub fn compensates_for(&self) -> Option<usize> {
        match &self.trainable {
            Trainable::Sum(sum) if sum.residual.is_some() => self.from,
            _ => None,
        }
    }

    /// Lets the residual compensate for a `change` of the tensor that this stream is predicted from.
    pub fn compensate(&mut self, mut change: Vec<f32>) {
        let Trainable::Sum(sum) = &mut self.trainable else { return };
        let gain = sum.gain();
        if let Some(residual) = &mut sum.residual {
            change.iter_mut().for_each(|v| *v *= gain);
            residual.compensate(&change);
        }
    }

    /// Moves what is learned against the gradients of the stream's tensors, at one rate for weights and one for all else.
    pub fn learn(&mut self, gradients: &[Vec<f32>], rates: [f32; 2], betas: Betas) {
        let own: Vec<&[f32]> = self.tensors.iter().map(|t| &gradients[*t][..]).collect();
        match &mut self.trainable {
            Trainable::Fixed => {}
            Trainable::Vectors(small) => small.learn(&own, rates[1], betas),
            Trainable::Sum(sum) => sum.learn(own[0], rates, betas),
        }
    }

    /// Hands the gradient of a sum without a residual on to the tensor that it starts from; a residual answers for itself.
    pub fn hand_on(&self, gradients: &mut [Vec<f32>]) {
        let (Trainable::Sum(sum), Some(from), None) = (&self.trainable, self.from, self.compensates_for()) else {
            return;
        };
        let own = std::mem::take(&mut gradients[self.tensors[0]]);
        gradients[from].iter_mut().zip(&own).for_each(|(g, own)| *g += sum.gain() * own);
        gradients[self.tensors[0]] = own;
    }

    /// The parameters that training changes, in a fixed order.
    pub fn params(&mut self) -> Vec<ParamRef<'_>> {
        match &mut self.trainable {
            Trainable::Fixed => Vec::new(),
            Trainable::Vectors(small) => small.params(),
            Trainable::Sum(sum) => sum.params(),
        }
    }

    /// Whether what was read into the parameters belongs together.
    pub fn is_sound(&self) -> bool {
        match &self.trainable {
            Trainable::Fixed => true,
            Trainable::Vectors(small) => small.is_sound(),
            Trainable::Sum(sum) => sum.is_sound(),
        }
    }
}
