//! GPT-2 by its tensors, which tell everything but the heads.

use super::{Guess, Recogniser, Shapes, layers, sides};
use crate::nets::gpt2::ARCH;

/// Width of a head in every published size.
const HEAD: usize = 64;

pub(super) const RECOGNISER: Recogniser = Recogniser {
    family: ARCH,
    keys: &[
        "transformer.wte.weight",
        "transformer.wpe.weight",
        "transformer.h.N.attn.c_attn.weight",
        "transformer.h.N.mlp.c_fc.weight",
    ],
    prefix: "transformer.",
    read,
};

fn read(shapes: &Shapes) -> Option<Guess> {
    let &[vocab, width] = &shapes.get("transformer.wte.weight")?[..] else { return None };
    let &[positions, _] = &shapes.get("transformer.wpe.weight")?[..] else { return None };
    let (inputs, outputs) = sides(shapes, "transformer.h.N.attn.c_attn.weight")?;
    let (_, hidden) = sides(shapes, "transformer.h.N.mlp.c_fc.weight")?;
    if (inputs, outputs) != (width, 3 * width) {
        return None;
    }
    let fields = vec![
        ("vocab_size", vocab.into()),
        ("n_embd", width.into()),
        ("n_layer", layers(shapes, "transformer.h.")?.into()),
        ("n_head", (width / HEAD).max(1).into()),
        ("n_positions", positions.into()),
        ("n_inner", hidden.into()),
        ("layer_norm_epsilon", 1e-5.into()),
    ];
    Some(Guess::new(("model_type", ARCH), fields, vec!["n_head", "layer_norm_epsilon"]))
}

#[cfg(test)]
mod tests {
    use super::super::check::told;

    #[test]
    fn what_shapes_tell_is_right_and_the_rest_is_marked() {
        told(
            r#"{"model_type": "gpt2", "vocab_size": 300, "n_embd": 96, "n_layer": 3, "n_head": 4, "n_positions": 64,
            "n_inner": 200}"#,
            &["n_head", "layer_norm_epsilon"],
        );
    }
}
