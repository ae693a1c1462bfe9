//! Weights that another tool has quantized already, told by the names of what it puts beside them.

use super::remark::Remark;

/// How a name ends, how another one ends too where that is needed to tell, and what has such tensors.
const SCHEMES: [(&str, &str, &str); 7] = [
    ("qweight", "qzeros", "GPTQ or AWQ"),
    ("weight.absmax", "", "bitsandbytes in 4 bits"),
    ("weight.quant_map", "", "bitsandbytes in 4 bits"),
    ("SCB", "", "bitsandbytes in 8 bits"),
    ("weight_packed", "weight_scale", "compressed-tensors"),
    ("weight_scale_inv", "", "FP8 with scales beside it"),
    ("weight_scale", "", "FP8 or integers with scales beside them"),
];

/// What quantized the tensors of these names, if any did.
pub fn named<'a>(names: impl Iterator<Item = &'a str> + Clone) -> Option<Remark> {
    let ends =
        |name: &str, end: &str| name.strip_suffix(end).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'));
    let of = |end: &'static str| names.clone().filter(move |name| ends(name, end));
    let (end, _, scheme) = SCHEMES
        .into_iter()
        .find(|(end, with, _)| of(end).next().is_some() && (with.is_empty() || of(with).next().is_some()))?;
    let tensors: Vec<&str> = of(end).collect();
    Some(Remark::Quantized { scheme, first: tensors[0].to_string(), tensors: tensors.len() })
}
