//! Llama (Touvron et al., arXiv:2302.13971) and what kept its form: Mistral (arXiv:2310.06825), Qwen2 (arXiv:2407.10671), Qwen3
//! (arXiv:2505.09388), as Hugging Face's transformers stores them.
//!
//! Pre-norm blocks with RMSNorm, rotary grouped-query attention, a gated SiLU MLP. Mistral's queries may see a window only;
//! Qwen2's queries, keys and values have biases, Qwen3's queries and keys are normalised head by head.

use std::sync::Arc;

use candle_core::Tensor;
use serde_json::Value;

use super::ops::attention::attention_within;
use super::ops::rope::{Rotary, frequencies};
use super::parts::{Fields, biased, rms_norm};
use super::{Form, Layers, Net, Params, State, TensorSpec, get};
use crate::error::{Error, Result};
use crate::ingest::config::Config;

/// `model_type` in config.json.
pub const LLAMA: &str = "llama";
pub const MISTRAL: &str = "mistral";
pub const QWEN2: &str = "qwen2";
pub const QWEN3: &str = "qwen3";

const EMBEDDING: &str = "model.embed_tokens.weight";
const HEAD: &str = "lm_head.weight";

const TIED_ROLES: &[&str] = &[
    "self_attn.q_proj.weight",
    "self_attn.k_proj.weight",
    "self_attn.v_proj.weight",
    "self_attn.o_proj.weight",
    "mlp.gate_proj.weight",
    "mlp.up_proj.weight",
    "mlp.down_proj.weight",
];

struct Llama {
    vocab: usize,
    width: usize,
    hidden: usize,
    layers: usize,
    heads: usize,
    kv_heads: usize,
    /// Width of a head.
    head: usize,
    eps: f32,
    /// Positions that a query of each layer sees.
    windows: Vec<usize>,
    tied: bool,
    /// Biases of queries, keys and values; of the attention's output; of the MLP.
    biases: [bool; 3],
    /// Queries and keys are normalised head by head.
    normalised: bool,
    context: usize,
    rotary: Rotary,
}

/// Reads the dimensions from config.json.
///
/// # Errors
/// If one is missing, they do not fit together, or a setting is not supported.
pub fn build(config: &Config) -> Result<Arc<dyn Net>> {
    let fields = Fields(config);
    let kind = &config.arch[..];
    let width = fields.dimension("hidden_size", 1 << 16)?;
    let heads = fields.dimension("num_attention_heads", 1 << 10)?;
    let kv_heads = fields.dimension_or("num_key_value_heads", 1 << 10, heads)?;
    let head = fields.dimension_or("head_dim", 1 << 12, width / heads)?;
    if heads % kv_heads != 0 || head % 2 != 0 || head == 0 {
        return Err(Error::input(format!(
            "config.json: {heads} heads of {head} dimensions with {kv_heads} key-value heads: the head size must be an even \
             integer and the heads a multiple of the key-value heads"
        )));
    }
    fields.only("hidden_act", &["silu", "swish"], "silu")?;
    let layers = fields.dimension("num_hidden_layers", 1 << 10)?;
    let most = fields.dimension("max_position_embeddings", 1 << 24)?;
    let context = fields.context(most)?;
    let attention_bias = fields.switch("attention_bias", false)?;
    Ok(Arc::new(Llama {
        vocab: fields.dimension("vocab_size", 1 << 24)?,
        width,
        hidden: fields.dimension("intermediate_size", 1 << 20)?,
        layers,
        heads,
        kv_heads,
        head,
        eps: fields.number_or("rms_norm_eps", 1e-6)? as f32,
        windows: windows(&fields, kind, layers)?,
        tied: fields.switch("tie_word_embeddings", false)?,
        biases: [attention_bias || kind == QWEN2, attention_bias, fields.switch("mlp_bias", false)?],
        normalised: kind == QWEN3,
        context,
        rotary: Rotary::forwards(context, &scaled_frequencies(config, head)?),
    }))
}

/// What each layer's queries see: everything, unless the model slides a window.
fn windows(fields: &Fields, kind: &str, layers: usize) -> Result<Vec<usize>> {
    let everything = vec![usize::MAX; layers];
    let used = match kind {
        MISTRAL => true,
        QWEN2 | QWEN3 => fields.switch("use_sliding_window", false)?,
        _ => false,
    };
    if !used {
        return Ok(everything);
    }
    match fields.dimension_or("sliding_window", usize::MAX, usize::MAX)? {
        usize::MAX => Ok(everything),
        window if kind == MISTRAL => Ok(vec![window; layers]),
        window => {
            // The first layers see everything.
            let whole = fields.0.usize("max_window_layers").unwrap_or(layers).min(layers);
            Ok((0..layers).map(|i| if i < whole { usize::MAX } else { window }).collect())
        }
    }
}

/// Frequencies of the rotary embedding, with the scaling that the configuration asks for.
fn scaled_frequencies(config: &Config, head: usize) -> Result<Vec<f32>> {
    // Newer configurations keep everything in one object.
    let object = |key: &str| config.fields.get(key).and_then(Value::as_object);
    let scaling = object("rope_parameters").or(object("rope_scaling"));
    let inside = |key: &str| scaling.and_then(|s| s.get(key)).and_then(Value::as_f64);
    let base = inside("rope_theta").or(config.fields.get("rope_theta").and_then(Value::as_f64)).unwrap_or(10_000.0);
    if !(base > 0.0 && base.is_finite()) {
        return Err(Error::input(format!("config.json: rope_theta is {base}, expected a positive number")));
    }
    let plain = frequencies(head, base);
    let kind = scaling.and_then(|s| s.get("rope_type").or(s.get("type"))).and_then(Value::as_str).unwrap_or("default");
    let need = |key: &str| {
        inside(key)
            .filter(|x| *x > 0.0)
            .ok_or_else(|| Error::input(format!("config.json: rope scaling {kind:?} needs a positive {key}")))
    };
    match kind {
        "default" => Ok(plain),
        "linear" => {
            let factor = need("factor")? as f32;
            Ok(plain.into_iter().map(|f| f / factor).collect())
        }
        "llama3" => {
            // Long wavelengths are stretched, short ones kept, those between blended (transformers' modeling_rope_utils).
            let (factor, original) = (need("factor")?, need("original_max_position_embeddings")?);
            let (low, high) = (need("low_freq_factor")?, need("high_freq_factor")?);
            let scale = |f: f32| {
                let turns = original * f64::from(f) / (2.0 * std::f64::consts::PI);
                let share = ((turns - low) / (high - low)).clamp(0.0, 1.0);
                (f64::from(f) * (share + (1.0 - share) / factor)) as f32
            };
            Ok(plain.into_iter().map(scale).collect())
        }
        other => Err(Error::input(format!("config.json: rope scaling {other:?} is not supported"))
            .hint("known: default, linear, llama3")),
    }
}

impl Llama {
    fn block(&self, i: usize, x: &Tensor, params: &Params, layers: &dyn Layers) -> Result<Tensor> {
        let (rows, length, _) = x.dims3()?;
        let at = |role: &str| format!("model.layers.{i}.{role}");
        let linear = |role: &str, x: &Tensor, bias: bool| {
            let name = at(&format!("{role}.weight"));
            let y = layers.linear(&name, x, get(params, &name)?)?;
            if bias { biased(y, params, &at(&format!("{role}.bias"))) } else { Ok(y) }
        };
        let [qkv_bias, out_bias, mlp_bias] = self.biases;
        let n = rms_norm(x, params, &at("input_layernorm"), self.eps)?;
        let split = |role: &str, heads: usize| -> Result<Tensor> {
            Ok(linear(role, &n, qkv_bias)?.reshape((rows, length, heads, self.head))?)
        };
        let (mut q, mut k) = (split("self_attn.q_proj", self.heads)?, split("self_attn.k_proj", self.kv_heads)?);
        let v = split("self_attn.v_proj", self.kv_heads)?;
        if self.normalised {
            q = rms_norm(&q, params, &at("self_attn.q_norm"), self.eps)?;
            k = rms_norm(&k, params, &at("self_attn.k_norm"), self.eps)?;
        }
        let y = attention_within(&self.rotary.apply(&q)?, &self.rotary.apply(&k)?, &v, self.windows[i])?;
        let y = y.reshape((rows, length, self.heads * self.head))?;
        let x = (x + linear("self_attn.o_proj", &y, out_bias)?)?;
        let n = rms_norm(&x, params, &at("post_attention_layernorm"), self.eps)?;
        let gate = linear("mlp.gate_proj", &n, mlp_bias)?.silu()?;
        let hidden = (gate * linear("mlp.up_proj", &n, mlp_bias)?)?;
        Ok((&x + linear("mlp.down_proj", &hidden, mlp_bias)?)?)
    }
}

impl Net for Llama {
    fn tensors(&self) -> Vec<TensorSpec> {
        let (d, h, q, kv) = (self.width, self.hidden, self.heads * self.head, self.kv_heads * self.head);
        let mut specs = Vec::new();
        let mut push = |layer: Option<usize>, name: &str, shape: &[usize], form: Form| {
            let full = layer.map_or(name.to_string(), |i| format!("model.layers.{i}.{name}"));
            let role = name.strip_prefix("model.").unwrap_or(name).to_string();
            specs.push(TensorSpec { name: full, role, layer, shape: shape.to_vec(), form });
        };
        push(None, EMBEDDING, &[self.vocab, d], Form::Embedding);
        let [qkv_bias, out_bias, mlp_bias] = self.biases;
        for i in 0..self.layers {
            for (role, shape, bias) in [
                ("self_attn.q_proj", [q, d], qkv_bias),
                ("self_attn.k_proj", [kv, d], qkv_bias),
                ("self_attn.v_proj", [kv, d], qkv_bias),
                ("self_attn.o_proj", [d, q], out_bias),
                ("mlp.gate_proj", [h, d], mlp_bias),
                ("mlp.up_proj", [h, d], mlp_bias),
                ("mlp.down_proj", [d, h], mlp_bias),
            ] {
                push(Some(i), &format!("{role}.weight"), &shape, Form::Matrix);
                if bias {
                    push(Some(i), &format!("{role}.bias"), &shape[..1], Form::Vector);
                }
            }
            if self.normalised {
                push(Some(i), "self_attn.q_norm.weight", &[self.head], Form::Vector);
                push(Some(i), "self_attn.k_norm.weight", &[self.head], Form::Vector);
            }
            push(Some(i), "input_layernorm.weight", &[d], Form::Vector);
            push(Some(i), "post_attention_layernorm.weight", &[d], Form::Vector);
        }
        push(None, "model.norm.weight", &[d], Form::Vector);
        if !self.tied {
            push(None, HEAD, &[self.vocab, d], Form::Embedding);
        }
        specs
    }

    fn vocab_size(&self) -> usize {
        self.vocab
    }

    fn context(&self) -> usize {
        self.context
    }

    fn layers(&self) -> usize {
        self.layers
    }

    fn tied_roles(&self) -> &'static [&'static str] {
        TIED_ROLES
    }

    fn aliases(&self) -> &'static [(&'static str, &'static str)] {
        if self.tied { &[(HEAD, EMBEDDING)] } else { &[] }
    }

    fn prefix(&self) -> &'static str {
        "model."
    }

    fn enter(&self, params: &Params, tokens: &Tensor, layers: &dyn Layers) -> Result<State> {
        Ok(State { x: layers.embed(EMBEDDING, get(params, EMBEDDING)?, tokens)?, kept: Vec::new() })
    }

    fn step(&self, step: usize, state: State, params: &Params, layers: &dyn Layers) -> Result<State> {
        Ok(State { x: self.block(step, &state.x, params, layers)?, ..state })
    }

    fn leave(&self, state: State, params: &Params, layers: &dyn Layers) -> Result<Tensor> {
        let x = rms_norm(&state.x, params, "model.norm", self.eps)?;
        let head = if self.tied { EMBEDDING } else { HEAD };
        layers.linear(head, &x, get(params, head)?)
    }
}
