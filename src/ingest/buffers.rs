//! Tensors of a file that are no weights: tables and masks that a network computes, told by names and values.

use super::dtype::Element;

/// Values of masks for what is not to be seen, beside minus infinity: all smaller than this.
const UNSEEN: f32 = -9999.0;

/// Why a tensor is no weight, if its name or type says so.
pub fn buffer(name: &str, element: Element, shape: &[usize]) -> Option<&'static str> {
    if let Element::Integer(kind, _) = element {
        return Some(if kind == "bool" && shape.len() > 1 && is_mask(last(name), shape) { "a mask" } else { kind });
    }
    let (path, last) = name.rsplit_once('.').unwrap_or(("", name));
    let rotary = || ["rot", "rope"].iter().any(|word| path.to_lowercase().contains(word));
    match last.trim_start_matches('_') {
        "inv_freq" | "original_inv_freq" | "cos_cached" | "sin_cached" | "freqs_cis" | "freqs_cos" | "freqs_sin" => {
            Some("a rotary table")
        }
        "cos" | "sin" | "freqs" if rotary() => Some("a rotary table"),
        "masked_bias" if shape.iter().all(|n| *n == 1) => Some("a mask's value"),
        "num_batches_tracked" => Some("a counter"),
        _ => None,
    }
}

/// Whether integers are what a network that is known computes itself: positions, counters, masks.
pub fn recomputed(name: &str, element: Element, shape: &[usize], bytes: &[u8]) -> bool {
    let values: Vec<&[u8]> = bytes.chunks_exact(element.size()).collect();
    let first = values.first();
    let other = values.iter().find(|value| Some(*value) != first);
    // The first value, the other one, and any third.
    let place = |value: &&[u8]| if Some(value) == first { 0.0 } else { if Some(value) == other { 1.0 } else { 2.0 } };
    let places: Vec<f32> = values.iter().map(place).collect();
    let named = last(name) == "position_ids" || buffer(name, Element::F32, shape).is_some();
    named || mask(name, shape, &places).is_some()
}

/// What kind of mask a tensor is: named like one, and either of zeros and values that no weight has, or of two values
/// whose boundaries run along the diagonal: causal ones, and those of a sliding window.
pub fn mask(name: &str, shape: &[usize], data: &[f32]) -> Option<&'static str> {
    if !is_mask(last(name), shape) {
        return None;
    }
    if is_band(shape, data) {
        return Some("a causal mask");
    }
    let unseen = |x: &f32| *x < UNSEEN;
    (data.iter().any(unseen) && data.iter().all(|x| *x == 0.0 || unseen(x))).then_some("a mask")
}

/// Whether every matrix of a tensor is of the same two values, and each value is the one above and before it.
fn is_band(shape: &[usize], data: &[f32]) -> bool {
    let [.., rows, columns] = *shape else { return false };
    if rows < 2 || columns < 2 || data.is_empty() {
        return false;
    }
    let bits = |x: f32| x.to_bits();
    let first = data[0];
    let Some(other) = data.iter().find(|x| bits(**x) != bits(first)) else { return false };
    let band = |matrix: &[f32]| {
        (columns..matrix.len()).all(|i| i.is_multiple_of(columns) || bits(matrix[i]) == bits(matrix[i - columns - 1]))
    };
    data.iter().all(|x| bits(*x) == bits(first) || bits(*x) == bits(*other))
        && data.chunks_exact(rows * columns).all(band)
}

/// Whether the last part of a name is one that masks have. GPT-2 calls its own `bias`, which has leading dimensions;
/// `weight_mask` is what pruning multiplies a weight with.
fn is_mask(last: &str, shape: &[usize]) -> bool {
    let last = last.to_lowercase();
    let pruning = last.starts_with("weight") || last.starts_with("bias_");
    let named = ["mask", "causal", "tril", "triu"].iter().any(|word| last.contains(word)) && !pruning;
    named || last.contains("bias") && shape.len() > 2
}

/// The last part of a name.
fn last(name: &str) -> &str {
    name.rsplit('.').next().unwrap_or(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn masks_are_told_from_weights() {
        let inf = f32::NEG_INFINITY;
        let tril = [1., 0., 0., 1., 1., 0., 1., 1., 1.];
        let window = [1., 0., 0., 0., 1., 1., 0., 0., 0., 1., 1., 0., 0., 0., 1., 1.];
        let dense = [1., 2., 3., 4., 5., 6., 7., 8., 9.];
        let (ones, mixed) = ([1.; 9], [1., 0., 1., 1., 1., 0., 0., 1., 1.]);
        let half = f32::from(half::f16::MIN);
        type Case<'a> = (&'a str, &'a [usize], &'a [f32], Option<&'a str>);
        let all: [Case; 16] = [
            ("h.0.attn.bias", &[1, 1, 3, 3], &tril, Some("a causal mask")),
            ("h.0.attn.bias", &[1, 3, 3], &tril, Some("a causal mask")),
            ("mask", &[3, 3], &[0., inf, inf, 0., 0., inf, 0., 0., 0.], Some("a causal mask")),
            ("local.bias", &[1, 1, 4, 4], &window, Some("a causal mask")),
            ("causal_mask", &[2, 4], &[1., 1., 1., 0., 1., 1., 1., 1.], Some("a causal mask")),
            ("attn_mask", &[4], &[0., half, 0., half], Some("a mask")),
            ("prefix.attn_mask", &[2, 2, 2], &[inf, 0., 0., 0., 0., 0., inf, 0.], Some("a mask")),
            // Learned, or a part of what the network is.
            ("h.1.attn.bias", &[1, 1, 3, 3], &dense, None),
            ("h.2.bias", &[3, 3], &tril, None),
            ("fc.weight_mask", &[3, 3], &mixed, None),
            ("fc.weight_mask", &[3, 3], &ones, None),
            ("h.0.attn.c_attn.bias", &[9], &dense, None),
            ("mask_embedding", &[3, 3], &dense, None),
            ("mask_token", &[1, 1, 4], &[0.; 4], None),
            ("w", &[3, 3], &tril, None),
            ("mask", &[0, 3], &[], None),
        ];
        for (name, shape, data, wanted) in all {
            assert_eq!(mask(name, shape, data), wanted, "{name} {shape:?}");
        }
        assert_eq!(buffer("attn.mask", Element::Integer("bool", 1), &[8, 8]), Some("a mask"));
        assert_eq!(buffer("active", Element::Integer("bool", 1), &[8, 8]), Some("bool"));
        assert_eq!(buffer("h.0.attn.masked_bias", Element::F32, &[]), Some("a mask's value"));
        assert_eq!(buffer("h.0.rotary.cos", Element::F32, &[3, 3]), Some("a rotary table"));
        assert_eq!(buffer("cos", Element::F32, &[3, 3]), None);
    }
}
