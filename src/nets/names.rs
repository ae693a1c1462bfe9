//! Tensor names and the layer numbers inside them, for models that no registered network describes.

use std::collections::BTreeMap;

pub use tiepack_format::container::split_layer;

use super::{Form, TensorSpec};

/// Fewer values than this are a control tensor, whatever their shape.
const MATRIX_VALUES: usize = 1024;
/// A dimension below this makes a control tensor as well: the two rows of a mix, the taps of a convolution.
const MATRIX_SIDE: usize = 8;

/// The prefixes that all of these names have, each up to a point, the shortest first. The names are in their order.
pub fn common_prefixes<'a>(names: impl Iterator<Item = &'a str>) -> Vec<&'a str> {
    let names: Vec<&str> = names.collect();
    let (first, last) = (names.first().copied().unwrap_or_default(), names.last().copied().unwrap_or_default());
    // In the order of names, what the first and the last share, all do.
    let shared = first.bytes().zip(last.bytes()).take_while(|(a, b)| a == b).count();
    first.bytes().take(shared).enumerate().filter(|(_, byte)| *byte == b'.').map(|(at, _)| &first[..=at]).collect()
}

/// Specs of tensors that are known by name and shape only, in the order given.
///
/// The role is what follows the layer's number; where stacks of several names (encoder, decoder) have a part of the
/// same role, it begins with the stack's name. Matrices are tensors of two dimensions or more with enough values: all
/// but the last dimension together count as rows.
pub fn describe(tensors: impl IntoIterator<Item = (String, Vec<usize>, Form)>) -> Vec<TensorSpec> {
    let tensors: Vec<_> = tensors.into_iter().collect();
    let mut stacks: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for (name, ..) in &tensors {
        if let Some((prefix, _, suffix)) = split_layer(name) {
            let stacks = stacks.entry(suffix.to_string()).or_default();
            if !stacks.iter().any(|known| known == prefix) {
                stacks.push(prefix.to_string());
            }
        }
    }
    let spec = |(name, shape, form): (String, Vec<usize>, Form)| {
        let (layer, role) = match split_layer(&name) {
            None => (None, name.clone()),
            Some((prefix, layer, suffix)) => {
                let part = suffix.trim_start_matches('.');
                let shared = stacks.get(suffix).is_some_and(|stacks| stacks.len() > 1);
                (Some(layer), if shared { format!("{prefix}{part}") } else { part.to_string() })
            }
        };
        TensorSpec { name, role, layer, shape, form }
    };
    tensors.into_iter().map(spec).collect()
}

/// The form assumed for a tensor of this shape.
pub fn form_of(shape: &[usize]) -> Form {
    let values: usize = shape.iter().product();
    let sides = [shape.last().copied().unwrap_or(1), values / shape.last().copied().unwrap_or(1).max(1)];
    let matrix = shape.len() > 1 && values >= MATRIX_VALUES && sides.iter().all(|side| *side >= MATRIX_SIDE);
    if matrix { Form::Matrix } else { Form::Vector }
}

/// Sorts names as people count: `layers.2` before `layers.10`.
pub fn natural_order(name: &str) -> Vec<(u64, String)> {
    let mut parts = Vec::new();
    for part in name.split('.') {
        parts.push(match part.parse() {
            Ok(number) => (number, String::new()),
            Err(_) => (u64::MAX, part.to_string()),
        });
    }
    parts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stacks_that_share_a_part_keep_their_names() {
        let tensors =
            ["enc.0.w", "enc.1.w", "dec.0.w", "dec.0.b", "head"].map(|n| (n.to_string(), vec![3], Form::Vector));
        let roles: Vec<String> = describe(tensors).into_iter().map(|spec| spec.role).collect();
        assert_eq!(roles, ["enc.w", "enc.w", "dec.w", "b", "head"]);
    }

    #[test]
    fn layers_are_counted_as_people_do() {
        let mut names = vec!["b.10.w", "b.2.w", "b.2.a", "a.w"];
        names.sort_by_key(|name| natural_order(name));
        assert_eq!(names, ["a.w", "b.2.a", "b.2.w", "b.10.w"]);
    }

    #[test]
    fn small_and_thin_tensors_are_control_tensors() {
        let forms = [&[64, 64][..], &[8, 4, 64], &[2, 4096], &[4096, 4], &[16, 16], &[9000], &[]].map(form_of);
        let [matrix, vector] = [Form::Matrix, Form::Vector];
        assert_eq!(forms, [matrix, matrix, vector, vector, vector, vector, vector]);
    }
}
