//! From files to a checked model: the right tensors, the declared ties, the undeclared ones.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::ties::{self, Retie, TieReport};
use super::{Checked, Kept, Model, Stored, Structure, elements, prefix};
use crate::error::{Error, Result};
use crate::ingest::{Beside, RawTensor, Remark, Source, TieMap};
use crate::nets::names::natural_order;
use crate::nets::{self, Net, TensorSpec};

/// Faults listed before "and more".
const LISTED: usize = 5;

/// Holds a source against its structure and stores every distinct tensor once.
///
/// Tensors that are declared tied must be bit-identical, unless `retie` makes them so; a tied tensor that the file
/// leaves out is taken from those it is tied to. Tensors that are identical without being declared so are stored
/// once as well.
///
/// # Errors
/// Tensors are missing, foreign or of the wrong shape; the tie map does not fit the architecture; declared ties do
/// not hold. Messages begin with the path of the weights and name the tensors.
pub fn build(source: Source, structure: impl Into<Structure>, retie: Option<Retie>) -> Result<Model> {
    let structure = structure.into();
    let Source { path, config, mut tensors, beside, mut ties, mut remarks, .. } = source;
    let place = |e: Error| e.at(path.display());
    let mut stated = stated(&remarks);
    let (mut names, mut taken_off) = (Names::of(&tensors), String::new());
    if let Ok(net) = &structure.net {
        let quantized = remarks.iter().find(|remark| matches!(remark, Remark::Quantized { .. }));
        if let Some(remark) = quantized {
            return Err(place(Error::input(remark.message()).hint(remark.hint())));
        }
        taken_off = prefix::superfluous(&tensors, &**net).unwrap_or_default();
    }
    let kept = keep(beside, &structure, &taken_off, &mut remarks);
    if let Ok(net) = &structure.net {
        if !taken_off.is_empty() {
            prefix::take_off(&taken_off, &mut tensors, ties.as_mut(), &mut stated);
            prefix::say(taken_off.clone(), tensors.len(), &mut remarks);
            names.take_off(&taken_off);
        }
        canonical_names(&mut tensors, &mut names, &**net).map_err(place)?;
        let keys = nets::unknown_keys(&config);
        if !keys.is_empty() {
            remarks.push(Remark::Unread { arch: config.arch.clone(), keys });
        }
    }
    let specs = &structure.specs;
    let labels = names.labels(specs, &taken_off);
    declare(stated, specs, &mut tensors, &mut ties);
    let group = ties::declared_groups(&structure, ties.as_ref()).map_err(place)?;
    check(specs, &group, &tensors, &remarks, &config.arch).map_err(place)?;
    let present = specs.iter().map(|spec| tensors.remove(&spec.name)).collect();
    let (representatives, retied) = ties::unite(specs, &group, present, retie).map_err(place)?;

    let mut stored: Vec<Stored> = Vec::new();
    let mut known = BTreeMap::new();
    let (mut found, mut of_representative) = (Vec::new(), BTreeMap::new());
    for (spec, RawTensor { shape, dtype, data }) in representatives {
        let is_vector = !specs[spec].is_matrix();
        // Vectors never stand in for matrices: the two are coded in different ways.
        let key = (is_vector, dtype, shape, *content(&data).as_bytes());
        let index = *known.entry(key).or_insert(stored.len());
        of_representative.insert(spec, index);
        match stored.get(index) {
            None => stored.push(Stored { spec, dtype, data }),
            // Equal vectors (all ones) are common and no news.
            Some(_) if is_vector => {}
            Some(first) => found.push((specs[spec].name.clone(), specs[first.spec].name.clone())),
        }
    }
    let source: Vec<usize> = group.iter().map(|representative| of_representative[representative]).collect();
    let named = |spec: usize, representative: usize| (specs[spec].name.clone(), specs[representative].name.clone());
    let declared = group.iter().enumerate().filter(|(i, g)| i != *g).map(|(i, &g)| named(i, g)).collect();
    let copies = ties::layer_copies(&structure, &source);
    let ties = TieReport { declared, found, retied, copies };
    let Structure { specs, layers, tied_roles, net } = structure;
    Ok(Model {
        config,
        specs,
        stored,
        source,
        labels,
        kept,
        packed: std::sync::Arc::default(),
        layers,
        tied_roles,
        ties,
        remarks,
        net,
        device: candle_core::Device::Cpu,
        precision: candle_core::DType::F32,
        _checked: Checked,
    })
}

/// The names of a file, each with the canonical one.
struct Names(Vec<(String, String)>);

impl Names {
    fn of(tensors: &BTreeMap<String, RawTensor>) -> Names {
        Names(tensors.keys().map(|name| (name.clone(), name.clone())).collect())
    }

    fn take_off(&mut self, prefix: &str) {
        self.0
            .iter_mut()
            .filter(|(_, name)| name.starts_with(prefix))
            .for_each(|(_, name)| drop(name.drain(..prefix.len())));
    }

    fn rename(&mut self, from: &str, to: &str) {
        self.0.iter_mut().filter(|(_, name)| name == from).for_each(|(_, name)| *name = to.to_string());
    }

    /// The names of the file for every tensor. One that it leaves out, being tied, has the canonical name behind what was taken
    /// off the others.
    fn labels(&self, specs: &[TensorSpec], taken_off: &str) -> Vec<(String, usize)> {
        let mut labels = Vec::with_capacity(specs.len());
        for (i, spec) in specs.iter().enumerate() {
            let mut own: Vec<String> =
                self.0.iter().filter(|(_, name)| *name == spec.name).map(|(label, _)| label.clone()).collect();
            if own.is_empty() {
                own.push(format!("{taken_off}{}", spec.name));
            }
            // The name that is nearest to the canonical one first.
            own.sort_by_key(|label| {
                (!label.ends_with(&spec.name), !spec.name.ends_with(label.as_str()), label.clone())
            });
            labels.extend(own.into_iter().map(|label| (label, i)));
        }
        labels
    }
}

/// Tensors that are no weights, but for those that a known network computes itself, or wants as weights.
fn keep(beside: BTreeMap<String, Beside>, structure: &Structure, prefix: &str, remarks: &mut Vec<Remark>) -> Vec<Kept> {
    let specs: BTreeSet<&str> = structure.specs.iter().map(|spec| spec.name.as_str()).collect();
    let wanted = |name: &str| specs.contains(name.strip_prefix(prefix).unwrap_or(name));
    let mut kept: Vec<Kept> = beside
        .into_iter()
        .filter(|(name, tensor)| structure.net.is_err() || !tensor.recomputed && !wanted(name))
        .map(|(name, Beside { shape, element, bytes, .. })| Kept { name, shape, element, bytes })
        .collect();
    kept.sort_by_key(|kept| natural_order(&kept.name));
    for remark in remarks.iter_mut() {
        if let Remark::Dropped(names) = remark {
            kept.iter().for_each(|kept| drop(names.remove(&kept.name)));
        }
    }
    remarks.retain(|remark| !matches!(remark, Remark::Dropped(names) if names.is_empty()));
    kept
}

/// Holds a source against its network or, where its tensors are not those of the network, takes it for what it is: a
/// model of tensors, which can be packed and not run. A remark says so.
///
/// # Errors
/// As [`build`], of a model without a network.
pub fn build_as_it_is(source: Source, net: Result<Arc<dyn Net>>, retie: Option<Retie>) -> Result<Model> {
    let structure = Structure::of_file(net, &source.tensors);
    if structure.net.is_err() {
        return build(source, structure, retie);
    }
    let mut whole = source.clone();
    build(source, structure, retie).or_else(|why| {
        whole.remarks.push(Remark::Unexplained(why.message.clone()));
        let structure = Structure::of_file(Err(why.clone()), &whole.tensors);
        build(whole, structure, retie).map_err(|_| why)
    })
}

/// Ties that the file states itself.
fn stated(remarks: &[Remark]) -> BTreeMap<String, String> {
    let of = |remark: &Remark| if let Remark::Tied(ties) = remark { Some(ties.clone()) } else { None };
    remarks.iter().find_map(of).unwrap_or_default()
}

/// Declares the ties that a file states, as far as both names are the model's; a name that it left out and that the
/// model does not have is no more.
fn declare(
    stated: BTreeMap<String, String>,
    specs: &[TensorSpec],
    tensors: &mut BTreeMap<String, RawTensor>,
    ties: &mut Option<TieMap>,
) {
    let names: BTreeSet<&str> = specs.iter().map(|spec| spec.name.as_str()).collect();
    for (name, kept) in stated {
        if !names.contains(name.as_str()) {
            tensors.remove(&name);
        } else if names.contains(kept.as_str()) {
            ties.get_or_insert_default().aliases.entry(name).or_insert(kept);
        }
    }
}

/// Gives tensors their canonical names: adds the prefix that a state dict left out, and drops what it holds twice.
fn canonical_names(tensors: &mut BTreeMap<String, RawTensor>, file: &mut Names, net: &dyn Net) -> Result<()> {
    let (prefix, aliases) = (net.prefix(), net.aliases());
    let alias = |name: &str| aliases.iter().any(|(alias, _)| *alias == name);
    let known = net.tensors();
    let bare = |name: &String| {
        !alias(name) && !name.starts_with(prefix) && known.iter().any(|spec| spec.name == format!("{prefix}{name}"))
    };
    if !prefix.is_empty() && tensors.keys().all(|name| alias(name) || !name.starts_with(prefix)) {
        let names: Vec<String> = tensors.keys().filter(|name| bare(name)).cloned().collect();
        for name in names {
            if let Some(tensor) = tensors.remove(&name) {
                let canonical = format!("{prefix}{name}");
                tensors.insert(canonical.clone(), tensor);
                file.rename(&name, &canonical);
            }
        }
    }
    for (alias, name) in aliases {
        let Some(tensor) = tensors.remove(*alias) else { continue };
        file.rename(alias, name);
        match tensors.get(*name) {
            None => {
                tensors.insert(name.to_string(), tensor);
            }
            Some(first) if first.shape == tensor.shape && ties::same_bits(&first.data, &tensor.data) => {}
            Some(_) => {
                return Err(Error::input(format!(
                    "{alias} is not {name}, but the configuration says that they are one"
                ))
                .hint("set tie_word_embeddings to false where the network keeps a head of its own"));
            }
        }
    }
    Ok(())
}

/// Missing, wrongly shaped and foreign tensors, the first few of them listed.
fn check(
    specs: &[TensorSpec],
    group: &[usize],
    tensors: &BTreeMap<String, RawTensor>,
    remarks: &[Remark],
    arch: &str,
) -> Result<()> {
    let mut faults = Vec::new();
    // A tied tensor may be left out as long as one of its group is there.
    let mut served = vec![false; specs.len()];
    for (spec, &representative) in specs.iter().zip(group) {
        served[representative] |= tensors.contains_key(&spec.name);
    }
    for (spec, &representative) in specs.iter().zip(group) {
        let TensorSpec { name, shape, .. } = spec;
        match tensors.get(name) {
            None if served[representative] => {}
            None => {
                let why = remarks.iter().find_map(|remark| remark.dropped(name));
                let why = why.map_or_else(String::new, |why| format!(": it was left out, being {why}"));
                faults.push(format!("{name} {shape:?} is missing{why}"));
            }
            Some(tensor) if tensor.shape != *shape => {
                faults.push(format!("{name} has shape {:?}, wanted {shape:?}", tensor.shape));
            }
            Some(tensor) => debug_assert_eq!(tensor.data.len(), elements(shape)),
        }
    }
    let wanted: BTreeSet<&str> = specs.iter().map(|s| s.name.as_str()).collect();
    let foreign = tensors.iter().filter(|(name, _)| !wanted.contains(name.as_str()));
    faults.extend(foreign.map(|(name, tensor)| format!("{name} {:?} is not expected", tensor.shape)));
    if faults.is_empty() {
        return Ok(());
    }
    let count = faults.len();
    let more = if count > LISTED { format!("; and {} more", count - LISTED) } else { String::new() };
    faults.truncate(LISTED);
    let listed = faults.join("; ");
    Err(Error::input(format!("the tensors are not those of {arch} with this configuration: {listed}{more}"))
        .hint("does config.json belong to these weights?"))
}

/// Hash of a tensor's weights, bit by bit.
fn content(data: &[f32]) -> blake3::Hash {
    let mut hasher = blake3::Hasher::new();
    let mut bytes = Vec::with_capacity(1 << 16);
    for chunk in data.chunks(1 << 14) {
        bytes.clear();
        bytes.extend(chunk.iter().flat_map(|x| x.to_le_bytes()));
        hasher.update(&bytes);
    }
    hasher.finalize()
}

/// The bundled model, for tests of later stages.
#[cfg(test)]
pub(crate) fn bundled() -> Model {
    use crate::ingest::{self, Overrides, folder};
    let folder = std::path::Path::new("fixtures/pep-tiny");
    let source = ingest::read(&folder::locate(folder, &Overrides::default()).unwrap()).unwrap();
    let net = crate::nets::build(&source.config).unwrap();
    build(source, net, None).unwrap()
}
