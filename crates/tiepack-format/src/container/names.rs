//! Names, shapes and forms of a model's tensors as a header carries them: what repeats from layer to layer costs nothing.

use std::collections::BTreeSet;

use crate::error::{Error, Result};
use crate::limits::{Limits, MAX_RANK};
use crate::tensor::Form;
use crate::varint::{Reader, put};

/// A tensor of the model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Named {
    pub name: String,
    pub shape: Vec<usize>,
    pub form: Form,
}

/// A name in three parts around its layer's number: `blocks.`, 3, `.attn.c_q.weight`. The number is the first part
/// between dots that is one; `None` where there is none.
pub fn split_layer(name: &str) -> Option<(&str, usize, &str)> {
    let mut at = 0;
    for part in name.split('.') {
        let layer = part.parse::<u16>().ok().filter(|n| n.to_string() == part);
        if let Some(layer) = layer {
            return Some((&name[..at], usize::from(layer), &name[at + part.len()..]));
        }
        at += part.len() + 1;
    }
    None
}

/// The name parts, form and shape that the tensors of one role (a kind, in the format) share. The layer's number stands between
/// `prefix` and `suffix`.
#[derive(PartialEq)]
struct Role {
    prefix: String,
    /// `None`: the tensor belongs to no layer, and `prefix` is its name.
    suffix: Option<String>,
    form: Form,
    shape: Vec<usize>,
}

/// A tensor as the number of its role, and the distance of its layer from that of the last tensor with a layer.
#[derive(Clone, Copy, PartialEq)]
struct Entry {
    role: usize,
    distance: i64,
}

const FORMS: [Form; 3] = [Form::Vector, Form::Matrix, Form::Embedding];

/// Writes `tensors`: the kinds, then the kind of each tensor in runs of new ones and of such as stood before.
///
/// # Errors
/// Compute, when there are more tensors, longer names or more dimensions than the format allows, or two of one name.
pub(super) fn put_names(out: &mut Vec<u8>, tensors: &[Named]) -> Result<()> {
    let (total, ranks) = (tensors.iter().map(|t| t.name.len()).sum::<usize>(), tensors.iter().map(|t| t.shape.len()));
    let distinct = tensors.iter().map(|t| &t.name).collect::<BTreeSet<_>>().len();
    let rank = ranks.max().unwrap_or(0);
    let limits = Limits::default();
    let (most, names) = (limits.tensors, limits.names);
    if tensors.len() > most || total > names || rank > MAX_RANK || distinct < tensors.len() {
        return Err(Error::compute(format!(
            "{} tensors of {distinct} names, {total} bytes of names and up to {rank} dimensions: the format allows \
             {most}, each of its own name, {names} and {MAX_RANK}",
            tensors.len()
        )));
    }
    if let Some(Named { name, shape, .. }) = tensors.iter().find(|t| !limits.allows(&t.shape)) {
        return Err(Error::compute(format!("{name} of shape {shape:?} is larger than the format allows")));
    }
    let (mut roles, mut entries, mut layer): (Vec<Role>, Vec<Entry>, usize) = (Vec::new(), Vec::new(), 0);
    for Named { name, shape, form } in tensors {
        let (role, distance) = match split_layer(name) {
            Some((prefix, here, suffix)) => {
                let distance = here as i64 - layer as i64;
                layer = here;
                (
                    Role { prefix: prefix.into(), suffix: Some(suffix.into()), form: *form, shape: shape.clone() },
                    distance,
                )
            }
            None => (Role { prefix: name.clone(), suffix: None, form: *form, shape: shape.clone() }, 0),
        };
        let known = roles.iter().position(|k| *k == role);
        entries.push(Entry { role: known.unwrap_or(roles.len()), distance });
        if known.is_none() {
            roles.push(role);
        }
    }
    put(out, roles.len() as u64);
    for Role { prefix, suffix, form, shape } in &roles {
        let form = FORMS.iter().position(|f| f == form).unwrap_or(0);
        put(out, 2 * form as u64 + u64::from(suffix.is_some()));
        for text in [Some(prefix), suffix.as_ref()].into_iter().flatten() {
            put(out, text.len() as u64);
            out.extend_from_slice(text.as_bytes());
        }
        put(out, shape.len() as u64);
        shape.iter().for_each(|d| put(out, *d as u64));
    }
    put(out, entries.len() as u64);
    put_entries(out, &entries, &roles);
    Ok(())
}

fn put_entries(out: &mut Vec<u8>, entries: &[Entry], roles: &[Role]) {
    let mut at = 0;
    while at < entries.len() {
        let fresh = (at..entries.len()).take_while(|&k| repeat(entries, k).0 < 2).count();
        put(out, fresh as u64);
        for Entry { role, distance } in &entries[at..at + fresh] {
            put(out, *role as u64);
            if roles[*role].suffix.is_some() {
                put(out, ((distance << 1) ^ (distance >> 63)) as u64);
            }
        }
        at += fresh;
        if at < entries.len() {
            let (length, distance) = repeat(entries, at);
            put(out, length as u64);
            put(out, distance as u64);
            at += length;
        }
    }
}

/// The longest run from `at` that equals the one `distance` places before it, and of equally long ones the nearest.
fn repeat(entries: &[Entry], at: usize) -> (usize, usize) {
    let (mut length, mut distance) = (0, 0);
    for d in 1..=at {
        let same = entries[at..].iter().zip(&entries[at - d..]).take_while(|(a, b)| a == b).count();
        if same > length {
            (length, distance) = (same, d);
        }
    }
    (length, distance)
}

/// Reads what [`put_names`] wrote.
///
/// # Errors
/// Verification, on anything else; never more bytes of names are made than `limits` allow.
pub(super) fn take_names(r: &mut Reader, limits: &Limits) -> Result<Vec<Named>> {
    let count = r.within(0, limits.tensors, "number of kinds of tensors")?;
    let mut roles = Vec::new();
    for _ in 0..count {
        let tag = r.within(0, 2 * FORMS.len() - 1, "form of a tensor")?;
        let prefix = text(r, limits)?;
        let suffix = if tag % 2 == 1 { Some(text(r, limits)?) } else { None };
        let rank = r.within(0, MAX_RANK, "number of dimensions")?;
        let shape: Vec<usize> = (0..rank).map(|_| r.within(0, 1 << 31, "dimension")).collect::<Result<_>>()?;
        if !limits.allows(&shape) {
            return Err(Error::verification(format!("a tensor of shape {shape:?} is larger than allowed")));
        }
        roles.push(Role { prefix, suffix, form: FORMS[tag / 2], shape });
    }
    let entries = take_entries(r, &roles, limits)?;
    let (mut tensors, mut names, mut layer, mut total) = (Vec::new(), BTreeSet::new(), 0i64, 0);
    for Entry { role, distance } in entries {
        let Role { prefix, suffix, form, shape } = &roles[role];
        let name = match suffix {
            None => prefix.clone(),
            Some(suffix) => {
                layer =
                    layer.checked_add(distance).filter(|l| (0..=i64::from(u16::MAX)).contains(l)).ok_or_else(|| {
                        Error::verification(format!(
                            "a layer's number is {distance} from {layer}, allowed are 0 to {}",
                            u16::MAX
                        ))
                    })?;
                format!("{prefix}{layer}{suffix}")
            }
        };
        total += name.len();
        if total > limits.names {
            let most = limits.names;
            return Err(Error::verification(format!("the names take more than the {most} bytes allowed")));
        }
        if !names.insert(name.clone()) {
            return Err(Error::verification(format!("two tensors are called {name:?}")));
        }
        tensors.push(Named { name, shape: shape.clone(), form: *form });
    }
    Ok(tensors)
}

fn text(r: &mut Reader, limits: &Limits) -> Result<String> {
    let length = r.within(0, limits.names, "length of a name")?;
    let bytes = r.take(length, "name")?;
    String::from_utf8(bytes.to_vec()).map_err(|_| Error::verification("a name is not UTF-8 text"))
}

fn take_entries(r: &mut Reader, roles: &[Role], limits: &Limits) -> Result<Vec<Entry>> {
    let n = r.within(0, limits.tensors, "number of tensors")?;
    let mut entries: Vec<Entry> = Vec::with_capacity(n);
    while entries.len() < n {
        let fresh = r.within(0, n - entries.len(), "run of tensors")?;
        for _ in 0..fresh {
            let last =
                roles.len().checked_sub(1).ok_or_else(|| Error::verification("there are tensors but no kinds"))?;
            let role = r.within(0, last, "kind of a tensor")?;
            let distance = match roles[role].suffix {
                Some(_) => r.varint("step of a layer").map(|v| (v >> 1) as i64 ^ -((v & 1) as i64))?,
                None => 0,
            };
            entries.push(Entry { role, distance });
        }
        if entries.len() == n {
            break;
        }
        let length = r.within(1, n - entries.len(), "run of repeated tensors")?;
        let distance = r.within(1, entries.len(), "distance of a repetition")?;
        // One by one: a run may repeat itself.
        for _ in 0..length {
            entries.push(entries[entries.len() - distance]);
        }
    }
    Ok(entries)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_first_number_between_dots_is_the_layer() {
        assert_eq!(split_layer("blocks.3.attn.c_q.weight"), Some(("blocks.", 3, ".attn.c_q.weight")));
        assert_eq!(split_layer("h.10"), Some(("h.", 10, "")));
        assert_eq!(split_layer("0.weight"), Some(("", 0, ".weight")));
        assert_eq!(split_layer("a.1.b.2.c"), Some(("a.", 1, ".b.2.c")));
        for name in ["tok_emb.weight", "layer3.weight", "a.01.b", "a.70000.b", "", "."] {
            assert_eq!(split_layer(name), None, "{name}");
        }
    }

    fn layers(n: usize) -> Vec<Named> {
        let roles = ["attn.c_q", "attn.c_k", "attn.c_v", "attn.proj", "mlp.fc", "mlp.proj"];
        let mut tensors = vec![Named { name: "tok_emb.weight".into(), shape: vec![1024, 512], form: Form::Embedding }];
        for layer in 0..n {
            for role in roles {
                let name = format!("blocks.{layer}.{role}.weight");
                tensors.push(Named { name, shape: vec![512, 512], form: Form::Matrix });
            }
            let name = format!("blocks.{layer}.resid_mix");
            tensors.push(Named { name, shape: vec![2, 512], form: Form::Vector });
        }
        tensors
    }

    fn bytes(tensors: &[Named]) -> Vec<u8> {
        let mut out = Vec::new();
        put_names(&mut out, tensors).unwrap();
        out
    }

    #[test]
    fn layers_beyond_the_second_cost_nothing() {
        let [two, nine, many] = [2, 9, 1000].map(|n| bytes(&layers(n)).len());
        assert!(nine <= two + 1 && many <= two + 4, "{two}, {nine}, {many} bytes");
    }

    #[test]
    fn names_that_cannot_be_are_refused() {
        let twice = [layers(1), layers(1)].concat();
        assert!(put_names(&mut Vec::new(), &twice).is_err());
        let long = Named { name: "x".repeat(Limits::default().names + 1), shape: vec![], form: Form::Vector };
        assert!(put_names(&mut Vec::new(), &[long]).is_err());
        // One kind with a name of 4,000 bytes, 2,000 times: more than the limit once written out.
        let mut bomb = vec![1, 1];
        put(&mut bomb, 4000);
        bomb.extend([b'x'; 4000]);
        bomb.extend([1, b'.', 0]);
        put(&mut bomb, 2000);
        bomb.extend([1, 0, 2]);
        put(&mut bomb, 1999);
        bomb.push(1);
        let error = take_names(&mut Reader::new(&bomb), &Limits::default()).unwrap_err();
        assert!(error.message.contains("names take more"), "{}", error.message);
    }

    fn named() -> impl Strategy<Value = Named> {
        let name = prop_oneof![
            (0u32..12, "[a-c]{1,2}").prop_map(|(layer, role)| format!("h.{layer}.{role}")),
            "[a-z.]{0,6}",
            "\\PC{0,6}",
            (any::<u16>(), "[a-b.]{0,2}").prop_map(|(layer, role)| format!("{layer}{role}")),
        ];
        let form = prop_oneof![Just(Form::Vector), Just(Form::Matrix), Just(Form::Embedding)];
        (name, prop::collection::vec(0usize..1200, 0..4), form).prop_map(|(name, shape, form)| Named {
            name,
            shape,
            form,
        })
    }

    proptest! {
        #[test]
        fn every_list_comes_back(tensors in prop::collection::vec(named(), 0..60)) {
            let mut seen = BTreeSet::new();
            let tensors: Vec<Named> = tensors.into_iter().filter(|t| seen.insert(t.name.clone())).collect();
            let bytes = bytes(&tensors);
            let r = &mut Reader::new(&bytes);
            prop_assert_eq!(take_names(r, &Limits::default()).unwrap(), tensors);
            prop_assert!(r.finish("names").is_ok());
        }

        #[test]
        fn any_bytes_are_survived(bytes in prop::collection::vec(any::<u8>(), 0..80)) {
            let _ = take_names(&mut Reader::new(&bytes), &Limits::default());
        }
    }
}
