//! State dicts from PyTorch checkpoints, as `torch.save` writes them: a zip of one pickle and one entry per storage.
//!
//! The pickle is read as data ([`super::pickle`]): nothing in a file can run. Sizes are held against the file before
//! anything is allocated: entries are stored uncompressed, together no more than the file; a tensor lies within its
//! storage and repeats none of it; all views together are no more than [`MAX_VIEWS`] files.

use std::collections::BTreeMap;
use std::io::{Cursor, Read};

use zip::read::HasZipMetadata;
use zip::result::ZipError;
use zip::{CompressionMethod, ZipArchive};

use super::dtype::Element;
use super::gather::Gather;
use super::pickle::{self, Id, Name, Pickle, Rebuild, Value};
use super::remark::Remark;
use crate::error::{Error, Result};

/// Where checkpoints keep the model, most telling first.
const KEYS: [&str; 8] =
    ["model_state_dict", "state_dict", "model_state", "model", "module", "network", "net", "weights"];
/// Dicts within dicts that are searched for the model.
const MAX_DEPTH: usize = 4;
/// A pickle is names and shapes only.
const MAX_PICKLE: u64 = 32 << 20;
/// Bytes of all views over the bytes of the file: honest ones do not overlap.
const MAX_VIEWS: u64 = 4;
const MAX_RANK: usize = 8;
/// What a file of PyTorch 1.5 and older begins with: its magic number, pickled.
const LEGACY: &[u8] = b"\x80\x02\x8a\x0a";

type Archive<'a> = ZipArchive<Cursor<&'a [u8]>>;

/// Whether bytes are a checkpoint, of any version, by how they begin.
pub fn is_one(bytes: &[u8]) -> bool {
    // A safetensors header may be as long as the first bytes of a zip claim; then its brace stands in ninth place.
    bytes.starts_with(LEGACY) || bytes.starts_with(b"PK\x03\x04") && bytes.get(8) != Some(&b'{')
}

/// Reads the tensors of a checkpoint.
///
/// # Errors
/// Not a zip or a truncated one; compressed or overlapping entries; a pickle that is damaged or names code; no state
/// dict, or several; a tensor that lies outside its storage or is not finite.
pub fn gather(bytes: &[u8]) -> Result<Gather> {
    if bytes.starts_with(LEGACY) {
        return Err(Error::input("a checkpoint in the format of PyTorch before 1.6")
            .hint("save it again: torch.save(torch.load(\"old.pt\", map_location=\"cpu\"), \"new.pt\")"));
    }
    let mut archive = ZipArchive::new(Cursor::new(bytes)).map_err(|e| {
        Error::input(format!("the zip archive is truncated or damaged: {e}")).hint("copy the file again")
    })?;
    let entries = entries(&archive)?;
    let folder = folder(&entries)?;
    check_stored(&archive, bytes.len() as u64)?;
    let entry = |name: &str| entries.get(&format!("{folder}{name}")).copied();
    if let Some((index, _)) = entry("byteorder") {
        let order = content(&mut archive, index)?;
        if order != b"little" {
            let order = String::from_utf8_lossy(&order).into_owned();
            return Err(Error::input(format!("the checkpoint's byte order is {order:?}, wanted \"little\"")));
        }
    }
    let (index, size) = entry("data.pkl").expect("the folder is that of data.pkl");
    if size > MAX_PICKLE {
        return Err(Error::input(format!("data.pkl is {size} bytes; names and shapes take at most {MAX_PICKLE}")));
    }
    let script = content(&mut archive, index)?;
    let pickle = pickle::read(&script)?;
    let (found, state) = state_dict(&pickle)?;

    let mut gathered = Gather::default();
    gathered.remark(found);
    let data = entries.iter().filter(|(name, _)| name.starts_with(&format!("{folder}data/")));
    gathered.file(data.map(|(_, (_, size))| size).sum(), "pickle and zip archive");
    let mut views: BTreeMap<View, Vec<&str>> = BTreeMap::new();
    for (name, value) in state {
        match pickle.get(value) {
            Value::Tensor(..) => {
                let view = View::of(&pickle, value).map_err(|fault| Error::input(format!("{name} {fault}")))?;
                views.entry(view).or_default().push(name);
            }
            other => gathered.drop(name, other.kind()),
        }
    }
    let claimed = views.keys().fold(0u64, |sum, view| sum.saturating_add(view.bytes()));
    if claimed > MAX_VIEWS * bytes.len() as u64 {
        let size = bytes.len();
        return Err(Error::input(format!("the tensors are {claimed} bytes, out of a file of {size}")));
    }
    // Ordered by storage, so that each is read once.
    let mut storage = (String::new(), Vec::new());
    for (view, names) in views {
        let first = names[0];
        if storage.0 != view.storage {
            let (index, _) = entry(&format!("data/{}", view.storage))
                .ok_or_else(|| Error::input(format!("{first} is in data/{}, which is missing", view.storage)))?;
            storage = (view.storage.clone(), content(&mut archive, index)?);
        }
        let data = view.copy(&storage.1).map_err(|fault| Error::input(format!("{first} {fault}")))?;
        gathered.add(first, view.element, &view.shape, &data)?;
        names[1..].iter().for_each(|name| gathered.alias(name, first));
    }
    Ok(gathered)
}

/// Index and size of every entry, by name.
fn entries(archive: &Archive) -> Result<BTreeMap<String, (usize, u64)>> {
    if archive.has_duplicate_names() {
        return Err(Error::input("the zip archive has several entries of one name"));
    }
    let entry = |index| {
        let entry = archive.by_index_data(index).map_err(damaged)?;
        Ok((String::from_utf8_lossy(entry.name_raw()).into_owned(), (index, entry.size())))
    };
    (0..archive.len()).map(entry).collect()
}

/// Refuses entries that are not what the file holds, byte for byte and once: the only way to be larger than it.
fn check_stored(archive: &Archive, file: u64) -> Result<()> {
    let mut total = 0u64;
    for index in 0..archive.len() {
        let entry = archive.by_index_data(index).map_err(damaged)?;
        let name = String::from_utf8_lossy(entry.name_raw());
        if entry.encrypted() {
            return Err(Error::input(format!("{name} is encrypted")).hint("PyTorch does not encrypt checkpoints"));
        }
        if entry.compression() != CompressionMethod::Stored || entry.size() != entry.compressed_size() {
            let (size, packed) = (entry.size(), entry.compressed_size());
            return Err(Error::input(format!("{name} is compressed, {packed} bytes that claim to be {size}"))
                .hint("PyTorch stores uncompressed: save the state dict again with torch.save"));
        }
        total = total.saturating_add(entry.size());
    }
    if total > file {
        return Err(Error::input(format!("the zip archive claims {total} bytes of entries, the file has {file}")));
    }
    Ok(())
}

fn damaged(e: ZipError) -> Error {
    Error::input(format!("the zip archive is damaged: {e}"))
}

/// The folder of the one `data.pkl`, with its slash.
fn folder(entries: &BTreeMap<String, (usize, u64)>) -> Result<String> {
    let pickles: Vec<&str> = entries.keys().filter_map(|name| name.strip_suffix("data.pkl")).collect();
    let folders: Vec<&&str> = pickles.iter().filter(|folder| folder.is_empty() || folder.ends_with('/')).collect();
    let [folder] = folders[..] else {
        return Err(Error::input(format!("a zip archive with {} data.pkl, a checkpoint has one", folders.len()))
            .hint("give a file that torch.save wrote"));
    };
    let code = format!("{folder}code/");
    if entries.keys().any(|name| name.starts_with(&code)) || entries.contains_key(&format!("{folder}constants.pkl")) {
        return Err(Error::input("a TorchScript archive, which holds code; nothing was run")
            .hint("save the tensors alone: torch.save(model.state_dict(), \"model.pt\")"));
    }
    Ok((*folder).to_string())
}

/// The bytes of an entry, which are no more than the file's. Its checksum is held against them.
fn content(archive: &mut Archive, index: usize) -> Result<Vec<u8>> {
    let mut entry = archive.by_index(index).map_err(damaged)?;
    let name = String::from_utf8_lossy(entry.name_raw()).into_owned();
    let size = entry.get_metadata().uncompressed_size;
    let mut bytes = Vec::with_capacity(size as usize);
    entry.read_to_end(&mut bytes).map_err(|e| Error::input(format!("{name} is damaged: {e}")))?;
    if bytes.len() as u64 != size {
        return Err(Error::input(format!("{name} has {} bytes, its entry claims {size}", bytes.len())));
    }
    Ok(bytes)
}

/// Values by name.
type Entries<'p> = Vec<(&'p str, Id)>;

/// The entries of the state dict, and where it was found if not at the root.
fn state_dict<'p>(pickle: &'p Pickle) -> Result<(Option<Remark>, Entries<'p>)> {
    let (mut here, mut path, mut beside) = (pickle.root, Vec::new(), Vec::new());
    loop {
        let entries = named(pickle, here).map_err(|kind| {
            Error::input(format!("the checkpoint is {kind}, wanted a dict of tensors"))
                .hint("save it with torch.save(model.state_dict(), \"model.pt\")")
        })?;
        let holds = |id: Id| named(pickle, id).is_ok_and(|all| all.iter().any(|(_, id)| is_tensor(pickle, *id)));
        // A checkpoint within a checkpoint.
        let leads = |id: Id| {
            let inner = named(pickle, id).unwrap_or_default();
            holds(id) || inner.iter().any(|(key, id)| KEYS.contains(key) && holds(*id))
        };
        let known = KEYS.iter().find_map(|key| entries.iter().find(|(name, id)| name == key && leads(*id)));
        let next = match known {
            _ if path.len() == MAX_DEPTH => None,
            None if !holds(here) => {
                let dicts: Vec<_> = entries.iter().filter(|(_, id)| leads(*id)).collect();
                match dicts[..] {
                    [one] => Some(one),
                    [] => return Err(Error::input("the checkpoint holds no tensors").hint("is it an optimizer's?")),
                    _ => {
                        let names: Vec<&str> = dicts.iter().map(|(name, _)| *name).collect();
                        let (count, names) = (names.len(), names.join(", "));
                        return Err(Error::input(format!("the checkpoint holds {count} state dicts: {names}"))
                            .hint("save the model's alone: torch.save(checkpoint[KEY], \"model.pt\")"));
                    }
                }
            }
            known => known,
        };
        let Some(&(key, inner)) = next else {
            let found = (!path.is_empty()).then(|| Remark::Nested { at: path.join("."), beside });
            return Ok((found, entries));
        };
        path.push(key);
        beside.extend(entries.iter().filter(|(name, _)| *name != key).map(|(name, _)| (*name).to_string()));
        here = inner;
    }
}

fn is_tensor(pickle: &Pickle, id: Id) -> bool {
    matches!(pickle.get(id), Value::Tensor(..))
}

/// The entries of a dict under string keys, the last of each; otherwise what the value is.
fn named<'p>(pickle: &'p Pickle, id: Id) -> std::result::Result<Entries<'p>, &'static str> {
    let Value::Dict(entries) = pickle.get(id) else { return Err(pickle.get(id).kind()) };
    let text = |(key, value): &(Id, Id)| match pickle.get(*key) {
        Value::Text(name) => Some((*name, *value)),
        _ => None,
    };
    let last: BTreeMap<&str, Id> = entries.iter().filter_map(text).collect();
    Ok(last.into_iter().collect())
}

/// A tensor as strided access to a storage. Offsets and strides count elements.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct View {
    /// Name of the entry below `data/`.
    storage: String,
    element: Element,
    offset: usize,
    shape: Vec<usize>,
    stride: Vec<usize>,
}

impl View {
    /// An error completes the sentence "`tensor` …".
    fn of(pickle: &Pickle, tensor: Id) -> std::result::Result<View, String> {
        let (mut tensor, mut how) = (tensor, None);
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
                Rebuild::Subclass => match (items.first().map(|id| pickle.get(*id)), items.get(2)) {
                    (Some(Value::Name(Name::Rebuild(inner))), Some(inner_arguments)) => {
                        (tensor, how) = (*inner_arguments, Some(*inner));
                    }
                    _ => return Err("is of a subclass without its arguments".into()),
                },
            }
        }
        Err("is wrapped without end".into())
    }

    fn plain(pickle: &Pickle, items: &[Id], rebuild: Rebuild) -> std::result::Result<View, String> {
        let number = |id: Id| match pickle.get(id) {
            Value::Int(n) => usize::try_from(*n).map_err(|_| format!("has the size or offset {n}")),
            other => Err(format!("has {} for a size or offset", other.kind())),
        };
        let numbers = |id: Id| {
            let items = pickle.items(id).ok_or("has no shape")?;
            if items.len() > MAX_RANK {
                return Err(format!("has {} dimensions, at most {MAX_RANK} are read", items.len()));
            }
            items.iter().map(|id| number(*id)).collect::<std::result::Result<Vec<_>, _>>()
        };
        let &[storage, offset, shape, stride, ref rest @ ..] = items else {
            return Err("has too few arguments".into());
        };
        let Value::Persistent(storage) = pickle.get(storage) else { return Err("has no storage".into()) };
        let Some(&[tag, kind, key, _, count]) = pickle.items(*storage) else { return Err("has no storage".into()) };
        let (Value::Text("storage"), Value::Text(key)) = (pickle.get(tag), pickle.get(key)) else {
            return Err("has a storage without a name".into());
        };
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
    fn check(&self, stored: usize) -> std::result::Result<(), String> {
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

    fn bytes(&self) -> u64 {
        (self.count() * self.element.size()) as u64
    }

    /// The elements in row-major order.
    fn copy(&self, storage: &[u8]) -> std::result::Result<Vec<u8>, String> {
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
