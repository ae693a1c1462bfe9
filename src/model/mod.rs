//! A model whose tensors have been held against its architecture, every distinct one stored once.
//!
//! Only this module makes a [`Model`], from files ([`build`]) or from decoded parts ([`Model::from_parts`]); having
//! one is the proof that no tensor is missing, foreign or of a wrong shape, and that declared ties hold.

mod build;
mod prefix;
mod structure;
mod ties;

use std::fmt;
use std::sync::{Arc, OnceLock};

use candle_core::{DType, Device, Tensor};

/// Bits of each of `weights` where they take so many bytes; `None` when there are none.
pub fn bits_per_weight(bytes: u64, weights: usize) -> Option<f64> {
    (weights > 0).then(|| 8.0 * bytes as f64 / weights as f64)
}

#[cfg(test)]
pub(crate) use build::bundled;
pub use build::{build, build_as_it_is};
pub use structure::Structure;
pub use ties::{Retie, TieReport};

pub use crate::ingest::Dtype;
pub use crate::ingest::dtype::Element;

use crate::error::{Error, Result};
use crate::ingest::{Config, Remark};
use crate::nets::{Net, Params, TensorSpec};

/// One distinct tensor, used under one name or, tied, under several.
#[derive(Debug, Clone)]
pub struct Stored {
    /// Index into [`Model::specs`] of its first use.
    pub spec: usize,
    /// How the source stored it.
    pub dtype: Dtype,
    /// Row-major, as many as the shape of its spec says.
    pub data: Arc<Vec<f32>>,
}

/// A tensor that is no weight: no network computes with it and no stage touches it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kept {
    pub name: String,
    pub shape: Vec<usize>,
    pub element: Element,
    /// Little-endian, in row-major order.
    pub bytes: Arc<Vec<u8>>,
}

/// Only this module can name it, so nobody else can write a [`Model`] down. `#[non_exhaustive]` would keep out other
/// crates only.
#[derive(Clone, Copy)]
struct Checked;

/// A checked model.
#[derive(Clone)]
pub struct Model {
    pub config: Config,
    /// Every tensor, in canonical order.
    pub specs: Vec<TensorSpec>,
    /// Every distinct tensor, in the order of first use.
    pub stored: Vec<Stored>,
    /// For every spec the index into `stored` of its tensor.
    pub source: Vec<usize>,
    /// The names that a file of the model has, in the order of the specs, and the spec of each; some have several.
    pub labels: Vec<(String, usize)>,
    /// Tensors that are no weights.
    pub kept: Vec<Kept>,
    /// What these take in a file, once somebody has packed them.
    pub(crate) packed: Arc<OnceLock<Vec<Vec<u8>>>>,
    /// Layers that a tie map speaks of.
    pub layers: usize,
    /// Roles that a whole-layer tie shares.
    pub tied_roles: Vec<String>,
    pub ties: TieReport,
    /// What reading its files changed or left out.
    pub remarks: Vec<Remark>,
    net: Result<Arc<dyn Net>>,
    device: Device,
    precision: DType,
    _checked: Checked,
}

impl Model {
    /// A model from decoded parts: the distinct tensors as `(dtype, data)` in the order of first use, and for every
    /// tensor of the architecture the index of its part.
    ///
    /// # Errors
    /// Indices, order or lengths do not fit the architecture, or tensors of different shapes share a part.
    pub fn from_parts(
        config: Config,
        structure: impl Into<Structure>,
        parts: Vec<(Dtype, Arc<Vec<f32>>)>,
        source: Vec<usize>,
    ) -> Result<Model> {
        let structure = structure.into();
        let specs = &structure.specs;
        if source.len() != specs.len() {
            let (found, wanted) = (source.len(), specs.len());
            return Err(Error::verification(format!("{found} tensors are described, the model has {wanted}")));
        }
        let mut stored: Vec<Stored> = Vec::with_capacity(parts.len());
        let count = parts.len();
        let mut parts = parts.into_iter();
        for (spec, &part) in source.iter().enumerate() {
            let TensorSpec { name, shape, .. } = &specs[spec];
            if let Some(first) = stored.get(part) {
                let first = &specs[first.spec];
                if first.shape != *shape {
                    let (other, wanted) = (&first.name, &first.shape);
                    return Err(Error::verification(format!("{name} {shape:?} cannot share {other} {wanted:?}")));
                }
                continue;
            }
            if part >= count {
                return Err(Error::verification(format!("{name} uses part {part}, but there are only {count}")));
            }
            let next = stored.len();
            let Some((dtype, data)) = parts.next().filter(|_| part == next) else {
                return Err(Error::verification(format!("{name} uses part {part} before part {next} is used")));
            };
            let (found, wanted) = (data.len(), elements(shape));
            if found != wanted {
                return Err(Error::verification(format!("{name} has {found} weights, {shape:?} has {wanted}")));
            }
            stored.push(Stored { spec, dtype, data });
        }
        if stored.len() != count {
            return Err(Error::verification(format!("of {count} parts only {} are used", stored.len())));
        }
        let shared = |(spec, &part): (usize, &usize)| {
            let first = stored[part].spec;
            let told = first != spec && specs[spec].is_matrix();
            told.then(|| (specs[spec].name.clone(), specs[first].name.clone()))
        };
        let declared = source.iter().enumerate().filter_map(shared).collect();
        let copies = ties::layer_copies(&structure, &source);
        let ties = TieReport { declared, found: Vec::new(), retied: Vec::new(), copies };
        let Structure { specs, layers, tied_roles, net } = structure;
        let remarks = Vec::new();
        let labels = specs.iter().enumerate().map(|(i, spec)| (spec.name.clone(), i)).collect();
        Ok(Model {
            config,
            specs,
            stored,
            source,
            labels,
            kept: Vec::new(),
            packed: Arc::default(),
            layers,
            tied_roles,
            ties,
            remarks,
            net,
            device: Device::Cpu,
            precision: DType::F32,
            _checked: Checked,
        })
    }

    /// The same model with tensors that are no weights.
    #[must_use]
    pub fn keeping(self, kept: Vec<Kept>) -> Model {
        Model { kept, packed: Arc::default(), ..self }
    }

    /// The spec of the first use of a stored tensor.
    pub fn spec(&self, stored: usize) -> &TensorSpec {
        &self.specs[self.stored[stored].spec]
    }

    /// The shape of a stored tensor; all its uses have the same.
    pub fn shape(&self, stored: usize) -> &[usize] {
        &self.spec(stored).shape
    }

    /// Rows and columns of a stored matrix: all but its last dimension count as rows.
    pub fn sides(&self, stored: usize) -> (usize, usize) {
        let cols = self.shape(stored).last().copied().unwrap_or(1);
        (self.stored[stored].data.len() / cols.max(1), cols)
    }

    /// The shapes of all stored tensors.
    pub fn shapes(&self) -> Vec<&[usize]> {
        (0..self.stored.len()).map(|stored| self.shape(stored)).collect()
    }

    /// Whether a stored tensor is a matrix, not a control tensor.
    pub fn is_matrix(&self, stored: usize) -> bool {
        self.spec(stored).is_matrix()
    }

    /// The stored matrices.
    pub fn matrices(&self) -> impl Iterator<Item = usize> + '_ {
        (0..self.stored.len()).filter(|stored| self.is_matrix(*stored))
    }

    /// The specs that use a stored tensor, in canonical order.
    pub fn uses(&self, stored: usize) -> Vec<usize> {
        (0..self.source.len()).filter(|&spec| self.source[spec] == stored).collect()
    }

    /// What computes the model's logits.
    ///
    /// # Errors
    /// Input, when no registered network explains these tensors: says why.
    pub fn network(&self) -> Result<&dyn Net> {
        self.net.as_deref().map_err(Clone::clone)
    }

    /// blake3 over names, shapes, ties and all weights: what statistics, plans and cached losses belong to.
    pub fn digest(&self) -> blake3::Hash {
        let mut hash = blake3::Hasher::new();
        let mut field = |bytes: &[u8]| {
            hash.update(&(bytes.len() as u64).to_le_bytes());
            hash.update(bytes);
        };
        field(self.config.to_json().as_bytes());
        for (spec, source) in self.specs.iter().zip(&self.source) {
            field(spec.name.as_bytes());
            field(&spec.shape.iter().flat_map(|d| (*d as u64).to_le_bytes()).collect::<Vec<u8>>());
            field(&(*source as u64).to_le_bytes());
        }
        for stored in &self.stored {
            field(&stored.data.iter().flat_map(|v| v.to_le_bytes()).collect::<Vec<u8>>());
        }
        hash.finalize()
    }

    /// Stored weights that are quantized: those of matrices and embeddings, tied ones counted once. Bits per weight of a whole
    /// file are over these.
    pub fn weights(&self) -> usize {
        self.stored.iter().filter(|s| self.specs[s.spec].is_matrix()).map(|s| s.data.len()).sum()
    }

    /// The same model run on another device; a model that was just made runs on the CPU.
    #[must_use]
    pub fn on(self, device: &Device) -> Model {
        Model { device: device.clone(), ..self }
    }

    /// The same model computing in another type, f32 or bf16; a model that was just made computes in f32.
    #[must_use]
    pub fn at(self, precision: DType) -> Model {
        Model { precision, ..self }
    }

    /// What the network of this model computes in.
    pub fn precision(&self) -> DType {
        self.precision
    }

    /// Where the network of this model runs.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// The tensors on the model's device and in its precision by state-dict name; tied names hold the same tensor.
    ///
    /// # Errors
    /// A tensor cannot be made.
    pub fn params(&self) -> Result<Params> {
        let mut tensors = Vec::with_capacity(self.stored.len());
        for (index, stored) in self.stored.iter().enumerate() {
            let tensor = Tensor::from_slice(&stored.data, self.shape(index), &self.device)?;
            tensors.push(tensor.to_dtype(self.precision)?);
        }
        // Other threads may use them before this one asks for anything else.
        self.device.synchronize()?;
        let named = self.specs.iter().zip(&self.source);
        Ok(named.map(|(spec, &stored)| (spec.name.clone(), tensors[stored].clone())).collect())
    }

    /// Says, where an error is that the memory of a GPU is full, how much this model needs there: its weights, `beside` them so
    /// many bytes more, and about what a pass over so many tokens keeps for its way back.
    #[must_use]
    pub fn full(&self, error: Error, beside: usize, tokens: usize) -> Error {
        if !error.is_full() {
            return error;
        }
        let stored: usize = self.stored.iter().map(|stored| stored.data.len()).sum();
        // Inputs and outputs of every use of a matrix, and the steps between them.
        let sides = |(spec, source): (&TensorSpec, &usize)| {
            let (rows, cols) = self.sides(*source);
            if spec.is_matrix() { rows + cols } else { 0 }
        };
        let pass = 3 * tokens * self.specs.iter().zip(&self.source).map(sides).sum::<usize>();
        let needs = |bytes: usize| (bytes * stored + beside + bytes * pass).div_ceil(1_000_000);
        let (here, half) = (needs(self.precision.size_in_bytes()), needs(DType::BF16.size_in_bytes()));
        let other = if half < here { format!(", {half} with --precision bf16") } else { String::new() };
        error.hint(format!(
            "the memory of the GPU is full: this model takes about {here} MB of it{other}; free as much, or use --device cpu"
        ))
    }

    /// The same model with other weights: one vector per stored tensor, of the same lengths.
    ///
    /// # Panics
    /// A length differs.
    #[must_use]
    pub fn with_data(&self, data: Vec<Arc<Vec<f32>>>) -> Model {
        assert_eq!(data.len(), self.stored.len(), "one vector per stored tensor");
        let mut model = self.clone();
        for (stored, data) in model.stored.iter_mut().zip(data) {
            assert_eq!(data.len(), stored.data.len(), "length of {}", self.specs[stored.spec].name);
            stored.data = data;
        }
        model
    }
}

impl fmt::Debug for Model {
    /// Counts only: a dump of every weight helps nobody.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (arch, stored, specs) = (&self.config.arch, self.stored.len(), self.specs.len());
        write!(f, "Model({arch}, {stored} stored tensors for {specs} names)")
    }
}

/// Number of weights of a shape; 1 for a scalar.
fn elements(shape: &[usize]) -> usize {
    shape.iter().product()
}
