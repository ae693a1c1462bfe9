//! The network in training: weights, what optimisers know of them, and which layers are tied.

use std::sync::Arc;

use candle_core::Device;
use rayon::prelude::*;
use tiepack::error::Result;
use tiepack::ingest::{Config, Dtype};
use tiepack::model::Model;
use tiepack::nets::{Form, Net, TensorSpec};
use tiepack::train::adam::{Adam, Betas};
use tiepack::train::muon::Muon;

use super::args::{Args, Optimizer};

const BETAS: Betas = Betas { first: 0.9, second: 0.95 };
const MOMENTUM: f32 = 0.95;

/// The optimiser's state of a tensor.
#[derive(Clone)]
pub enum Memory {
    Muon(Muon),
    Adam(Adam),
}

/// A tensor of the network. That of a tied layer sleeps until the layer is independent again.
#[derive(Clone)]
pub struct Tensor {
    pub values: Vec<f32>,
    pub memory: Memory,
    rate: f32,
    decay: f32,
}

pub struct Student {
    config: Config,
    net: Arc<dyn Net>,
    device: Device,
    pub specs: Vec<TensorSpec>,
    /// By spec.
    pub tensors: Vec<Tensor>,
    /// For every layer the one whose matrices it uses, never a later one.
    pub copies: Vec<usize>,
    /// Who shares what; its weights are not the present ones.
    pub model: Model,
    /// By stored tensor of `model`: the spec that owns it.
    pub owners: Vec<usize>,
}

impl Student {
    /// # Errors
    /// If the tensors do not fit the network.
    pub fn new(
        config: Config,
        net: Arc<dyn Net>,
        values: Vec<Vec<f32>>,
        args: &Args,
        device: Device,
    ) -> Result<Student> {
        let specs = net.tensors();
        let tensor = |(spec, values): (&TensorSpec, Vec<f32>)| {
            let muon = args.optimizer == Optimizer::Muon;
            let (matrix, embedding) = if muon { (0.04, 0.03) } else { (0.003, 0.003) };
            let (rate, decay) = match spec.form {
                Form::Matrix => (args.matrix_rate.unwrap_or(matrix), args.decay),
                Form::Embedding => (args.embedding_rate.unwrap_or(embedding), if muon { 0.0 } else { args.decay }),
                Form::Vector => (args.vector_rate, 0.0),
            };
            let memory = match (spec.form, &spec.shape[..]) {
                (Form::Matrix, &[rows, cols]) if muon => Memory::Muon(Muon::new(rows, cols)),
                _ => Memory::Adam(Adam::new(values.len())),
            };
            Tensor { values, memory, rate, decay }
        };
        let tensors: Vec<Tensor> = specs.iter().zip(values).map(tensor).collect();
        let copies: Vec<usize> = (0..net.layers()).collect();
        let (model, owners) = share(&config, &net, &specs, &tensors, &copies, |_| Dtype::F32)?;
        Ok(Student { model: model.on(&device), config, net, device, specs, tensors, copies, owners })
    }

    /// The present weights, by stored tensor.
    pub fn weights(&self) -> Vec<Vec<f32>> {
        self.owners.iter().map(|spec| self.tensors[*spec].values.clone()).collect()
    }

    /// One step of every tensor in use against its gradient, at a share of its full rate.
    pub fn learn(&mut self, gradients: &[Vec<f32>], share: f32) {
        let mut of_spec: Vec<Option<&Vec<f32>>> = vec![None; self.specs.len()];
        self.owners.iter().zip(gradients).for_each(|(spec, gradient)| of_spec[*spec] = Some(gradient));
        self.tensors.par_iter_mut().zip(of_spec).for_each(|(tensor, gradient)| {
            let (Some(gradient), rate) = (gradient, tensor.rate * share) else { return };
            if tensor.decay > 0.0 {
                let kept = 1.0 - rate * tensor.decay;
                tensor.values.iter_mut().for_each(|x| *x *= kept);
            }
            match &mut tensor.memory {
                Memory::Muon(muon) => muon.step(&mut tensor.values, gradient, rate, MOMENTUM),
                Memory::Adam(adam) => adam.step(&mut tensor.values, gradient, rate, BETAS),
            }
        });
    }

    /// Ties layers anew. A layer that becomes independent goes on from the weights it was using, and from what the optimiser
    /// knew of them: momentum points where the shared matrix was going, and the layer was part of that.
    ///
    /// # Errors
    /// If a tensor cannot be made.
    pub fn retie(&mut self, copies: Vec<usize>) -> Result<()> {
        for (spec, was, now) in self.moved(&copies) {
            if now == spec && was != spec {
                self.tensors[spec] = self.tensors[was].clone();
            }
        }
        self.set_copies(copies)
    }

    /// Ties layers as they were, nothing copied.
    ///
    /// # Errors
    /// If a tensor cannot be made.
    pub fn set_copies(&mut self, copies: Vec<usize>) -> Result<()> {
        self.copies = copies;
        let shared = share(&self.config, &self.net, &self.specs, &self.tensors, &self.copies, |_| Dtype::F32)?;
        (self.model, self.owners) = (shared.0.on(&self.device), shared.1);
        Ok(())
    }

    /// Every tensor with its owner at present and under `copies`.
    fn moved(&self, copies: &[usize]) -> Vec<(usize, usize, usize)> {
        let (was, now) = (owners_of(&*self.net, &self.specs, &self.copies), owners_of(&*self.net, &self.specs, copies));
        was.into_iter().zip(now).enumerate().map(|(spec, (was, now))| (spec, was, now)).collect()
    }

    /// The model as it is written: matrices and embeddings rounded to bf16, control tensors in f32.
    ///
    /// # Errors
    /// If a tensor cannot be made.
    pub fn written(&self) -> Result<Model> {
        let mut tensors = self.tensors.clone();
        let dtype = |spec: usize| if self.specs[spec].form == Form::Vector { Dtype::F32 } else { Dtype::Bf16 };
        for (spec, tensor) in tensors.iter_mut().enumerate().filter(|(spec, _)| dtype(*spec) == Dtype::Bf16) {
            debug_assert!(self.specs[spec].form != Form::Vector);
            tensor.values.iter_mut().for_each(|x| *x = half::bf16::from_f32(*x).to_f32());
        }
        Ok(share(&self.config, &self.net, &self.specs, &tensors, &self.copies, dtype)?.0.on(&self.device))
    }
}

/// For every tensor the one that its layer uses.
fn owners_of(net: &dyn Net, specs: &[TensorSpec], copies: &[usize]) -> Vec<usize> {
    let owner = |(at, spec): (usize, &TensorSpec)| match spec.layer {
        Some(layer) if copies[layer] != layer && net.tied_roles().contains(&spec.role.as_str()) => {
            let of_source = |other: &TensorSpec| other.role == spec.role && other.layer == Some(copies[layer]);
            specs.iter().position(of_source).unwrap_or(at)
        }
        _ => at,
    };
    specs.iter().enumerate().map(owner).collect()
}

/// The library's view of tied tensors, and the spec that owns each stored one.
fn share(
    config: &Config,
    net: &Arc<dyn Net>,
    specs: &[TensorSpec],
    tensors: &[Tensor],
    copies: &[usize],
    dtype: impl Fn(usize) -> Dtype,
) -> Result<(Model, Vec<usize>)> {
    let mut owners: Vec<usize> = Vec::new();
    let mut source = Vec::with_capacity(specs.len());
    for owner in owners_of(&**net, specs, copies) {
        let part = owners.iter().position(|known| *known == owner).unwrap_or(owners.len());
        if part == owners.len() {
            owners.push(owner);
        }
        source.push(part);
    }
    let parts = owners.iter().map(|spec| (dtype(*spec), Arc::new(tensors[*spec].values.clone()))).collect();
    Ok((Model::from_parts(config.clone(), net.clone(), parts, source)?, owners))
}
