//! The Parameter Golf baseline transformer (openai/parameter-golf, `train_gpt.py`).
//!
//! A U-shaped decoder: the first half of the layers pushes its outputs on a stack, the second half pops them through
//! learned per-channel skip weights. Every block mixes the normalised embedding back in, has grouped-query attention
//! with normalised, rotated queries and keys, and a relu² MLP. Logits are softcapped; the head is the embedding.
//!
//! Its descendants change parts: a head of its own, a factorized embedding (ALBERT, arXiv:1909.11942), other activations,
//! rotation of some dimensions only, no skips, no mixing-in. Layers may run in any order and more than once, which covers
//! loops, one block for all depths (Universal Transformers, arXiv:1807.03819) and cycles of blocks (Relaxed Recursive
//! Transformers, arXiv:2410.20672), with embeddings of the depth and low-rank terms (LoRA) for every step.
//! `formats/configs.md` lists the keys.

use std::sync::Arc;

use candle_core::Tensor;
use serde_json::Value;

use super::keys::{self, Table, Treatment};
use super::ops::attention::attention;
use super::ops::mix::{blend, head_gain, scaled_add};
use super::ops::norm::rms_norm;
use super::ops::pointwise::{leaky_relu_squared, relu_squared, softcap};
use super::ops::rope::Rotary;
use super::parts::Fields;
use super::{Form, Layers, Net, Params, State, TensorSpec, get};
use crate::error::{Error, Result};
use crate::ingest::config::Config;

/// Name in config.json.
pub const ARCH: &str = "parameter-golf-baseline";

const EMBEDDING: &str = "tok_emb.weight";
const SKIPS: &str = "skip_weights";
const HEAD: &str = "lm_head.weight";
const INTO: &str = "embed_proj.weight";
const OUT_OF: &str = "embed_proj_rev.weight";
const DEPTHS: &str = "depth_embedding";
/// Most steps that a loop may take.
const MOST_STEPS: usize = 1 << 12;

/// The keys of config.json, and their treatment.
pub const KEYS: &[Table] = &[
    keys::NAMES,
    &[
        (Treatment::Read, &["vocab_size", "num_layers", "model_dim", "num_heads", "num_kv_heads", "mlp_mult"]),
        (
            Treatment::Read,
            &["tie_embeddings", "logit_softcap", "rope_base", "train_seq_len", "rope_dims", "mlp_activation"],
        ),
        (
            Treatment::Read,
            &["embedding_dim", "unet_skips", "resid_mix", "loop", "depth_embedding", "lora_rank", "lora_steps"],
        ),
    ],
];

/// The roles that a whole-layer tie shares; scale vectors stay each layer's own.
const TIED_ROLES: &[&str] =
    &["attn.c_q.weight", "attn.c_k.weight", "attn.c_v.weight", "attn.proj.weight", "mlp.fc.weight", "mlp.proj.weight"];

/// The same with a gated MLP.
const GATED_ROLES: &[&str] = &[
    "attn.c_q.weight",
    "attn.c_k.weight",
    "attn.c_v.weight",
    "attn.proj.weight",
    "mlp.fc.weight",
    "mlp.gate.weight",
    "mlp.proj.weight",
];

/// The activation of an MLP.
#[derive(Clone, Copy, PartialEq)]
enum Activation {
    /// max(x, 0)²
    Relu2,
    /// (x for x > 0, else x/2)²
    LeakyRelu2,
    /// silu(gate)·x (arXiv:2002.05202)
    SwiGlu,
}

struct Golf {
    vocab: usize,
    layers: usize,
    /// Model width D.
    width: usize,
    heads: usize,
    kv_heads: usize,
    /// MLP hidden width.
    hidden: usize,
    cap: f32,
    context: usize,
    rotary: Rotary,
    /// Stored layers in the order in which they run.
    order: Vec<usize>,
    activation: Activation,
    /// Width of the embedding; other than the model's: it is factorized.
    embedding: usize,
    /// The head is the embedding.
    tied: bool,
    skips: bool,
    resid_mix: bool,
    depths: bool,
    /// Rank of the low-rank terms of [`Golf::adapted`], 0: none.
    rank: usize,
    /// Steps that have low-rank terms.
    adapted: Vec<usize>,
}

/// Reads the dimensions from config.json.
///
/// # Errors
/// If one is missing or they do not fit together.
pub fn build(config: &Config) -> Result<Arc<dyn Net>> {
    let dimension = |key: &str, limit: usize| match config.usize(key)? {
        n if (1..=limit).contains(&n) => Ok(n),
        n => Err(Error::input(format!("config.json: {key} is {n}, expected 1 to {limit}"))),
    };
    let (width, heads, kv_heads) =
        (dimension("model_dim", 1 << 16)?, dimension("num_heads", 1 << 10)?, dimension("num_kv_heads", 1 << 10)?);
    if width % heads != 0 || (width / heads) % 2 != 0 || heads % kv_heads != 0 {
        return Err(Error::input(format!(
            "config.json: {heads} heads of a model {width} wide with {kv_heads} key-value heads: the head size must be \
             an even integer and the heads a multiple of the key-value heads"
        )));
    }
    let hidden = config.f64("mlp_mult")? * width as f64;
    if !(1.0..=1e6).contains(&hidden) {
        return Err(Error::input(format!("config.json: mlp_mult gives a hidden width of {hidden}")));
    }
    let (cap, base) = (config.f64("logit_softcap")?, config.f64("rope_base")?);
    if !(cap > 0.0 && cap.is_finite() && base > 0.0 && base.is_finite()) {
        return Err(Error::input(format!(
            "config.json: logit_softcap {cap} and rope_base {base} must be positive numbers"
        )));
    }
    let context = dimension("train_seq_len", 1 << 16)?;
    let (fields, layers) = (Fields(config), dimension("num_layers", 1 << 10)?);
    let dims = fields.dimension_or("rope_dims", width / heads, width / heads)?;
    let activation = match fields.only("mlp_activation", &["relu2", "leaky_relu2", "swiglu"], "relu2")? {
        "leaky_relu2" => Activation::LeakyRelu2,
        "swiglu" => Activation::SwiGlu,
        _ => Activation::Relu2,
    };
    let order = order(config, layers)?;
    Ok(Arc::new(Golf {
        adapted: adapted(config, order.len())?,
        order,
        activation,
        embedding: fields.dimension_or("embedding_dim", 1 << 16, width)?,
        tied: config.bool("tie_embeddings")?,
        skips: fields.switch("unet_skips", true)?,
        resid_mix: fields.switch("resid_mix", true)?,
        depths: fields.switch("depth_embedding", false)?,
        rank: match config.fields.contains_key("lora_rank") {
            true => config.usize("lora_rank")?.min(width),
            false => 0,
        },
        vocab: dimension("vocab_size", 1 << 16)?,
        layers,
        width,
        heads,
        kv_heads,
        hidden: hidden as usize,
        cap: cap as f32,
        context,
        rotary: Rotary::new(context, dims, base),
    }))
}

/// The stored layers in the order in which they run: `loop`, or each once.
fn order(config: &Config, layers: usize) -> Result<Vec<usize>> {
    let Some(value) = config.fields.get("loop") else { return Ok((0..layers).collect()) };
    let steps = value.as_array().filter(|steps| (1..=MOST_STEPS).contains(&steps.len()));
    let steps = steps.ok_or_else(|| {
        Error::input(format!("config.json: loop is {value}, expected a list of 1 to {MOST_STEPS} stored layers"))
    })?;
    let position = |position: &Value| {
        position.as_u64().map(|i| i as usize).filter(|i| *i < layers).ok_or_else(|| {
            Error::input(format!("config.json: loop runs layer {position}, there are {layers} (num_layers), from 0"))
        })
    };
    steps.iter().map(position).collect()
}

/// The steps that have low-rank terms: `lora_steps`, or all.
fn adapted(config: &Config, steps: usize) -> Result<Vec<usize>> {
    let Some(value) = config.fields.get("lora_steps") else { return Ok((0..steps).collect()) };
    let list: Option<Vec<usize>> = value.as_array().and_then(|list| {
        list.iter()
            .map(|position| position.as_u64().map(|position| position as usize).filter(|position| *position < steps))
            .collect()
    });
    list.filter(|list| list.windows(2).all(|w| w[0] < w[1])).ok_or_else(|| {
        Error::input(format!("config.json: lora_steps is {value}, expected a rising list of steps below {steps}"))
    })
}

impl Golf {
    /// Steps that push on the skip stack.
    fn encoder(&self) -> usize {
        self.order.len() / 2
    }

    /// Whether the embedding has a width of its own.
    fn factorized(&self) -> bool {
        self.embedding != self.width
    }

    /// Step `position`, which runs stored layer `i`.
    fn block(
        &self,
        (position, i): (usize, usize),
        x: &Tensor,
        x0: &Tensor,
        params: &Params,
        layers: &dyn Layers,
    ) -> Result<Tensor> {
        let (rows, length, width) = x.dims3()?;
        let at = |role: &str| format!("blocks.{i}.{role}");
        let linear = |role: &str, x: &Tensor| {
            let name = at(role);
            layers.linear(&name, x, get(params, &name)?)
        };
        // Queries and values may have a low-rank term of their own in this step.
        let adapted = |role: &str, x: &Tensor| -> Result<Tensor> {
            let y = linear(&format!("attn.{role}.weight"), x)?;
            if self.rank == 0 || !self.adapted.contains(&position) {
                return Ok(y);
            }
            let [down, up] = ["down", "up"].map(|part| format!("lora.{position}.{role}.{part}.weight"));
            let inner = layers.linear(&down, x, get(params, &down)?)?;
            Ok((y + layers.linear(&up, &inner, get(params, &up)?)?)?)
        };
        let head = width / self.heads;
        let split = |x: Tensor, heads: usize| x.reshape((rows, length, heads, head));

        let mut x = x.clone();
        if self.depths {
            x = x.broadcast_add(&get(params, DEPTHS)?.get(position)?)?;
        }
        if self.resid_mix {
            x = blend(&x, get(params, &at("resid_mix"))?, x0)?;
        }
        let n = rms_norm(&x)?;
        let q = split(adapted("c_q", &n)?, self.heads)?;
        let k = split(linear("attn.c_k.weight", &n)?, self.kv_heads)?;
        let v = split(adapted("c_v", &n)?, self.kv_heads)?;
        let q = head_gain(&self.rotary.apply(&rms_norm(&q)?)?, get(params, &at("attn.q_gain"))?)?;
        let k = self.rotary.apply(&rms_norm(&k)?)?;
        let y = attention(&q, &k, &v)?.reshape((rows, length, width))?;
        let x = scaled_add(&x, get(params, &at("attn_scale"))?, &linear("attn.proj.weight", &y)?)?;
        let n = rms_norm(&x)?;
        let hidden = linear("mlp.fc.weight", &n)?;
        let hidden = match self.activation {
            Activation::Relu2 => relu_squared(&hidden)?,
            Activation::LeakyRelu2 => leaky_relu_squared(&hidden, 0.5)?,
            Activation::SwiGlu => (linear("mlp.gate.weight", &n)?.silu()? * hidden)?,
        };
        Ok(scaled_add(&x, get(params, &at("mlp_scale"))?, &linear("mlp.proj.weight", &hidden)?)?)
    }
}

impl Net for Golf {
    fn tensors(&self) -> Vec<TensorSpec> {
        let (d, kv, e) = (self.width, self.kv_heads * self.width / self.heads, self.embedding);
        let steps = self.order.len();
        let mut specs = Vec::new();
        let mut push = |layer: Option<usize>, role: &str, shape: &[usize], form: Form| {
            let name = layer.map_or(role.to_string(), |i| format!("blocks.{i}.{role}"));
            specs.push(TensorSpec { name, role: role.to_string(), layer, shape: shape.to_vec(), form });
        };
        push(None, EMBEDDING, &[self.vocab, e], Form::Embedding);
        if self.factorized() {
            push(None, INTO, &[d, e], Form::Matrix);
            push(None, OUT_OF, &[e, d], Form::Matrix);
        }
        if self.skips {
            push(None, SKIPS, &[self.encoder(), d], Form::Vector);
        }
        if self.depths {
            push(None, DEPTHS, &[steps, d], Form::Vector);
        }
        for i in 0..self.layers {
            push(Some(i), "attn.c_q.weight", &[d, d], Form::Matrix);
            push(Some(i), "attn.c_k.weight", &[kv, d], Form::Matrix);
            push(Some(i), "attn.c_v.weight", &[kv, d], Form::Matrix);
            push(Some(i), "attn.proj.weight", &[d, d], Form::Matrix);
            push(Some(i), "mlp.fc.weight", &[self.hidden, d], Form::Matrix);
            if self.activation == Activation::SwiGlu {
                push(Some(i), "mlp.gate.weight", &[self.hidden, d], Form::Matrix);
            }
            push(Some(i), "mlp.proj.weight", &[d, self.hidden], Form::Matrix);
            push(Some(i), "attn.q_gain", &[self.heads], Form::Vector);
            push(Some(i), "attn_scale", &[d], Form::Vector);
            push(Some(i), "mlp_scale", &[d], Form::Vector);
            if self.resid_mix {
                push(Some(i), "resid_mix", &[2, d], Form::Vector);
            }
        }
        for position in self.adapted.iter().filter(|_| self.rank > 0) {
            for (role, outputs) in [("c_q", d), ("c_v", kv)] {
                push(None, &format!("lora.{position}.{role}.down.weight"), &[self.rank, d], Form::Matrix);
                push(None, &format!("lora.{position}.{role}.up.weight"), &[outputs, self.rank], Form::Matrix);
            }
        }
        if !self.tied {
            push(None, HEAD, &[self.vocab, e], Form::Embedding);
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
        if self.activation == Activation::SwiGlu { GATED_ROLES } else { TIED_ROLES }
    }

    fn order(&self) -> Vec<usize> {
        self.order.clone()
    }

    /// Keeps the normalised embedding and, on top of it, the stack of skips.
    fn enter(&self, params: &Params, tokens: &Tensor, layers: &dyn Layers) -> Result<State> {
        let mut x0 = layers.embed(EMBEDDING, get(params, EMBEDDING)?, tokens)?;
        if self.factorized() {
            x0 = layers.linear(INTO, &x0, get(params, INTO)?)?;
        }
        let x0 = rms_norm(&x0)?;
        Ok(State { x: x0.clone(), kept: vec![x0] })
    }

    fn run_position(&self, position: usize, state: State, params: &Params, layers: &dyn Layers) -> Result<State> {
        let State { mut x, mut kept } = state;
        let x0 = kept[0].clone();
        if let Some(j) = position.checked_sub(self.encoder()).filter(|_| self.skips && kept.len() > 1)
            && let Some(skip) = kept.pop()
        {
            x = scaled_add(&x, &get(params, SKIPS)?.get(j)?, &skip)?;
        }
        x = self.block((position, self.order[position]), &x, &x0, params, layers)?;
        if self.skips && position < self.encoder() {
            kept.push(x.clone());
        }
        Ok(State { x, kept })
    }

    fn leave(&self, state: State, params: &Params, layers: &dyn Layers) -> Result<Tensor> {
        let linear = |name: &str, x: &Tensor| layers.linear(name, x, get(params, name)?);
        let mut x = rms_norm(&state.x)?;
        if self.factorized() {
            x = linear(OUT_OF, &x)?;
        }
        Ok(softcap(&linear(if self.tied { EMBEDDING } else { HEAD }, &x)?, self.cap)?)
    }
}
