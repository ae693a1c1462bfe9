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

use super::gather::Gather;
use super::settings;
use super::view::View;
use super::{pickle, state};
use crate::error::{Error, Result};

/// A pickle is names and shapes, and what a training run logged.
const MAX_PICKLE: u64 = 64 << 20;
/// Bytes of all views over the bytes of the file: honest ones do not overlap.
const MAX_VIEWS: u64 = 4;
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
    let mut state = state::find(&pickle)?;
    let settings = settings::of(&pickle, &mut state.found);

    let mut gathered = Gather::default();
    gathered.remark(state.found);
    gathered.remark(settings);
    let mut views: BTreeMap<View, Vec<&str>> = BTreeMap::new();
    for (name, tensor) in &state.tensors {
        let view = View::of(&pickle, *tensor).map_err(|fault| Error::input(format!("{name} {fault}")))?;
        views.entry(view).or_default().push(name);
    }
    state.others.iter().for_each(|(name, kind)| gathered.drop(name, kind));
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
        if pickles.is_empty() && entries.keys().any(|name| name.ends_with(".npy")) {
            return Err(Error::input("an archive of NumPy arrays").hint(
                "give the model as safetensors: safetensors.numpy.save_file(dict(numpy.load(\"it.npz\")), FILE)",
            ));
        }
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

/// The bytes of an entry, which are no more than the file's. Its checksum is held against them, unless it is 0, as
/// where `torch.serialization.set_crc32_options(False)` left it out.
fn content(archive: &mut Archive, index: usize) -> Result<Vec<u8>> {
    let unchecked = archive.by_index_data(index).map_err(damaged)?.get_metadata().crc32 == 0;
    let entry = if unchecked { archive.by_index_raw(index) } else { archive.by_index(index) };
    let mut entry = entry.map_err(damaged)?;
    let name = String::from_utf8_lossy(entry.name_raw()).into_owned();
    let size = entry.get_metadata().uncompressed_size;
    let mut bytes = Vec::with_capacity(size as usize);
    entry.read_to_end(&mut bytes).map_err(|e| Error::input(format!("{name} is damaged: {e}")))?;
    if bytes.len() as u64 != size {
        return Err(Error::input(format!("{name} has {} bytes, its entry claims {size}", bytes.len())));
    }
    Ok(bytes)
}
