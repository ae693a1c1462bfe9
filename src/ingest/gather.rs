//! From tensors as files hold them to weights: widened, buffers left out, the prefixes of wrappers taken off. Whatever
//! is changed or left out is said.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::buffers::{buffer, mask, recomputed};
use super::dtype::{Dtype, Element, f64s};
use super::quantized;
use super::remark::Remark;
use crate::error::{Error, Result};

/// Tensors of one model, as many as an artifact can hold.
pub use tiepack_format::limits::MAX_TENSORS;

/// Parts of names that wrappers put in, wherever they stand: torch.compile, FSDP, activation checkpointing.
const WRAPPERS: [&str; 3] = ["_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"];
/// What `DistributedDataParallel` and `AveragedModel` put in front of every name.
const MODULE: &str = "module.";

/// A tensor as the file holds it.
#[derive(Debug, Clone)]
pub struct RawTensor {
    pub shape: Vec<usize>,
    pub dtype: Dtype,
    /// The weights in row-major order, all finite; as many as `shape` says.
    pub data: Arc<Vec<f32>>,
}

/// A tensor that is no weight, as the file holds it.
#[derive(Debug, Clone)]
pub struct Beside {
    pub shape: Vec<usize>,
    pub element: Element,
    /// Little-endian, in row-major order.
    pub bytes: Arc<Vec<u8>>,
    /// A network that is known computes it itself: a mask, a rotary table.
    pub recomputed: bool,
}

/// Where the bytes of weights files go.
#[derive(Debug, Clone, Default)]
pub struct Sizes {
    /// Of every tensor that is read; one that shares the bytes of another has none of its own.
    pub own: BTreeMap<String, u64>,
    /// Of tensors that are not read: an optimizer's, masks, tables.
    pub unread: u64,
    /// What the rest belongs to.
    pub frame: &'static str,
}

/// The weights of a model.
#[derive(Debug, Clone, Default)]
pub struct Weights {
    /// By state-dict name, wrappers' prefixes taken off.
    pub tensors: BTreeMap<String, RawTensor>,
    /// Tensors that are no weights.
    pub beside: BTreeMap<String, Beside>,
    /// What reading changed or left out.
    pub remarks: Vec<Remark>,
    pub sizes: Sizes,
}

/// Takes tensors in as they are read.
#[derive(Debug, Default)]
pub struct Gather {
    tensors: BTreeMap<String, RawTensor>,
    /// Tensors among what was left out.
    beside: BTreeMap<String, Beside>,
    /// What was left out, by its name, and why.
    dropped: BTreeMap<String, String>,
    /// Tensors of each type that a model does not keep.
    widened: BTreeMap<Element, usize>,
    /// Names that a file leaves out, each with the name under which it has the tensor.
    ties: BTreeMap<String, String>,
    /// Weights that became others on the way from f64 to f32.
    rounded: usize,
    /// What there is to say already.
    said: Vec<Remark>,
    /// Bytes of each tensor in the file, by the name under which it came.
    own: BTreeMap<String, u64>,
    /// Bytes of all tensors in the file, read or not.
    held: u64,
    frame: &'static str,
}

impl Gather {
    /// Takes a tensor in. `bytes` are as many as `shape` and `element` say, little-endian, in row-major order.
    ///
    /// # Errors
    /// A weight is not finite, or beyond an f32; there are more tensors than a model has; no file holds the shape.
    pub fn add(&mut self, name: &str, element: Element, shape: &[usize], bytes: &[u8]) -> Result<()> {
        // A length of 0 hides any other: what is without weights must not overflow where lengths are multiplied.
        let lengths = shape.iter().filter(|length| **length > 0);
        let size = lengths.chain([&element.size()]).try_fold(1usize, |size, length| size.checked_mul(*length));
        if size.is_none_or(|size| isize::try_from(size).is_err()) {
            return Err(Error::input(format!("{name} has shape {shape:?}, which no file holds")));
        }
        if self.tensors.len() + self.dropped.len() >= MAX_TENSORS {
            return Err(Error::input(format!("there are more than {MAX_TENSORS} tensors, the most a model has"))
                .hint("give the tensors of one model"));
        }
        if let Some(why) = buffer(name, element, shape) {
            let recomputed = !matches!(element, Element::Integer(..)) || recomputed(name, element, shape, bytes);
            self.set_aside(name, element, (shape, bytes), why, recomputed);
            return Ok(());
        }
        let Some(dtype) = element.kept() else { return Ok(()) };
        let data = element.widen(bytes);
        if let Some(mask) = mask(name, shape, &data) {
            self.set_aside(name, element, (shape, bytes), mask, true);
            return Ok(());
        }
        if element == Element::F64 {
            self.rounded += rounded(name, bytes, &data)?;
        }
        check_finite(name, shape, &data)?;
        if !matches!(element, Element::F32 | Element::F16 | Element::Bf16) {
            *self.widened.entry(element).or_default() += 1;
        }
        self.tensors.insert(name.to_string(), RawTensor { shape: shape.to_vec(), dtype, data: Arc::new(data) });
        self.own.insert(name.to_string(), bytes.len() as u64);
        Ok(())
    }

    /// Keeps a tensor out of the weights.
    fn set_aside(
        &mut self,
        name: &str,
        element: Element,
        (shape, bytes): (&[usize], &[u8]),
        why: &str,
        recomputed: bool,
    ) {
        self.dropped.insert(name.to_string(), why.to_string());
        // Files of safetensors know no complex numbers.
        if !element.name().starts_with("complex") {
            let (shape, bytes) = (shape.to_vec(), Arc::new(bytes.to_vec()));
            self.beside.insert(name.to_string(), Beside { shape, element, bytes, recomputed });
        }
    }

    /// Gives another name what `first` has: the same tensor, or the same reason to be left out.
    pub fn alias(&mut self, name: &str, first: &str) {
        if let Some(tensor) = self.tensors.get(first) {
            self.tensors.insert(name.to_string(), tensor.clone());
        } else if let Some(why) = self.dropped.get(first) {
            self.dropped.insert(name.to_string(), why.clone());
            if let Some(tensor) = self.beside.get(first).cloned() {
                self.beside.insert(name.to_string(), tensor);
            }
        }
    }

    /// Gives a name that the file leaves out the tensor that it says it is.
    pub fn tie(&mut self, name: &str, kept: &str) {
        self.alias(name, kept);
        self.ties.insert(name.to_string(), kept.to_string());
    }

    /// Leaves something out that is no tensor.
    pub fn drop(&mut self, name: &str, why: &str) {
        self.dropped.insert(name.to_string(), why.into());
    }

    /// Says how many bytes of tensors the file holds, and what its other bytes belong to.
    pub fn file(&mut self, held: u64, frame: &'static str) {
        (self.held, self.frame) = (held, frame);
    }

    /// Says something about the file as a whole.
    pub fn remark(&mut self, remark: Option<Remark>) {
        self.said.extend(remark);
    }

    /// Every name of the file that was taken in or left out.
    pub fn names(&self) -> BTreeSet<&str> {
        let all = self.tensors.keys().chain(self.dropped.keys());
        all.filter(|name| !self.ties.contains_key(*name)).map(String::as_str).collect()
    }

    /// Takes in all that another has gathered; names that both have become the other's.
    pub fn extend(&mut self, other: Gather) {
        self.tensors.extend(other.tensors);
        self.dropped.extend(other.dropped);
        self.beside.extend(other.beside);
        self.ties.extend(other.ties);
        for (element, count) in other.widened {
            *self.widened.entry(element).or_default() += count;
        }
        self.rounded += other.rounded;
        self.said.extend(other.said);
        self.own.extend(other.own);
        self.held += other.held;
        self.frame = other.frame;
    }

    /// The weights, and what is to be said about them.
    ///
    /// # Errors
    /// There are more tensors than a model has; two tensors have the same name once prefixes are taken off.
    pub fn finish(self) -> Result<Weights> {
        if self.tensors.len() > MAX_TENSORS {
            let count = self.tensors.len();
            return Err(Error::input(format!("there are {count} tensors, a model has at most {MAX_TENSORS}"))
                .hint("give the tensors of one model"));
        }
        let mut remarks = self.said;
        let (tensors, prefixes, modules) = strip(self.tensors)?;
        let plain = |name: &str| {
            let name = name.split('.').filter(|part| !WRAPPERS.contains(part)).collect::<Vec<_>>().join(".");
            (0..modules).fold(name.as_str(), |name, _| name.strip_prefix(MODULE).unwrap_or(name)).to_string()
        };
        let unread = self.held.saturating_sub(self.own.values().sum());
        let own = self.own.into_iter().map(|(name, bytes)| (plain(&name), bytes)).collect();
        let sizes = Sizes { own, unread, frame: self.frame };
        let beside = self.beside.into_iter().map(|(name, tensor)| (plain(&name), tensor)).collect();
        let dropped: BTreeMap<_, _> = self.dropped.iter().map(|(name, why)| (plain(name), why.clone())).collect();
        if !prefixes.is_empty() {
            remarks.push(Remark::Stripped(prefixes));
        }
        for (element, tensors) in self.widened {
            remarks.push(match element {
                Element::F64 => Remark::Rounded { tensors, weights: self.rounded },
                other => Remark::Widened { tensors, from: other.name() },
            });
        }
        let quantized = quantized::named(tensors.keys().chain(dropped.keys()).map(String::as_str));
        remarks.extend(quantized);
        if !self.ties.is_empty() {
            remarks.push(Remark::Tied(self.ties.iter().map(|(name, kept)| (plain(name), plain(kept))).collect()));
        }
        if !dropped.is_empty() {
            remarks.push(Remark::Dropped(dropped));
        }
        Ok(Weights { tensors, beside, remarks, sizes })
    }
}

/// How many of the f64 in `bytes` are not what they were after rounding.
fn rounded(name: &str, bytes: &[u8], data: &[f32]) -> Result<usize> {
    let mut changed = 0;
    for (x, kept) in f64s(bytes).zip(data) {
        if x.is_finite() && kept.is_infinite() {
            return Err(Error::input(format!("{name} holds {x:e}, more than the {:e} of an f32", f32::MAX))
                .hint("save the model as float32, bfloat16 or float16"));
        }
        changed += usize::from(x.is_finite() && f64::from(*kept) != x);
    }
    Ok(changed)
}

fn check_finite(name: &str, shape: &[usize], data: &[f32]) -> Result<()> {
    let Some(first) = data.iter().position(|x| !x.is_finite()) else { return Ok(()) };
    let count = data.iter().filter(|x| !x.is_finite()).count();
    let (mut rest, mut at) = (first, Vec::new());
    for &length in shape.iter().rev() {
        at.insert(0, rest % length);
        rest /= length;
    }
    let value = data[first];
    let (total, are) = (data.len(), if count == 1 { "is" } else { "are" });
    Err(Error::input(format!("{name}: {count} of {total} weights {are} not finite, the first at {at:?} is {value}"))
        .hint("the training run diverged or the file is damaged; use an earlier checkpoint"))
}

/// Tensors by their plain names, prefixes and how many names had each, how often [`MODULE`] stood in front of all.
type Stripped = (BTreeMap<String, RawTensor>, BTreeMap<String, usize>, usize);

/// Names without what wrappers put in: parts of [`WRAPPERS`] anywhere, [`MODULE`] in front where every name has it.
/// With it what was taken off, from how many names, and how often [`MODULE`] stood in front.
fn strip(tensors: BTreeMap<String, RawTensor>) -> Result<Stripped> {
    let mut modules = 0;
    let mut prefixes: BTreeMap<String, usize> = BTreeMap::new();
    let mut named: Vec<(String, String, RawTensor)> = Vec::with_capacity(tensors.len());
    for (old, tensor) in tensors {
        let mut parts: Vec<&str> = old.split('.').collect();
        for wrapper in WRAPPERS {
            if parts.contains(&wrapper) {
                *prefixes.entry(format!("{wrapper}.")).or_default() += 1;
                parts.retain(|part| *part != wrapper);
            }
        }
        named.push((parts.join("."), old, tensor));
    }
    let wrapped = |named: &[(String, String, RawTensor)]| named.iter().all(|(name, ..)| name.starts_with(MODULE));
    while !named.is_empty() && wrapped(&named) {
        prefixes.insert(MODULE.into(), named.len());
        modules += 1;
        for (name, ..) in &mut named {
            name.drain(..MODULE.len());
        }
    }
    let mut stripped: BTreeMap<String, (String, RawTensor)> = BTreeMap::new();
    for (name, old, tensor) in named {
        if let Some((other, _)) = stripped.get(&name) {
            return Err(Error::input(format!("{other} and {old} are both {name} without the prefixes of wrappers"))
                .hint("save the state dict of one of the two modules"));
        }
        stripped.insert(name, (old, tensor));
    }
    Ok((stripped.into_iter().map(|(name, (_, tensor))| (name, tensor)).collect(), prefixes, modules))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gather(tensors: &[(&str, &[usize], &[f32])]) -> Result<Weights> {
        let mut gather = Gather::default();
        for (name, shape, data) in tensors {
            gather.add(name, Element::F32, shape, &data.iter().flat_map(|x| x.to_le_bytes()).collect::<Vec<_>>())?;
        }
        gather.finish()
    }

    fn names(tensors: &[&str]) -> Vec<String> {
        let tensors: Vec<_> = tensors.iter().map(|name| (*name, &[1usize][..], &[1f32][..])).collect();
        gather(&tensors).unwrap().tensors.into_keys().collect()
    }

    #[test]
    fn wrappers_leave_no_trace_in_names() {
        assert_eq!(names(&["_orig_mod.a", "_orig_mod.b.w"]), ["a", "b.w"]);
        assert_eq!(names(&["module._orig_mod.module.a", "module.module.b"]), ["a", "b"]);
        assert_eq!(names(&["blocks.0._orig_mod.w", "head"]), ["blocks.0.w", "head"]);
        // Where only some names have it, `module` is the model's own.
        assert_eq!(names(&["module.a", "b"]), ["b", "module.a"]);
        assert_eq!(names(&["my_orig_mod.a", "module_list.b"]), ["module_list.b", "my_orig_mod.a"]);
        let one = [1f32];
        let error = gather(&[("a.w", &[1], &one), ("_orig_mod.a.w", &[1], &one)]).unwrap_err();
        assert!(error.message.contains("_orig_mod.a.w and a.w are both a.w"), "{error}");
    }
}
