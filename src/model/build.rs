//! From files to a checked model: the right tensors, the declared ties, the undeclared ones.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::ties::{self, Retie, TieReport};
use super::{Checked, Model, Stored, Structure, elements, prefix};
use crate::error::{Error, Result};
use crate::ingest::{RawTensor, Remark, Source, TieMap};
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
    let Source { path, config, mut tensors, mut ties, mut remarks } = source;
    let place = |e: Error| e.at(path.display());
    let mut stated = stated(&remarks);
    if let Ok(net) = &structure.net {
        let quantized = remarks.iter().find(|remark| matches!(remark, Remark::Quantized { .. }));
        if let Some(remark) = quantized {
            return Err(place(Error::input(remark.message()).hint(remark.hint())));
        }
        if let Some(prefix) = prefix::superfluous(&tensors, &**net) {
            prefix::take_off(&prefix, &mut tensors, ties.as_mut(), &mut stated);
            prefix::say(prefix, tensors.len(), &mut remarks);
        }
        canonical_names(&mut tensors, &**net).map_err(place)?;
        let keys = nets::unknown_keys(&config);
        if !keys.is_empty() {
            remarks.push(Remark::Unread { arch: config.arch.clone(), keys });
        }
    }
    let specs = &structure.specs;
    declare(stated, specs, &mut tensors, &mut ties);
    let group = ties::declared_groups(&structure, ties.as_ref()).map_err(place)?;
    check(specs, &group, &tensors, &remarks, &config.arch).map_err(place)?;
    let present = specs.iter().map(|spec| tensors.remove(&spec.name)).collect();
    let (leaders, retied) = ties::unite(specs, &group, present, retie).map_err(place)?;

    let mut stored: Vec<Stored> = Vec::new();
    let mut known = BTreeMap::new();
    let (mut found, mut of_leader) = (Vec::new(), BTreeMap::new());
    for (spec, RawTensor { shape, dtype, data }) in leaders {
        let is_vector = !specs[spec].is_matrix();
        // Vectors never stand in for matrices: the two are coded in different ways.
        let key = (is_vector, dtype, shape, *content(&data).as_bytes());
        let index = *known.entry(key).or_insert(stored.len());
        of_leader.insert(spec, index);
        match stored.get(index) {
            None => stored.push(Stored { spec, dtype, data }),
            // Equal vectors (all ones) are common and no news.
            Some(_) if is_vector => {}
            Some(first) => found.push((specs[spec].name.clone(), specs[first.spec].name.clone())),
        }
    }
    let source: Vec<usize> = group.iter().map(|leader| of_leader[leader]).collect();
    let named = |spec: usize, leader: usize| (specs[spec].name.clone(), specs[leader].name.clone());
    let declared = group.iter().enumerate().filter(|(i, g)| i != *g).map(|(i, &g)| named(i, g)).collect();
    let copies = ties::layer_copies(&structure, &source);
    let ties = TieReport { declared, found, retied, copies };
    let Structure { specs, layers, tied_roles, net } = structure;
    Ok(Model {
        config,
        specs,
        stored,
        source,
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
fn canonical_names(tensors: &mut BTreeMap<String, RawTensor>, net: &dyn Net) -> Result<()> {
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
                tensors.insert(format!("{prefix}{name}"), tensor);
            }
        }
    }
    for (alias, name) in aliases {
        let Some(tensor) = tensors.remove(*alias) else { continue };
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
    for (spec, &leader) in specs.iter().zip(group) {
        served[leader] |= tensors.contains_key(&spec.name);
    }
    for (spec, &leader) in specs.iter().zip(group) {
        let TensorSpec { name, shape, .. } = spec;
        match tensors.get(name) {
            None if served[leader] => {}
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
