//! Tensors of a checkpoint as views of its storages.

use super::dtype::Element;
use super::pickle::{Id, Name, Pickle, Rebuild, Value};

/// Tensors within tensors that are looked through: parameters and subclasses wrap what they are made of.
const MAX_DEPTH: usize = 4;
/// Dimensions of a tensor.
const MAX_RANK: usize = 8;

/// What was found of a tensor, or why it is none: the latter completes the sentence "`tensor` …".
type Found<T> = std::result::Result<T, String>;

/// A tensor as strided access to a storage. Offsets and strides count elements.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct View {
    /// Name of the entry below `data/`.
    pub storage: String,
    pub element: Element,
    offset: usize,
    pub shape: Vec<usize>,
    stride: Vec<usize>,
}

impl View {
    /// How a tensor lies in its storage.
    pub fn of(pickle: &Pickle, tensor: Id) -> Found<View> {
        let (mut tensor, mut how, mut wrapper) = (tensor, None, None);
        // Parameters and subclasses wrap what they are made of; honest ones do so once or twice.
        for _ in 0..MAX_DEPTH {
            let (rebuild, arguments) = match (how, pickle.get(tensor)) {
                (None, Value::Tensor(rebuild, arguments)) => (*rebuild, *arguments),
                (Some(rebuild), _) => (rebuild, tensor),
                (None, other) => return Err(format!("wraps {}", other.kind())),
            };
            let items = pickle.items(arguments).ok_or("has no arguments")?;
            match rebuild {
                Rebuild::Typed | Rebuild::Untyped => return View::plain(pickle, items, rebuild),
                Rebuild::Parameter => (tensor, how) = (*items.first().ok_or("has no data")?, None),
                Rebuild::Foreign(foreign) => {
                    let (kind, way_out) = (wrapper.unwrap_or(foreign.kind), foreign.way_out);
                    return Err(format!("is {kind}, wanted a plain one; {way_out}"));
                }
                Rebuild::Subclass => match (items.first().map(|id| pickle.get(*id)), items.get(2)) {
                    (Some(Value::Name(Name::Rebuild(inner))), Some(inner_arguments)) => {
                        (tensor, how) = (*inner_arguments, Some(*inner));
                        if let Some(Value::Name(Name::Wrapper(kind))) = items.get(1).map(|id| pickle.get(*id)) {
                            wrapper = Some(*kind);
                        }
                    }
                    _ => return Err("is of a subclass without its arguments".into()),
                },
            }
        }
        Err("is wrapped without end".into())
    }

    fn plain(pickle: &Pickle, items: &[Id], rebuild: Rebuild) -> Found<View> {
        let number = |id: Id| match pickle.get(id) {
            Value::Int(n) => usize::try_from(*n).map_err(|_| format!("has the size or offset {n}")),
            other => Err(format!("has {} for a size or offset", other.kind())),
        };
        let numbers = |id: Id| {
            let items = pickle.items(id).ok_or("has no shape")?;
            if items.len() > MAX_RANK {
                return Err(format!("has {} dimensions, at most {MAX_RANK} are read", items.len()));
            }
            items.iter().map(|id| number(*id)).collect::<Found<Vec<_>>>()
        };
        let &[storage, offset, shape, stride, ref rest @ ..] = items else {
            return Err("has too few arguments".into());
        };
        let Value::Persistent(storage) = pickle.get(storage) else { return Err("has no storage".into()) };
        let Some(&[tag, kind, key, _, count]) = pickle.items(*storage) else { return Err("has no storage".into()) };
        let (Value::Text("storage"), Value::Text(key)) = (pickle.get(tag), pickle.get(key)) else {
            return Err("has a storage without a name".into());
        };
        let exotic = |id: Id| match pickle.get(id) {
            Value::Name(Name::Exotic(kind)) => Some(*kind),
            _ => None,
        };
        if let Some(kind) = exotic(kind).or_else(|| rest.get(2).copied().and_then(exotic)) {
            return Err(format!(
                "has elements of type {kind}, wanted float32, float16 or bfloat16; save it .to(torch.float32)"
            ));
        }
        let (element, stored) = match (rebuild, pickle.get(kind), rest.get(2).map(|id| pickle.get(*id))) {
            (Rebuild::Typed, Value::Name(Name::Element(element)), metadata) => {
                if matches!(metadata, Some(Value::Dict(flags)) if !flags.is_empty()) {
                    return Err("is conjugated or negated lazily; save it with .resolve_neg()".into());
                }
                (*element, number(count)?)
            }
            (Rebuild::Untyped, Value::Name(Name::Untyped), Some(Value::Name(Name::Element(element)))) => {
                (*element, number(count)? / element.size())
            }
            _ => return Err("has no element type".into()),
        };
        let view = View {
            storage: (*key).into(),
            element,
            offset: number(offset)?,
            shape: numbers(shape)?,
            stride: numbers(stride)?,
        };
        view.check(stored)?;
        Ok(view)
    }

    /// Refuses a view that leaves its storage of `stored` elements or repeats parts of it.
    fn check(&self, stored: usize) -> Found<()> {
        let View { offset, shape, stride, .. } = self;
        if shape.len() != stride.len() {
            return Err(format!("has shape {shape:?} but strides {stride:?}"));
        }
        let count = shape.iter().try_fold(1usize, |n, length| n.checked_mul(*length));
        if count == Some(0) {
            return Ok(());
        }
        let steps = shape
            .iter()
            .zip(stride)
            .try_fold(*offset, |at, (length, stride)| at.checked_add((length - 1).checked_mul(*stride)?));
        match (count, steps) {
            (Some(count), Some(last)) if last < stored && count <= stored => Ok(()),
            (Some(count), Some(last)) if last < stored => {
                Err(format!("repeats its storage: {count} elements {shape:?} out of {stored}; save it .contiguous()"))
            }
            _ => Err(format!("lies outside its storage: {shape:?} from {offset} with strides {stride:?} of {stored}")),
        }
    }

    fn count(&self) -> usize {
        self.shape.iter().product()
    }

    /// Bytes of its elements.
    pub fn bytes(&self) -> u64 {
        (self.count() * self.element.size()) as u64
    }

    /// The elements in row-major order.
    pub fn copy(&self, storage: &[u8]) -> Found<Vec<u8>> {
        let (size, count) = (self.element.size(), self.count());
        let mut out = Vec::with_capacity(count * size);
        let mut index = vec![0usize; self.shape.len()];
        // The last dimension at once where its elements lie side by side.
        let run = match (self.shape.last(), self.stride.last()) {
            (Some(&length), Some(1)) => length,
            _ => 1,
        };
        while out.len() < count * size {
            let at = self.offset + index.iter().zip(&self.stride).map(|(i, stride)| i * stride).sum::<usize>();
            let part = storage.get(at * size..(at + run) * size);
            out.extend(part.ok_or_else(|| {
                format!("ends at element {} of data/{}, which has {}", at + run, self.storage, storage.len() / size)
            })?);
            let inner = index.len() - usize::from(run > 1);
            for axis in (0..inner).rev() {
                index[axis] += 1;
                if index[axis] < self.shape[axis] {
                    break;
                }
                index[axis] = 0;
            }
        }
        Ok(out)
    }
}
