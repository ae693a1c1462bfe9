//! The state dict within a checkpoint, under the names that PyTorch would give its tensors.
//!
//! What is found is flattened: dicts by their keys, lists by their numbers, joined by points. A tensor that is not
//! taken in is counted where it stands, so that none is lost in silence.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use super::gather::MAX_TENSORS;
use super::pickle::{Id, Pickle, Value, dotted};
use super::remark::Remark;
use crate::error::{Error, Result};

/// Where checkpoints keep the model, most telling first.
const KEYS: [&str; 8] =
    ["model_state_dict", "state_dict", "model_state", "model", "module", "network", "net", "weights"];
/// Parts of the names under which training runs keep what is no model.
const TRAINING: [&str; 4] = ["optim", "sched", "rng", "scaler"];
/// Dicts within dicts that are looked into.
const MAX_DEPTH: usize = 32;
/// Bytes of all names that flattening makes: a pickle that refers to itself has paths without end.
const MAX_NAMES: usize = 1 << 24;

/// What there is to read of a checkpoint.
#[derive(Debug, Default)]
pub struct State {
    /// Where the state dict was found if not at the root, and what lies beside it.
    pub found: Option<Remark>,
    /// By their names, in the order of these.
    pub tensors: BTreeMap<String, Id>,
    /// What stands among the tensors and is none, and what it is.
    pub others: BTreeMap<String, String>,
}

/// Keys with values.
type Entries = Vec<(String, Id)>;

/// Finds the state dict of a checkpoint.
///
/// # Errors
/// There is none, or several and none that is called a model's; two tensors would have the same name; a tensor stands
/// where no name can be given to it, or in an object.
pub fn find(pickle: &Pickle) -> Result<State> {
    let tree = Tree::of(pickle);
    let (mut here, mut path, mut beside) = (pickle.root, Vec::new(), Vec::new());
    if let Value::Object(_) = pickle.get(here) {
        return Err(Error::input(format!("the checkpoint is {}; nothing was run", tree.kind(here)))
            .hint("save the tensors alone: torch.save(model.state_dict(), \"model.pt\")"));
    }
    if !matches!(pickle.get(here), Value::Dict(_)) {
        return Err(Error::input(format!("the checkpoint is {}, wanted a dict of tensors", tree.kind(here)))
            .hint("save it with torch.save(model.state_dict(), \"model.pt\")"));
    }
    while let Some((key, inner)) = tree.next(here, &path)? {
        let mut rest: Vec<_> = tree.entries(here)?.into_iter().filter(|(name, _)| *name != key).collect();
        // What holds tensors first: a list of names may be cut short.
        rest.sort_by_key(|(_, id)| !tree.holds(*id));
        beside.extend(rest.into_iter().map(|(name, id)| match tree.count(id) {
            0 => name,
            count => format!("{name} ({})", tensors(count)),
        }));
        path.push(key);
        here = inner;
    }
    let mut state = State::default();
    let root = path.is_empty();
    tree.flatten(here, "", if root { 0 } else { 1 }, &mut 0, &mut state)?;
    state.found = (!path.is_empty()).then(|| Remark::Nested { at: path.join("."), beside });
    if state.tensors.is_empty() {
        return Err(Error::input("the checkpoint holds no tensors").hint("is it an optimizer's?"));
    }
    Ok(state)
}

/// A pickle, and which of its values are or hold tensors.
struct Tree<'p, 'a> {
    pickle: &'p Pickle<'a>,
    holds: Vec<bool>,
    /// What dicts have beside their entries, where it holds tensors.
    states: HashMap<Id, Id>,
}

impl<'p, 'a> Tree<'p, 'a> {
    fn of(pickle: &'p Pickle<'a>) -> Self {
        // From the tensors to what holds them, since a container may hold itself.
        let mut edges: Vec<(Id, Id)> = pickle.parts().map(|(whole, part)| (part, whole)).collect();
        edges.sort_unstable();
        let mut holds = vec![false; pickle.len()];
        let mut open: Vec<Id> = pickle.tensors().collect();
        open.iter().for_each(|id| holds[*id as usize] = true);
        while let Some(part) = open.pop() {
            let first = edges.partition_point(|edge| edge.0 < part);
            for (_, whole) in edges[first..].iter().take_while(|edge| edge.0 == part) {
                if !std::mem::replace(&mut holds[*whole as usize], true) {
                    open.push(*whole);
                }
            }
        }
        let telling = pickle.states().iter().filter(|(_, state)| holds[*state as usize]);
        let states = telling.copied().collect();
        Tree { pickle, holds, states }
    }

    fn holds(&self, id: Id) -> bool {
        self.holds[id as usize]
    }

    fn is_tensor(&self, id: Id) -> bool {
        matches!(self.pickle.get(id), Value::Tensor(..))
    }

    /// Different tensors in a value.
    fn count(&self, id: Id) -> usize {
        let (mut open, mut seen, mut count) = (vec![id], BTreeSet::new(), 0);
        while let Some(id) = open.pop() {
            if !self.holds(id) || !seen.insert(id) {
                continue;
            }
            match self.pickle.get(id) {
                Value::Tensor(..) => count += 1,
                Value::Dict(entries) => open.extend(entries.iter().map(|(_, value)| *value)),
                Value::Tuple(items) | Value::List(items) | Value::Object(items) => open.extend(items),
                _ => {}
            }
            open.extend(self.states.get(&id));
        }
        count
    }

    /// As a person would call it: an object by its class.
    fn kind(&self, id: Id) -> String {
        if let Value::Object(parts) = self.pickle.get(id)
            && let Some(Value::Class(class)) = parts.first().map(|class| self.pickle.get(*class))
        {
            return format!("a pickled object of {}, which only its own code can read", dotted(class));
        }
        self.pickle.get(id).kind().into()
    }

    /// The entries of a dict, the last of each key, in the order of names; those of a list by their numbers.
    fn entries(&self, id: Id) -> Result<Entries> {
        let mut named: BTreeMap<String, (bool, Id)> = BTreeMap::new();
        match self.pickle.get(id) {
            Value::Dict(entries) => {
                for (key, value) in entries {
                    let (text, name) = match self.pickle.get(*key) {
                        Value::Text(name) => (true, (*name).to_string()),
                        Value::Int(n) => (false, n.to_string()),
                        other if self.holds(*value) => {
                            return Err(Error::input(format!(
                                "{} under a key that is {}, which gives no name",
                                tensors(self.count(*value)),
                                other.kind()
                            ))
                            .hint("name the tensors of a state dict by strings"));
                        }
                        _ => continue,
                    };
                    match named.insert(name.clone(), (text, *value)) {
                        Some((other, before)) if other != text && (self.holds(before) || self.holds(*value)) => {
                            return Err(Error::input(format!("{name} is a key twice, as a number and as a string"))
                                .hint("name the tensors of a state dict by strings"));
                        }
                        _ => {}
                    }
                }
            }
            Value::Tuple(items) | Value::List(items) => {
                return Ok(items.iter().enumerate().map(|(i, id)| (i.to_string(), *id)).collect());
            }
            _ => {}
        }
        Ok(named.into_iter().map(|(name, (_, id))| (name, id)).collect())
    }

    /// Whether a value is what optimizers, schedules and the like leave behind.
    fn is_optimizer(&self, id: Id) -> bool {
        match self.pickle.get(id) {
            Value::Dict(entries) => {
                let has = |wanted: &str| {
                    entries.iter().any(|(key, _)| matches!(self.pickle.get(*key), Value::Text(name) if *name == wanted))
                };
                has("state") && has("param_groups")
            }
            Value::Tuple(items) | Value::List(items) => {
                let mut holders = items.iter().filter(|id| self.holds(**id)).peekable();
                // One level only: a list may hold itself.
                holders.peek().is_some()
                    && holders.all(|id| matches!(self.pickle.get(*id), Value::Dict(_)) && self.is_optimizer(*id))
            }
            _ => false,
        }
    }

    fn is_training(&self, name: &str, id: Id) -> bool {
        let name = name.to_lowercase();
        TRAINING.iter().any(|part| name.contains(part)) || self.is_optimizer(id)
    }

    /// The entry of a checkpoint in which its model is; `None`: it is here.
    fn next(&self, here: Id, path: &[String]) -> Result<Option<(String, Id)>> {
        let entries = self.entries(here)?;
        let holders: Vec<_> = entries.into_iter().filter(|(_, id)| self.holds(*id)).collect();
        let dict = |id: Id| matches!(self.pickle.get(id), Value::Dict(_));
        let (dicts, rest): (Vec<_>, Vec<_>) = holders
            .into_iter()
            .filter(|(name, id)| !self.is_training(name, *id) || self.is_tensor(*id))
            .partition(|(_, id)| dict(*id));
        let known = KEYS.iter().find_map(|key| dicts.iter().find(|(name, _)| name == key));
        let inside = path.iter().any(|key| KEYS.contains(&&key[..]));
        match (known, &dicts[..]) {
            _ if path.len() == MAX_DEPTH => Ok(None),
            // Within a model these are names of its parts, unless nothing else is there.
            (Some(known), all) if !inside || all.len() == 1 && rest.is_empty() => Ok(Some(known.clone())),
            // Tensors or lists of them: this is the state dict.
            _ if !path.is_empty() || !rest.is_empty() => Ok(None),
            (_, []) => Err(Error::input("the checkpoint holds no tensors").hint("is it an optimizer's?")),
            (_, [one]) => Ok(Some(one.clone())),
            (_, many) => {
                let names: Vec<String> =
                    many.iter().map(|(name, id)| format!("{name} ({})", tensors(self.count(*id)))).collect();
                let (count, names) = (names.len(), names.join(", "));
                Err(Error::input(format!("the checkpoint holds {count} state dicts: {names}"))
                    .hint("save the model's alone: torch.save(checkpoint[KEY], \"model.pt\")"))
            }
        }
    }

    /// Takes in all tensors of a value that is so deep in the checkpoint, under names that begin with `prefix`.
    /// `written` counts the bytes of all names.
    fn flatten(&self, id: Id, prefix: &str, depth: usize, written: &mut usize, state: &mut State) -> Result<()> {
        if let Some(beside) = self.states.get(&id) {
            let (count, place) = (tensors(self.count(*beside)), place(prefix));
            return Err(Error::input(format!("{place} has {count} beside its entries, which gives them no name"))
                .hint("save a plain dict of tensors"));
        }
        if depth > MAX_DEPTH {
            let names: String = prefix.chars().take(80).collect();
            return Err(Error::input(format!("tensors are nested more than {MAX_DEPTH} deep: {names}…"))
                .hint("save a flat dict of tensors"));
        }
        for (key, value) in self.entries(id)? {
            let name = format!("{prefix}{key}");
            *written += name.len() + 1;
            match self.pickle.get(value) {
                Value::Tensor(..) => {
                    if state.tensors.insert(name.clone(), value).is_some() {
                        return Err(Error::input(format!("two tensors of the checkpoint are both {name}"))
                            .hint("save a flat dict of tensors"));
                    }
                }
                // By its name only beside a model, not within one.
                _ if self.holds(value) && (self.is_optimizer(value) || depth == 0 && self.is_training(&key, value)) => {
                    state.others.insert(name, format!("of training, {}", tensors(self.count(value))));
                }
                Value::Dict(_) | Value::List(_) | Value::Tuple(_) if self.holds(value) => {
                    self.flatten(value, &format!("{name}."), depth + 1, written, state)?;
                }
                _ if self.holds(value) => {
                    let (count, kind) = (tensors(self.count(value)), self.kind(value));
                    return Err(Error::input(format!("{name} is {kind}; it holds {count}; nothing was run"))
                        .hint("save the tensors alone: torch.save(model.state_dict(), \"model.pt\")"));
                }
                other => drop(state.others.insert(name, other.kind().into())),
            }
            if state.tensors.len() > MAX_TENSORS || *written > MAX_NAMES {
                let found = state.tensors.len();
                return Err(Error::input(format!(
                    "the checkpoint refers to {found} tensors or more, a model has at most {MAX_TENSORS}"
                )));
            }
        }
        Ok(())
    }
}

/// What a prefix of names stands for.
fn place(prefix: &str) -> &str {
    prefix.strip_suffix('.').unwrap_or("the checkpoint")
}

/// `3 tensors`.
fn tensors(count: usize) -> String {
    format!("{count} tensor{}", if count == 1 { "" } else { "s" })
}
