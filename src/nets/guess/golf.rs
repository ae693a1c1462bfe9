//! The Parameter Golf baseline and its descendants by their tensors.
//!
//! Shapes tell the vocabulary, widths, layers, the parts that there are, and, through `q_gain`, the heads. They do not tell the
//! base of the rotary embedding and how many dimensions it turns, the softcap, the length of a training sequence, which
//! of two activations an MLP without a gate has, and in which order a loop runs its layers; without `q_gain` neither the
//! size of a head. These have the values of the challenge's script.

use std::collections::BTreeSet;

use serde_json::Value;

use super::{Guess, Recogniser, Shapes, has, layers, of_any_layer, sides};
use crate::nets::golf::ARCH;
use crate::nets::names::split_layer;

/// Width of a head in all records but the low-bit ones.
const HEAD: usize = 64;

pub(super) const RECOGNISER: Recogniser = Recogniser {
    family: ARCH,
    keys: &["tok_emb.weight", "blocks.N.attn.c_q.weight", "blocks.N.attn.c_k.weight", "blocks.N.mlp.fc.weight"],
    prefix: "",
    read,
};

fn read(shapes: &Shapes) -> Option<Guess> {
    let &[vocab, embedding] = &shapes.get("tok_emb.weight")?[..] else { return None };
    let layers = layers(shapes, "blocks.")?;
    let ((keys, width), (hidden, _)) =
        (sides(shapes, "blocks.N.attn.c_k.weight")?, sides(shapes, "blocks.N.mlp.fc.weight")?);
    let mut guesses = Vec::new();
    let gains = of_any_layer(shapes, "blocks.N.attn.q_gain").and_then(|shape| shape.first().copied());
    let heads = gains.filter(|heads| *heads > 0).unwrap_or_else(|| {
        guesses.extend(["num_heads", "num_kv_heads"]);
        (width / HEAD).max(1)
    });
    let head = (width / heads).max(1);
    let gated = has(shapes, "blocks.N.mlp.gate.weight");
    if !gated {
        guesses.push("mlp_activation");
    }
    guesses.extend(["logit_softcap", "rope_base", "rope_dims", "train_seq_len"]);
    let mut fields: Vec<(&str, Value)> = vec![
        ("vocab_size", vocab.into()),
        ("num_layers", layers.into()),
        ("model_dim", width.into()),
        ("num_heads", heads.into()),
        ("num_kv_heads", (keys / head).into()),
        ("mlp_mult", if hidden % width == 0 { (hidden / width).into() } else { multiple(hidden, width).into() }),
        ("mlp_activation", if gated { "swiglu" } else { "relu2" }.into()),
        ("tie_embeddings", (!shapes.contains_key("lm_head.weight")).into()),
        ("logit_softcap", 30.0.into()),
        ("rope_base", 10_000.0.into()),
        ("rope_dims", head.into()),
        ("train_seq_len", 1024.into()),
    ];
    // What only some descendants have.
    let mut unusual = |key, value: Value, there: bool| {
        if there {
            fields.push((key, value));
        }
    };
    unusual("embedding_dim", embedding.into(), embedding != width);
    unusual("unet_skips", false.into(), !shapes.contains_key("skip_weights"));
    unusual("resid_mix", false.into(), !has(shapes, "blocks.N.resid_mix"));
    unusual("depth_embedding", true.into(), shapes.contains_key("depth_embedding"));
    let rank = of_any_layer(shapes, "lora.N.c_q.down.weight").and_then(|shape| shape.first().copied());
    unusual("lora_rank", rank.unwrap_or(0).into(), rank.is_some());
    let steps = steps(shapes).unwrap_or(layers);
    let special = specialists(shapes);
    let all = special.len() == steps;
    unusual("lora_steps", special.into_iter().collect(), rank.is_some() && !all);
    if steps != layers && steps > 0 {
        unusual("loop", (0..steps).map(|position| Value::from(position % layers)).collect(), true);
        // One layer has one order only.
        guesses.extend((layers > 1).then_some("loop"));
    }
    Some(Guess::new(("arch", ARCH), fields, guesses))
}

/// Steps of the network, where tensors tell: those of every step do exactly, half of the steps have a skip.
fn steps(shapes: &Shapes) -> Option<usize> {
    let depths = shapes.get("depth_embedding").and_then(|shape| shape.first().copied());
    let rows = || shapes.get("skip_weights").and_then(|shape| shape.first().copied());
    let by_skips = || {
        let (skips, layers) = (rows()?, layers(shapes, "blocks.")?);
        Some(if skips == layers / 2 { layers } else { 2 * skips })
    };
    // Low-rank terms may be those of some steps only, an odd number of steps has one skip less than half.
    depths.or_else(|| layers(shapes, "lora.").max(by_skips()))
}

/// Steps that have low-rank terms.
fn specialists(shapes: &Shapes) -> BTreeSet<usize> {
    shapes
        .keys()
        .filter_map(|name| split_layer(name))
        .filter(|(stack, ..)| *stack == "lora.")
        .map(|(_, i, _)| i)
        .collect()
}

/// A number that times `width`, rounded down, is `hidden`.
fn multiple(hidden: usize, width: usize) -> f64 {
    let exact = hidden as f64 / width as f64;
    // Where the quotient is rounded down its product may fall short of the whole number.
    if (exact * width as f64) as usize == hidden { exact } else { (hidden as f64 + 0.5) / width as f64 }
}

#[cfg(test)]
mod tests {
    use super::super::check::told;
    use super::super::recognise;
    use super::*;
    use crate::ingest::config::Config;
    use crate::nets::build;

    const GUESSES: [&str; 5] = ["mlp_activation", "logit_softcap", "rope_base", "rope_dims", "train_seq_len"];

    fn config(heads: usize, kv: usize, mult: &str, more: &str) -> String {
        format!(
            r#"{{"arch": "parameter-golf-baseline", "vocab_size": 300, "num_layers": 5, "model_dim": 96,
            "num_heads": {heads}, "num_kv_heads": {kv}, "mlp_mult": {mult}, "tie_embeddings": true,
            "logit_softcap": 15.0, "rope_base": 5000.0, "train_seq_len": 64{more}}}"#
        )
    }

    #[test]
    fn what_shapes_tell_is_right_and_the_rest_is_marked() {
        for (heads, kv, mult) in [(4, 2, "2"), (8, 8, "3"), (4, 1, "1.7"), (2, 1, "2.3")] {
            told(&config(heads, kv, mult, ""), &GUESSES);
        }
        let looped = [&GUESSES[..], &["loop"]].concat();
        for (more, guesses) in [
            (r#", "mlp_activation": "swiglu""#, &GUESSES[1..]),
            (r#", "mlp_activation": "leaky_relu2", "rope_dims": 16"#, &GUESSES[..]),
            (r#", "embedding_dim": 32, "unet_skips": false"#, &GUESSES[..]),
            (r#", "resid_mix": false"#, &GUESSES[..]),
            (r#", "loop": [0, 1, 2, 3, 4, 3, 4, 2], "lora_rank": 4"#, &looped[..]),
            (r#", "loop": [0, 1, 2, 3, 4, 3, 4, 2], "lora_rank": 4, "lora_steps": [2, 5]"#, &looped[..]),
            (
                r#", "loop": [0, 1, 2, 3, 4, 4, 4], "lora_rank": 2, "lora_steps": [5, 6], "unet_skips": false"#,
                &looped[..],
            ),
            (r#", "lora_rank": 2, "lora_steps": [1, 4]"#, &GUESSES[..]),
            (r#", "loop": [0, 1, 2, 3, 4, 0, 1, 2], "depth_embedding": true, "unet_skips": false"#, &looped[..]),
            (r#", "loop": [0, 1, 2, 3, 4, 3, 4, 3]"#, &looped[..]),
        ] {
            told(&config(4, 2, "2", more), guesses);
        }
        // A Universal Transformer: one layer can run in one order only.
        let universal = config(4, 2, "2", r#", "loop": [0, 0, 0, 0], "depth_embedding": true"#);
        told(&universal.replace("\"num_layers\": 5", "\"num_layers\": 1"), &GUESSES);
    }

    #[test]
    fn a_file_without_the_tied_layers_tells_the_same() {
        let net = build(&Config::from_json(&config(4, 2, "2", "")).unwrap()).unwrap();
        let mut shapes: Shapes = net.tensors().into_iter().map(|spec| (spec.name, spec.shape)).collect();
        let guess = recognise(&shapes);
        shapes.retain(|name, _| !(name.starts_with("blocks.0.") && name.contains("weight")));
        assert!(guess.is_some());
        assert_eq!(recognise(&shapes), guess);
    }

    #[test]
    fn without_gains_the_heads_are_a_guess() {
        let shapes: Shapes = [
            ("tok_emb.weight", vec![1024, 512]),
            ("blocks.0.attn.c_q.weight", vec![512, 512]),
            ("blocks.0.attn.c_k.weight", vec![256, 512]),
            ("blocks.8.mlp.fc.weight", vec![1024, 512]),
            ("lm_head.weight", vec![1024, 512]),
        ]
        .map(|(name, shape)| (name.to_string(), shape))
        .into();
        let guess = recognise(&shapes).unwrap();
        let value = |key: &str| guess.config.fields[key].clone();
        assert_eq!((value("num_heads"), value("num_kv_heads"), value("num_layers")), (8.into(), 4.into(), 9.into()));
        assert_eq!(value("tie_embeddings"), false);
        assert_eq!(guess.guesses[..2], ["num_heads", "num_kv_heads"]);
        assert_eq!(recognise(&[("wte.weight".to_string(), vec![4, 4])].into()), None);
    }
}
