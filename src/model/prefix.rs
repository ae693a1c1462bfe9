//! A prefix that stands before all names of a file and that the network does not know: the attribute of a training
//! script's module, the base model of an adapter.

use std::collections::{BTreeMap, BTreeSet};

use crate::ingest::{RawTensor, Remark, TieMap};
use crate::nets::Net;
use crate::nets::names::common_prefixes;

/// The prefix without which more names are the network's than with it; of equals the shortest.
pub fn superfluous(tensors: &BTreeMap<String, RawTensor>, net: &dyn Net) -> Option<String> {
    let specs = net.tensors();
    let mut known: BTreeSet<&str> = specs.iter().map(|spec| spec.name.as_str()).collect();
    // Some state dicts leave the network's own prefix out.
    known.extend(specs.iter().filter_map(|spec| spec.name.strip_prefix(net.prefix())));
    known.extend(net.aliases().iter().map(|(alias, _)| *alias));
    let found = |prefix: &str| tensors.keys().filter(|name| known.contains(&name[prefix.len()..])).count();
    let (mut best, mut most) = (None, found(""));
    for prefix in common_prefixes(tensors.keys().map(String::as_str)) {
        if found(prefix) > most {
            (best, most) = (Some(prefix.to_string()), found(prefix));
        }
    }
    best
}

/// Takes a prefix off the names of all tensors, and off those that ties speak of.
pub fn take_off(
    prefix: &str,
    tensors: &mut BTreeMap<String, RawTensor>,
    ties: Option<&mut TieMap>,
    stated: &mut BTreeMap<String, String>,
) {
    let bare = |name: String| name.strip_prefix(prefix).map_or(name.clone(), String::from);
    *tensors = std::mem::take(tensors).into_iter().map(|(name, tensor)| (bare(name), tensor)).collect();
    for aliases in [ties.map(|ties| &mut ties.aliases), Some(stated)].into_iter().flatten() {
        *aliases = std::mem::take(aliases).into_iter().map(|(name, kept)| (bare(name), bare(kept))).collect();
    }
}

/// Says that a prefix was taken off so many names.
pub fn say(prefix: String, names: usize, remarks: &mut Vec<Remark>) {
    for remark in remarks.iter_mut() {
        if let Remark::Dropped(dropped) = remark {
            let bare = |name: String| name.strip_prefix(&prefix).map_or(name.clone(), String::from);
            *dropped = std::mem::take(dropped).into_iter().map(|(name, why)| (bare(name), why)).collect();
        }
    }
    remarks.push(Remark::Stripped([(prefix, names)].into()));
}
