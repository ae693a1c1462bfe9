//! Which tensors a model has: as a registered network says, or as their names and shapes do.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::error::{Error, Result};
use crate::ingest::RawTensor;
use crate::nets::names::{describe, form_of, natural_order};
use crate::nets::{Form, Net, TensorSpec};

/// The tensors of a model before there are any weights.
#[derive(Clone)]
pub struct Structure {
    /// Every tensor in canonical order.
    pub specs: Vec<TensorSpec>,
    /// Layers that a tie map speaks of.
    pub layers: usize,
    /// Roles that a whole-layer tie shares.
    pub tied_roles: Vec<String>,
    /// What computes logits with them, or why nothing does.
    pub net: Result<Arc<dyn Net>>,
}

impl From<Arc<dyn Net>> for Structure {
    /// The tensors of a network.
    fn from(net: Arc<dyn Net>) -> Self {
        let tied_roles = net.tied_roles().iter().map(ToString::to_string).collect();
        Structure { specs: net.tensors(), layers: net.layers(), tied_roles, net: Ok(net) }
    }
}

impl Structure {
    /// The tensors of `net` or, where there is none, those that a file holds.
    pub fn of_file(net: Result<Arc<dyn Net>>, tensors: &BTreeMap<String, RawTensor>) -> Self {
        match net {
            Ok(net) => net.into(),
            Err(why) => {
                let mut named: Vec<_> = tensors.iter().collect();
                named.sort_by_key(|(name, _)| natural_order(name));
                let tensor =
                    |(name, raw): (&String, &RawTensor)| (name.clone(), raw.shape.clone(), form_of(&raw.shape));
                Structure::described(named.into_iter().map(tensor), why)
            }
        }
    }

    /// Tensors that no network explains, as (name, shape, form), and why: a whole-layer tie shares the matrices.
    pub fn described(tensors: impl IntoIterator<Item = (String, Vec<usize>, Form)>, why: Error) -> Self {
        let specs = describe(tensors);
        let layers = specs.iter().filter_map(|spec| spec.layer).max().map_or(0, |last| last + 1);
        let mut tied_roles: Vec<String> = Vec::new();
        for spec in specs.iter().filter(|spec| spec.layer.is_some() && spec.is_matrix()) {
            if !tied_roles.contains(&spec.role) {
                tied_roles.push(spec.role.clone());
            }
        }
        Structure { specs, layers, tied_roles, net: Err(why) }
    }
}
