//! One stream in training, whatever it is made of.

use super::lattice::Lattice;
use super::small::Small;
use super::state::Moments;
use super::sum::Sum;
use crate::train::adam::Betas;

/// What a stream's tensors are in training.
pub enum Part {
    /// Exact tensors and zeros: nothing to learn.
    Fixed,
    Matrix(Box<Lattice>),
    Vectors(Small),
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

/// What a stream is at one moment.
pub struct Moment {
    /// Of every tensor in it, row-major; empty where nothing changes.
    pub weights: Vec<Vec<f32>>,
    content: Content,
}

enum Content {
    Fixed,
    Indices(Vec<i32>),
    Bytes(Vec<u8>),
    Sum(super::sum::Content),
}

impl Stream {
    /// The tensors as they would be decoded now, bits at `price` times their usual price. `weights` are those of all stored
    /// tensors, earlier streams already as they are now.
    pub fn moment(&self, price: f32, weights: &[Vec<f32>]) -> Moment {
        let (weights, content) = match &self.part {
            Part::Fixed => (Vec::new(), Content::Fixed),
            Part::Matrix(lattice) => {
                let indices = lattice.indices(price);
                (vec![lattice.weights(&indices)], Content::Indices(indices))
            }
            Part::Vectors(small) => {
                let (bytes, tensors) = small.coded();
                (tensors, Content::Bytes(bytes))
            }
            Part::Sum(sum) => {
                let (weights, content) = sum.now(price, self.from.map(|from| &weights[from][..]));
                (vec![weights], Content::Sum(content))
            }
        };
        Moment { weights, content }
    }

    /// The bytes of the stream at a moment; `None` where nothing changes.
    pub fn bytes(&self, moment: &Moment) -> Option<Vec<u8>> {
        match (&self.part, &moment.content) {
            (Part::Matrix(lattice), Content::Indices(indices)) => Some(lattice.stream(indices)),
            (Part::Sum(sum), Content::Sum(content)) => Some(sum.stream(content)),
            (_, Content::Bytes(bytes)) => Some(bytes.clone()),
            _ => None,
        }
    }

    /// From now on bits cost what they cost where the indices of this moment stand.
    pub fn reprice(&mut self, moment: &Moment) {
        match (&mut self.part, &moment.content) {
            (Part::Matrix(lattice), Content::Indices(indices)) => lattice.reprice(indices),
            (Part::Sum(sum), Content::Sum(content)) => sum.reprice(content),
            _ => {}
        }
    }

    /// Moves what is learned against the gradients of the stream's tensors.
    pub fn learn(&mut self, gradients: &[Vec<f32>], rate: f32, betas: Betas) {
        let own: Vec<&[f32]> = self.tensors.iter().map(|t| &gradients[*t][..]).collect();
        match &mut self.part {
            Part::Fixed => {}
            Part::Matrix(lattice) => lattice.learn(own[0], rate, betas),
            Part::Vectors(small) => small.learn(&own, rate, betas),
            Part::Sum(sum) => sum.learn(own[0], rate, betas),
        }
    }

    /// Hands the gradient of a sum on to the tensor that it starts from.
    pub fn hand_on(&self, gradients: &mut [Vec<f32>]) {
        let (Part::Sum(sum), Some(from)) = (&self.part, self.from) else { return };
        let own = std::mem::take(&mut gradients[self.tensors[0]]);
        gradients[from].iter_mut().zip(&own).for_each(|(g, own)| *g += sum.gain() * own);
        gradients[self.tensors[0]] = own;
    }

    /// What training changes, in a fixed order.
    pub fn moments(&mut self) -> Vec<Moments<'_>> {
        match &mut self.part {
            Part::Fixed => Vec::new(),
            Part::Matrix(lattice) => vec![lattice.moments()],
            Part::Vectors(small) => small.moments().collect(),
            Part::Sum(sum) => sum.moments(),
        }
    }
}
