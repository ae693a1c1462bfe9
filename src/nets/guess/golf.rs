//! The Parameter Golf baseline by its tensors.
//!
//! Shapes tell the vocabulary, widths, layers and, through `q_gain`, the heads. They do not tell the base of the rotary
//! embedding, the softcap and the length of a training sequence; without `q_gain` neither the size of a head. These
//! have the values of the challenge's script.

use super::{Guess, Shapes};
use crate::nets::golf::ARCH;

/// Width of a head in all records but the low-bit ones.
const HEAD: usize = 64;

/// The configuration of a model whose tensors are the baseline's.
pub fn recognise(shapes: &Shapes) -> Option<Guess> {
    let &[vocab, width] = &shapes.get("tok_emb.weight")?[..] else { return None };
    let layer = |name: &str| name.strip_prefix("blocks.")?.split_once('.')?.0.parse::<usize>().ok();
    let layers = shapes.keys().filter_map(|name| layer(name)).max()? + 1;
    // Tied layers may be left out of the file: any one has the shapes of all.
    let rows = |role: &str| {
        let end = format!(".{role}");
        let found = shapes.iter().find(|(name, _)| layer(name).is_some() && name.ends_with(&end));
        found.and_then(|(_, shape)| shape.first().copied())
    };
    let (keys, hidden) = (rows("attn.c_k.weight")?, rows("mlp.fc.weight")?);
    let mut guesses = Vec::new();
    let heads = rows("attn.q_gain").filter(|heads| *heads > 0).unwrap_or_else(|| {
        guesses.extend(["num_heads", "num_kv_heads"]);
        (width / HEAD).max(1)
    });
    let kv_heads = keys / (width / heads).max(1);
    let whole = width > 0 && hidden % width == 0;
    guesses.extend(["logit_softcap", "rope_base", "train_seq_len"]);
    let fields = vec![
        ("vocab_size", vocab.into()),
        ("num_layers", layers.into()),
        ("model_dim", width.into()),
        ("num_heads", heads.into()),
        ("num_kv_heads", kv_heads.into()),
        ("mlp_mult", if whole { (hidden / width).into() } else { multiple(hidden, width).into() }),
        ("tie_embeddings", (!shapes.contains_key("lm_head.weight")).into()),
        ("logit_softcap", 30.0.into()),
        ("rope_base", 10_000.0.into()),
        ("train_seq_len", 1024.into()),
    ];
    Some(Guess::new(ARCH, fields, guesses))
}

/// A number that times `width`, rounded down, is `hidden`.
fn multiple(hidden: usize, width: usize) -> f64 {
    let exact = hidden as f64 / width as f64;
    // Where the quotient is rounded down its product may fall short of the whole number.
    if (exact * width as f64) as usize == hidden { exact } else { (hidden as f64 + 0.5) / width as f64 }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ingest::config::Config;
    use crate::nets::build;

    fn config(text: &str) -> Config {
        Config::from_json(text).unwrap()
    }

    #[test]
    fn what_shapes_tell_is_right_and_the_rest_is_marked() {
        for (heads, kv, mult) in [(4, 2, "2"), (8, 8, "3"), (4, 1, "1.7"), (2, 1, "2.3")] {
            let original = config(&format!(
                r#"{{"arch": "parameter-golf-baseline", "vocab_size": 300, "num_layers": 5, "model_dim": 96,
                "num_heads": {heads}, "num_kv_heads": {kv}, "mlp_mult": {mult}, "tie_embeddings": true,
                "logit_softcap": 15.0, "rope_base": 5000.0, "train_seq_len": 64}}"#
            ));
            let mut shapes: Shapes =
                build(&original).unwrap().tensors().into_iter().map(|spec| (spec.name, spec.shape)).collect();
            let guess = recognise(&shapes).unwrap();
            assert_eq!(guess.guesses, ["logit_softcap", "rope_base", "train_seq_len"]);
            for (key, value) in original.fields.iter().filter(|(key, _)| !guess.guesses.contains(&key.as_str())) {
                // The multiple is any that gives the same width.
                if *key != "mlp_mult" || mult.len() == 1 {
                    assert_eq!(guess.config.fields.get(key), Some(value), "{key}");
                }
            }
            // The same tensors, by name and shape.
            let again: Shapes =
                build(&guess.config).unwrap().tensors().into_iter().map(|spec| (spec.name, spec.shape)).collect();
            assert_eq!(again, shapes);
            // A file without the tied layers tells the same.
            shapes.retain(|name, _| !(name.starts_with("blocks.0.") && name.contains("weight")));
            assert_eq!(recognise(&shapes).unwrap(), guess);
        }
    }

    #[test]
    fn without_gains_the_heads_are_a_guess() {
        let shapes: Shapes = [
            ("tok_emb.weight", vec![1024, 512]),
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
