//! Keys of config.json: what becomes of each. A key stands in the table of its family with its treatment, so that none that
//! changes what a network computes can pass unread. The tables follow transformers' configuration classes, with what older
//! versions of them wrote.

use serde_json::Value;

use crate::error::{Error, Result};
use crate::ingest::config::Config;

/// What becomes of a key.
#[derive(Clone, Copy)]
pub enum Treatment {
    /// The network is built by it.
    Read,
    /// What a network computes of tokens does not depend on it.
    Silent,
    /// Values that leave the network as it is; any other is refused. With what these values are.
    Only(fn(&Value) -> bool, &'static str),
}

use Treatment::{Only, Read, Silent};

/// Keys with their treatment; those of one treatment stand together.
pub type Table = &'static [(Treatment, &'static [&'static str])];

/// Keys of every family.
pub const NAMES: Table = &[(Read, &["arch", "model_type"])];

/// Keys of every configuration of transformers, of its versions 2 to 5.
pub const COMMON: Table = &[
    (Read, &["tiepack_context"]),
    (Only(nothing, "null"), &["quantization_config", "compression_config"]),
    (Only(empty, "empty"), &["per_layer_config", "pruned_heads"]),
    (Only(off, "false"), &["is_encoder_decoder", "add_cross_attention", "tie_encoder_decoder"]),
    (Only(float, "float32, float16, bfloat16 or float64"), &["dtype", "torch_dtype"]),
    // What the model is called, and by what it was written.
    (
        Silent,
        &["_name_or_path", "name_or_path", "_commit_hash", "transformers_version", "architectures", "tokenizer_class"],
    ),
    (Silent, &["transformers.js_config", "is_llama_config", "unsloth_fixed", "unsloth_version"]),
    // How it is trained, and what other heads than that of the tokens do.
    (Silent, &["initializer_range", "gradient_checkpointing", "problem_type", "id2label", "label2id", "num_labels"]),
    (Silent, &["finetuning_task", "task_specific_params", "classifier_dropout", "hidden_dropout"]),
    // How transformers runs it, and what it hands out.
    (
        Silent,
        &[
            "use_cache",
            "output_hidden_states",
            "output_attentions",
            "return_dict",
            "use_return_dict",
            "tie_last_hidden_states",
        ],
    ),
    (Silent, &["torchscript", "use_bfloat16", "tf_legacy_loss", "chunk_size_feed_forward", "is_decoder"]),
    (Silent, &["cross_attention_hidden_size", "_attn_implementation", "attn_implementation", "_flash_attn_2_enabled"]),
    (Silent, &["_attn_implementation_autoset", "_attn_implementation_internal", "_experts_implementation_internal"]),
    (Silent, &["experts_implementation", "use_flash_attention"]),
    // How it writes text.
    (Silent, &["bos_token_id", "eos_token_id", "pad_token_id", "sep_token_id", "decoder_start_token_id", "prefix"]),
    (
        Silent,
        &["max_length", "min_length", "max_new_tokens", "do_sample", "early_stopping", "num_beams", "num_beam_groups"],
    ),
    (
        Silent,
        &["diversity_penalty", "temperature", "top_k", "top_p", "typical_p", "repetition_penalty", "length_penalty"],
    ),
    (Silent, &["no_repeat_ngram_size", "encoder_no_repeat_ngram_size", "bad_words_ids", "num_return_sequences"]),
    (Silent, &["output_scores", "return_dict_in_generate", "forced_bos_token_id", "forced_eos_token_id"]),
    (
        Silent,
        &["remove_invalid_values", "exponential_decay_length_penalty", "suppress_tokens", "begin_suppress_tokens"],
    ),
];

/// Null, as if it were absent.
pub fn nothing(value: &Value) -> bool {
    value.is_null()
}

/// An empty object or list.
pub fn empty(value: &Value) -> bool {
    value.as_object().is_some_and(serde_json::Map::is_empty) || value.as_array().is_some_and(Vec::is_empty)
}

/// Switched off.
pub fn off(value: &Value) -> bool {
    value == &Value::Bool(false)
}

/// The number one.
pub fn one(value: &Value) -> bool {
    value.as_f64() == Some(1.0)
}

/// A type whose values f32 holds, or that is held as f32.
fn float(value: &Value) -> bool {
    let name = value.as_str().map(|name| name.strip_prefix("torch.").unwrap_or(name));
    name.is_some_and(|name| ["float32", "float16", "bfloat16", "float64", "float", "half", "auto"].contains(&name))
}

/// The treatment of a key, if one of the tables has it.
pub fn treatment(tables: &[Table], key: &str) -> Option<Treatment> {
    let mut rows = tables.iter().flat_map(|table| table.iter());
    rows.find(|(_, keys)| keys.contains(&key)).map(|(treatment, _)| *treatment)
}

/// Refuses values that would make the network another one.
///
/// # Errors
/// There is one: names the key and its value.
pub fn check(tables: &[Table], config: &Config) -> Result<()> {
    quantized(config)?;
    for (key, value) in &config.fields {
        if let Some(Only(fits, which)) = treatment(tables, key)
            && !value.is_null()
            && !fits(value)
        {
            return Err(Error::input(format!("config.json: {key} is {}, which is not supported", shown(value)))
                .hint(format!("supported: {which}; any other model can be packed from Python with tiepack.torch")));
        }
    }
    Ok(())
}

/// Refuses configurations of weights that somebody has quantized: what they stand for only that program knows.
///
/// # Errors
/// The configuration says so.
pub fn quantized(config: &Config) -> Result<()> {
    let found = ["quantization_config", "compression_config"].into_iter().find_map(|key| {
        let value = config.fields.get(key).filter(|value| !value.is_null())?;
        Some((key, value))
    });
    let Some((key, value)) = found else { return Ok(()) };
    let method = value.get("quant_method").and_then(Value::as_str).unwrap_or("of no name");
    let bits = value.get("bits").or(value.get("w_bit")).and_then(Value::as_u64);
    let bits = bits.map_or(String::new(), |bits| format!(", {bits} bits"));
    let hint = match method {
        "bitsandbytes" | "fp8" | "mxfp4" | "compressed-tensors" => {
            "pack the model that it was made from, or undo it with transformers: load the model, model.dequantize(), \
             model.save_pretrained(FOLDER)"
        }
        _ => "pack the model that it was made from: tiepack quantizes by itself",
    };
    Err(Error::input(format!("config.json: {key}: the weights are quantized already ({method}{bits})")).hint(hint))
}

/// Keys that none of the tables has.
pub fn unknown<'a>(tables: &[Table], config: &'a Config) -> Vec<&'a str> {
    config.fields.keys().map(String::as_str).filter(|key| treatment(tables, key).is_none()).collect()
}

/// A value in a message: what is long is cut.
fn shown(value: &Value) -> String {
    const MOST: usize = 60;
    let text = value.to_string();
    match text.char_indices().nth(MOST) {
        Some((at, _)) => format!("{}…", &text[..at]),
        None => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(json: &str) -> Option<String> {
        check(&[NAMES, COMMON], &Config::from_json(json).unwrap()).err().map(|e| e.message)
    }

    #[test]
    fn what_would_be_another_network_is_refused_by_name() {
        assert_eq!(
            refusal(r#"{"arch": "a", "dtype": "bfloat16", "pruned_heads": {}, "per_layer_config": null}"#),
            None
        );
        for (json, told) in [
            (r#""dtype": "float8_e4m3fn""#, r#"dtype is "float8_e4m3fn""#),
            (r#""is_encoder_decoder": true"#, "is_encoder_decoder is true"),
            (r#""pruned_heads": {"0": [1]}"#, r#"pruned_heads is {"0":[1]}"#),
        ] {
            let message = refusal(&format!(r#"{{"arch": "a", {json}}}"#)).unwrap();
            assert!(message.contains(told), "{message}");
        }
    }

    #[test]
    fn quantized_weights_are_named() {
        for (json, told) in [
            (r#"{"quant_method": "gptq", "bits": 4, "group_size": 128}"#, "quantized already (gptq, 4 bits)"),
            (r#"{"quant_method": "awq", "bits": 4}"#, "(awq, 4 bits)"),
            (r#"{"quant_method": "bitsandbytes", "load_in_4bit": true}"#, "(bitsandbytes)"),
            (r#"{"quant_method": "fp8"}"#, "(fp8)"),
            ("{}", "(of no name)"),
        ] {
            let message = refusal(&format!(r#"{{"arch": "a", "quantization_config": {json}}}"#)).unwrap();
            assert!(message.contains(told), "{message}");
        }
    }

    #[test]
    fn no_key_has_two_treatments() {
        let tables = [&[NAMES, COMMON][..], crate::nets::gpt2::KEYS, crate::nets::golf::KEYS];
        let llamas = ["llama", "mistral", "qwen2", "qwen3"].map(crate::nets::llama::keys);
        for tables in tables.into_iter().chain(llamas) {
            let mut keys: Vec<&str> =
                tables.iter().flat_map(|table| table.iter()).flat_map(|(_, keys)| keys.iter().copied()).collect();
            let count = keys.len();
            keys.sort_unstable();
            keys.dedup();
            assert_eq!(keys.len(), count);
        }
    }
}
