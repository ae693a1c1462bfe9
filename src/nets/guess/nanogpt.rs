//! nanoGPT by its tensors, which have the names of GPT-2's, and by the `model_args` that its checkpoints keep.

use serde_json::{Map, Value};

use super::{Guess, Recogniser, Shapes, has, layers, sides};
use crate::nets::gpt2::NANO;

/// Width of a head in every published size.
const HEAD: usize = 64;
/// What the shapes do not tell.
const GUESSES: [&str; 2] = ["n_head", "activation_function"];

const QKV: &str = "transformer.h.N.attn.c_attn.weight";

pub(super) const RECOGNISER: Recogniser = Recogniser {
    family: NANO,
    keys: &["transformer.wte.weight", "transformer.wpe.weight", QKV, "transformer.h.N.mlp.c_fc.weight"],
    prefix: "",
    read,
};

fn read(shapes: &Shapes) -> Option<Guess> {
    let &[vocab, width] = &shapes.get("transformer.wte.weight")?[..] else { return None };
    let &[positions, _] = &shapes.get("transformer.wpe.weight")?[..] else { return None };
    // The other way round they are those of transformers.
    if sides(shapes, QKV)? != (3 * width, width) {
        return None;
    }
    let fields = vec![
        ("vocab_size", vocab.into()),
        ("n_embd", width.into()),
        ("n_layer", layers(shapes, "transformer.h.")?.into()),
        ("n_head", (width / HEAD).max(1).into()),
        ("block_size", positions.into()),
        ("bias", has(shapes, "transformer.h.N.attn.c_attn.bias").into()),
        ("activation_function", "gelu".into()),
    ];
    Some(Guess::new(("arch", NANO), fields, GUESSES.to_vec()))
}

/// The configuration of a checkpoint of nanoGPT that says what its network is.
pub fn stated(shapes: &Shapes, settings: &Map<String, Value>) -> Option<Guess> {
    let mut guess = read(shapes)?;
    let heads = settings.get("n_head")?;
    for (key, value) in settings {
        if key != "dropout" && guess.config.fields.contains_key(key) {
            guess.config.fields.insert(key.clone(), value.clone());
        }
    }
    guess.guesses.retain(|key| *key != "n_head" || !heads.is_u64());
    Some(guess)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::check::told;
    use super::*;
    use crate::ingest::config::Config;
    use crate::nets::build;

    const CONFIG: &str = r#"{"arch": "nanogpt", "vocab_size": 300, "n_embd": 96, "n_layer": 3, "n_head": 4, "block_size": 64,
        "bias": false}"#;

    #[test]
    fn what_shapes_tell_is_right_and_the_rest_is_marked() {
        told(CONFIG, &GUESSES);
        told(&CONFIG.replace("false", "true"), &GUESSES);
    }

    #[test]
    fn model_args_tell_the_heads() {
        let net = build(&Config::from_json(CONFIG).unwrap()).unwrap();
        let shapes: Shapes = net.tensors().into_iter().map(|spec| (spec.name, spec.shape)).collect();
        let settings = json!({"n_head": 4, "bias": false, "dropout": 0.1, "vocab_size": 300});
        let guess = stated(&shapes, settings.as_object().unwrap()).unwrap();
        assert_eq!((guess.guesses, &guess.config.fields["n_head"]), (vec!["activation_function"], &json!(4)));
        assert!(!guess.config.fields.contains_key("dropout"));
    }
}
