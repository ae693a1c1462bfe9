//! Llama (Touvron et al., arXiv:2302.13971) and what kept its form: Mistral (arXiv:2310.06825), Qwen2 (arXiv:2407.10671), Qwen3
//! (arXiv:2505.09388), as Hugging Face's transformers stores them.
//!
//! Pre-norm blocks with RMSNorm, rotary grouped-query attention, a gated SiLU MLP. Mistral's queries may see a window only;
//! Qwen2's queries, keys and values have biases, Qwen3's queries and keys are normalised head by head.

use std::sync::Arc;

use candle_core::Tensor;
use serde_json::Value;

use super::keys::{self, Table, Treatment};
use super::ops::attention::attention_within;
use super::parts::{Activation, Fields, biased, rms_norm};
use super::scaling::{Positions, positions};
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

use Treatment::{Only, Read, Silent};

/// Keys of all four.
const SHARED: Table = &[
    (Read, &["vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads"]),
    (Read, &["num_key_value_heads", "head_dim", "hidden_act", "max_position_embeddings", "rms_norm_eps"]),
    (
        Read,
        &["tie_word_embeddings", "rope_theta", "rope_scaling", "rope_parameters", "original_max_position_embeddings"],
    ),
    (Only(keys::one, "1"), &["partial_rotary_factor"]),
    (Only(keys::off, "false"), &["rope_interleaved", "use_mrope"]),
    (Silent, &["attention_dropout"]),
];

/// The keys of one of them, and their treatment.
pub fn keys(kind: &str) -> &'static [Table] {
    match kind {
        // Slices in which the products are summed change their rounding only.
        LLAMA => &[
            keys::NAMES,
            keys::COMMON,
            SHARED,
            &[(Read, &["attention_bias", "mlp_bias"]), (Silent, &["pretraining_tp"])],
        ],
        MISTRAL => &[keys::NAMES, keys::COMMON, SHARED, &[(Read, &["sliding_window", "layer_types"])]],
        QWEN2 => &[keys::NAMES, keys::COMMON, SHARED, WINDOWS],
        _ => &[keys::NAMES, keys::COMMON, SHARED, WINDOWS, &[(Read, &["attention_bias"])]],
    }
}

/// Which layers of Qwen2 and Qwen3 see a window.
const WINDOWS: Table = &[(Read, &["use_sliding_window", "sliding_window", "max_window_layers", "layer_types"])];

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
    activation: Activation,
    context: usize,
    rotary: Positions,
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
    // What is absent has the class's value, which null has not everywhere.
    let absent = |key: &str, usual: usize| if config.fields.contains_key(key) { None } else { Some(usual) };
    let usual_kv = match kind {
        MISTRAL => absent("num_key_value_heads", 8),
        QWEN2 | QWEN3 => absent("num_key_value_heads", 32),
        _ => None,
    };
    let kv_heads = fields.dimension_or("num_key_value_heads", 1 << 10, usual_kv.unwrap_or(heads))?;
    let usual_head = if kind == QWEN3 { absent("head_dim", 128) } else { None };
    let head = fields.dimension_or("head_dim", 1 << 12, usual_head.unwrap_or(width / heads))?;
    if heads % kv_heads != 0 || head % 2 != 0 || head == 0 {
        return Err(Error::input(format!(
            "config.json: {heads} heads of {head} dimensions with {kv_heads} key-value heads: the head size must be an even \
             integer and the heads a multiple of the key-value heads"
        )));
    }
    let layers = fields.dimension("num_hidden_layers", 1 << 10)?;
    let most = fields.dimension("max_position_embeddings", 1 << 24)?;
    let context = fields.context(most)?;
    let attention_bias = matches!(kind, LLAMA | QWEN3) && fields.switch("attention_bias", false)?;
    let mlp_bias = kind == LLAMA && fields.switch("mlp_bias", false)?;
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
        biases: [attention_bias || kind == QWEN2, attention_bias, mlp_bias],
        normalised: kind == QWEN3,
        activation: fields.activation("hidden_act", "silu")?,
        context,
        rotary: positions(&fields, head, context, most)?,
    }))
}

/// Tokens of a window where the configuration does not say.
const USUAL_WINDOW: usize = 4096;
/// Layers that see everything in a Qwen with windows whose configuration does not say.
const USUAL_WHOLE: usize = 28;

/// The attention span of each layer's queries: everything, unless the model slides a window.
fn windows(fields: &Fields, kind: &str, layers: usize) -> Result<Vec<usize>> {
    let everything = vec![usize::MAX; layers];
    if kind == LLAMA {
        return Ok(everything);
    }
    let window = match fields.0.fields.get("sliding_window") {
        None => Some(USUAL_WINDOW),
        Some(Value::Null) => None,
        Some(_) => Some(fields.dimension("sliding_window", usize::MAX)?),
    };
    let types = layer_types(fields, layers)?;
    let conflict = |layer: usize, says: &str, why: &str| {
        Err(Error::input(format!("config.json: layer_types makes layer {layer} {says}, but {why}")).hint(
            "transformers would not run such a model, or run another one: set the keys to what it was trained with",
        ))
    };
    if kind == MISTRAL {
        // All layers see the window, whatever the types are.
        let other = types.iter().flatten().position(|slides| *slides != window.is_some());
        return match (other, window) {
            (Some(i), Some(_)) => conflict(i, "full_attention", "every layer of mistral has the sliding_window"),
            (Some(i), None) => conflict(i, "sliding_attention", "there is no sliding_window"),
            (None, _) => Ok(vec![window.unwrap_or(usize::MAX); layers]),
        };
    }
    let used = fields.switch("use_sliding_window", false)?;
    let window = window.filter(|_| used);
    let whole = fields.count_or("max_window_layers", USUAL_WHOLE)?;
    let types = types.unwrap_or_else(|| (0..layers).map(|i| window.is_some() && i >= whole).collect());
    match (window, types.iter().position(|slides| *slides)) {
        (None, Some(i)) => conflict(i, "sliding_attention", "use_sliding_window and sliding_window give no window"),
        (window, _) => {
            let window = window.unwrap_or(usize::MAX);
            Ok(types.into_iter().map(|slides| if slides { window } else { usize::MAX }).collect())
        }
    }
}

/// Which layers slide, if the configuration says so layer by layer.
fn layer_types(fields: &Fields, layers: usize) -> Result<Option<Vec<bool>>> {
    let Some(value) = fields.0.fields.get("layer_types").filter(|value| !value.is_null()) else { return Ok(None) };
    let refusal = |why: String| Error::input(format!("config.json: layer_types {why}"));
    let list = value.as_array().ok_or_else(|| refusal(format!("is {value}, expected a list")))?;
    if list.len() != layers {
        return Err(refusal(format!("speaks of {} layers, num_hidden_layers of {layers}", list.len())));
    }
    let one = |kind: &Value| match kind.as_str() {
        Some("full_attention" | "attention") => Ok(false),
        Some("sliding_attention") => Ok(true),
        _ => Err(refusal(format!("holds {kind}, which is not supported"))
            .hint("supported: full_attention, sliding_attention")),
    };
    list.iter().map(one).collect::<Result<_>>().map(Some)
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
        let rotary = self.rotary.of(length);
        let y = attention_within(&rotary.apply(&q)?, &rotary.apply(&k)?, &v, self.windows[i])?;
        let y = y.reshape((rows, length, self.heads * self.head))?;
        let x = (x + linear("self_attn.o_proj", &y, out_bias)?)?;
        let n = rms_norm(&x, params, &at("post_attention_layernorm"), self.eps)?;
        let gate = self.activation.apply(&linear("mlp.gate_proj", &n, mlp_bias)?)?;
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

    fn run_position(&self, position: usize, state: State, params: &Params, layers: &dyn Layers) -> Result<State> {
        Ok(State { x: self.block(position, &state.x, params, layers)?, ..state })
    }

    fn leave(&self, state: State, params: &Params, layers: &dyn Layers) -> Result<Tensor> {
        let x = rms_norm(&state.x, params, "model.norm", self.eps)?;
        let head = if self.tied { EMBEDDING } else { HEAD };
        layers.linear(head, &x, get(params, head)?)
    }
}
