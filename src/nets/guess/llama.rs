//! Llama and its relatives by their tensors.
//!
//! Biases tell Qwen2 and normalised heads Qwen3; Mistral has the tensors of Llama. Base of the rotary embedding, epsilon and
//! context stand in no shape, neither, but for Qwen3, does the width of a head.

use super::{Guess, Recogniser, Shapes, has, layers, of_any_layer, sides};
use crate::nets::llama::{LLAMA, QWEN2, QWEN3};

pub(super) const RECOGNISER: Recogniser = Recogniser {
    family: "llama, mistral, qwen2, qwen3",
    keys: &[
        "model.embed_tokens.weight",
        "model.layers.N.self_attn.q_proj.weight",
        "model.layers.N.self_attn.k_proj.weight",
        "model.layers.N.mlp.gate_proj.weight",
    ],
    prefix: "model.",
    read,
};

fn read(shapes: &Shapes) -> Option<Guess> {
    let &[vocab, width] = &shapes.get("model.embed_tokens.weight")?[..] else { return None };
    let (queries, _) = sides(shapes, "model.layers.N.self_attn.q_proj.weight")?;
    let (keys, _) = sides(shapes, "model.layers.N.self_attn.k_proj.weight")?;
    let (hidden, _) = sides(shapes, "model.layers.N.mlp.gate_proj.weight")?;
    let biased = |role: &str| has(shapes, &format!("model.layers.N.{role}.bias"));
    let normalised = of_any_layer(shapes, "model.layers.N.self_attn.q_norm.weight");
    let everywhere = biased("self_attn.o_proj");
    let arch = match normalised {
        Some(_) => QWEN3,
        None if biased("self_attn.q_proj") && !everywhere => QWEN2,
        None => LLAMA,
    };
    let mut guesses = Vec::new();
    let head = normalised.and_then(|shape| shape.first().copied()).unwrap_or_else(|| {
        guesses.extend(["num_attention_heads", "num_key_value_heads", "head_dim"]);
        // Large models have 128 and small ones 64; both must divide what is there.
        let usual = if width >= 2048 { 128 } else { 64 };
        [usual, 64, 32, 16, 8, 4, 2].into_iter().find(|head| queries % head == 0 && keys % head == 0).unwrap_or(1)
    });
    if head == 0 || queries % head != 0 || keys % head != 0 {
        return None;
    }
    guesses.extend(["rope_theta", "rms_norm_eps", "max_position_embeddings"]);
    let mut fields = vec![
        ("vocab_size", vocab.into()),
        ("hidden_size", width.into()),
        ("intermediate_size", hidden.into()),
        ("num_hidden_layers", layers(shapes, "model.layers.")?.into()),
        ("num_attention_heads", (queries / head).into()),
        ("num_key_value_heads", (keys / head).into()),
        ("head_dim", head.into()),
        ("tie_word_embeddings", (!shapes.contains_key("lm_head.weight")).into()),
        ("rope_theta", if arch == LLAMA { 10_000.0 } else { 1_000_000.0 }.into()),
        ("rms_norm_eps", 1e-6.into()),
        ("max_position_embeddings", 2048.into()),
    ];
    // Only some of them can have biases elsewhere.
    if arch != QWEN2 {
        fields.push(("attention_bias", everywhere.into()));
    }
    if arch == LLAMA {
        fields.push(("mlp_bias", biased("mlp.gate_proj").into()));
    }
    Some(Guess::new(("model_type", arch), fields, guesses))
}

#[cfg(test)]
mod tests {
    use super::super::check::told;

    #[test]
    fn what_shapes_tell_is_right_and_the_rest_is_marked() {
        const REST: [&str; 3] = ["rope_theta", "rms_norm_eps", "max_position_embeddings"];
        let heads = ["num_attention_heads", "num_key_value_heads", "head_dim"];
        for (kind, more, guesses) in [
            ("llama", r#""tie_word_embeddings": true, "mlp_bias": true"#, [&heads[..], &REST].concat()),
            ("llama", r#""tie_word_embeddings": false, "attention_bias": true"#, [&heads[..], &REST].concat()),
            ("qwen2", r#""tie_word_embeddings": false"#, [&heads[..], &REST].concat()),
            ("qwen3", r#""tie_word_embeddings": true, "head_dim": 32"#, REST.to_vec()),
        ] {
            let config = format!(
                r#"{{"model_type": "{kind}", "vocab_size": 300, "hidden_size": 96, "intermediate_size": 200, "num_hidden_layers": 3,
                "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 64, "rope_theta": 9999.0, {more}}}"#
            );
            told(&config, &guesses);
        }
    }
}
