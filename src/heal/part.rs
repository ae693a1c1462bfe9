//! One stream in training, whatever it is made of.

use super::binding::Binding;
use super::slot::Slot;
use super::small::Small;
use super::sum::Sum;
use crate::train::adam::Betas;

/// What a stream's tensors are in training.
pub enum Part {
    /// Exact tensors and zeros: nothing to learn.
    Fixed,
    Vectors(Small),
    /// A matrix.
    Sum(Box<Sum>),
}

/// A stream of the file.
pub struct Stream {
    /// Stored tensors in it, ascending.
    pub tensors: Vec<usize>,
    /// The stored tensor that it starts from; its stream comes earlier.
    pub from: Option<usize>,
    pub part: Part,
}

impl Stream {
    /// The tensors as they are now, row-major; none where nothing changes. `weights` are those of all stored tensors, earlier
    /// streams already as they are now.
    pub fn weights(&self, weights: &[Vec<f32>]) -> Vec<Vec<f32>> {
        match &self.part {
            Part::Fixed => Vec::new(),
            Part::Vectors(small) => small.coded().1,
            Part::Sum(sum) => vec![sum.weights(self.from.map(|from| &weights[from][..]))],
        }
    }

    /// The bytes of the stream once all columns are bound; `None` where nothing changes.
    pub fn bytes(&self) -> Option<Vec<u8>> {
        match &self.part {
            Part::Fixed => None,
            Part::Vectors(small) => Some(small.coded().0),
            Part::Sum(sum) => Some(sum.stream()),
        }
    }

    /// What is bound column by column.
    pub fn binding(&self) -> Option<&Binding> {
        match &self.part {
            Part::Sum(sum) => sum.residual.as_ref(),
            Part::Fixed | Part::Vectors(_) => None,
        }
    }

    /// Binds columns until `share` of them are, bits at `price` times their usual price.
    pub fn bind(&mut self, share: f64, price: f32) {
        match &mut self.part {
            Part::Fixed | Part::Vectors(_) => {}
            Part::Sum(sum) => sum.residual.iter_mut().for_each(|residual| residual.bind(share, price)),
        }
    }

    /// The tensor whose changes a residual takes back: the one that it starts from.
    pub fn gives_way_to(&self) -> Option<usize> {
        match &self.part {
            Part::Sum(sum) if sum.residual.is_some() => self.from,
            _ => None,
        }
    }

    /// The tensor that this starts from has changed by `change`: a residual takes that back.
    pub fn give_way(&mut self, mut change: Vec<f32>) {
        let Part::Sum(sum) = &mut self.part else { return };
        let gain = sum.gain();
        if let Some(residual) = &mut sum.residual {
            change.iter_mut().for_each(|v| *v *= gain);
            residual.give_way(&change);
        }
    }

    /// Moves what is learned against the gradients of the stream's tensors, at one rate for weights and one for all else.
    pub fn learn(&mut self, gradients: &[Vec<f32>], rates: [f32; 2], betas: Betas) {
        let own: Vec<&[f32]> = self.tensors.iter().map(|t| &gradients[*t][..]).collect();
        match &mut self.part {
            Part::Fixed => {}
            Part::Vectors(small) => small.learn(&own, rates[1], betas),
            Part::Sum(sum) => sum.learn(own[0], rates, betas),
        }
    }

    /// Hands the gradient of a sum without a residual on to the tensor that it starts from; a residual answers for itself.
    pub fn hand_on(&self, gradients: &mut [Vec<f32>]) {
        let (Part::Sum(sum), Some(from), None) = (&self.part, self.from, self.gives_way_to()) else { return };
        let own = std::mem::take(&mut gradients[self.tensors[0]]);
        gradients[from].iter_mut().zip(&own).for_each(|(g, own)| *g += sum.gain() * own);
        gradients[self.tensors[0]] = own;
    }

    /// What training changes, in a fixed order.
    pub fn slots(&mut self) -> Vec<Slot<'_>> {
        match &mut self.part {
            Part::Fixed => Vec::new(),
            Part::Vectors(small) => small.slots(),
            Part::Sum(sum) => sum.slots(),
        }
    }

    /// Whether what was read into the slots belongs together.
    pub fn is_sound(&self) -> bool {
        match &self.part {
            Part::Fixed => true,
            Part::Vectors(small) => small.is_sound(),
            Part::Sum(sum) => sum.is_sound(),
        }
    }
}
