//! The Parameter Golf baseline transformer (openai/parameter-golf, `train_gpt.py`).
//!
//! A U-shaped decoder: the first half of the layers pushes its outputs on a stack, the second half pops them through
//! learned per-channel skip weights. Every block mixes the normalised embedding back in, has grouped-query attention
//! with normalised, rotated queries and keys, and a relu² MLP. Logits are softcapped; the head is the embedding.

use std::sync::Arc;

use candle_core::Tensor;

use super::ops::attention::attention;
use super::ops::mix::{blend, scaled_add};
use super::ops::norm::rms_norm;
use super::ops::pointwise::{relu_squared, softcap};
use super::ops::rope::Rotary;
use super::{Form, Layers, Net, Params, TensorSpec, get};
use crate::error::{Error, Result};
use crate::ingest::config::Config;

/// Name in config.json.
pub const ARCH: &str = "parameter-golf-baseline";

const EMBEDDING: &str = "tok_emb.weight";
const SKIPS: &str = "skip_weights";

/// What a whole-layer tie shares; scale vectors stay each layer's own.
const TIED_ROLES: &[&str] =
    &["attn.c_q.weight", "attn.c_k.weight", "attn.c_v.weight", "attn.proj.weight", "mlp.fc.weight", "mlp.proj.weight"];

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
    if !config.bool("tie_embeddings")? {
        return Err(Error::input("config.json: tie_embeddings is false; only the shared head is supported"));
    }
    let (cap, base) = (config.f64("logit_softcap")?, config.f64("rope_base")?);
    if !(cap > 0.0 && cap.is_finite() && base > 0.0 && base.is_finite()) {
        return Err(Error::input(format!(
            "config.json: logit_softcap {cap} and rope_base {base} must be positive numbers"
        )));
    }
    let context = dimension("train_seq_len", 1 << 16)?;
    Ok(Arc::new(Golf {
        vocab: dimension("vocab_size", 1 << 16)?,
        layers: dimension("num_layers", 1 << 10)?,
        width,
        heads,
        kv_heads,
        hidden: hidden as usize,
        cap: cap as f32,
        context,
        rotary: Rotary::new(context, width / heads, base),
    }))
}

impl Golf {
    /// Layers that push on the skip stack.
    fn encoder(&self) -> usize {
        self.layers / 2
    }

    fn block(&self, i: usize, x: &Tensor, x0: &Tensor, params: &Params, layers: &dyn Layers) -> Result<Tensor> {
        let (rows, length, width) = x.dims3()?;
        let at = |role: &str| format!("blocks.{i}.{role}");
        let linear = |role: &str, x: &Tensor| {
            let name = at(role);
            layers.linear(&name, x, get(params, &name)?)
        };
        let head = width / self.heads;
        let split = |x: Tensor, heads: usize| x.reshape((rows, length, heads, head));

        let x = blend(x, get(params, &at("resid_mix"))?, x0)?;
        let n = rms_norm(&x)?;
        let q = split(linear("attn.c_q.weight", &n)?, self.heads)?;
        let k = split(linear("attn.c_k.weight", &n)?, self.kv_heads)?;
        let v = split(linear("attn.c_v.weight", &n)?, self.kv_heads)?;
        let gain = get(params, &at("attn.q_gain"))?.reshape((self.heads, 1))?;
        let q = self.rotary.apply(&rms_norm(&q)?)?.broadcast_mul(&gain)?;
        let k = self.rotary.apply(&rms_norm(&k)?)?;
        let y = attention(&q, &k, &v)?.reshape((rows, length, width))?;
        let x = scaled_add(&x, get(params, &at("attn_scale"))?, &linear("attn.proj.weight", &y)?)?;
        let hidden = relu_squared(&linear("mlp.fc.weight", &rms_norm(&x)?)?)?;
        Ok(scaled_add(&x, get(params, &at("mlp_scale"))?, &linear("mlp.proj.weight", &hidden)?)?)
    }
}

impl Net for Golf {
    fn tensors(&self) -> Vec<TensorSpec> {
        let (d, kv) = (self.width, self.kv_heads * self.width / self.heads);
        let mut specs = Vec::new();
        let mut push = |layer: Option<usize>, role: &str, shape: &[usize], form: Form| {
            let name = layer.map_or(role.to_string(), |i| format!("blocks.{i}.{role}"));
            specs.push(TensorSpec { name, role: role.to_string(), layer, shape: shape.to_vec(), form });
        };
        push(None, EMBEDDING, &[self.vocab, d], Form::Embedding);
        push(None, SKIPS, &[self.encoder().min(self.layers - self.encoder()), d], Form::Vector);
        for i in 0..self.layers {
            push(Some(i), "attn.c_q.weight", &[d, d], Form::Matrix);
            push(Some(i), "attn.c_k.weight", &[kv, d], Form::Matrix);
            push(Some(i), "attn.c_v.weight", &[kv, d], Form::Matrix);
            push(Some(i), "attn.proj.weight", &[d, d], Form::Matrix);
            push(Some(i), "mlp.fc.weight", &[self.hidden, d], Form::Matrix);
            push(Some(i), "mlp.proj.weight", &[d, self.hidden], Form::Matrix);
            push(Some(i), "attn.q_gain", &[self.heads], Form::Vector);
            push(Some(i), "attn_scale", &[d], Form::Vector);
            push(Some(i), "mlp_scale", &[d], Form::Vector);
            push(Some(i), "resid_mix", &[2, d], Form::Vector);
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

    fn logits(&self, params: &Params, tokens: &Tensor, layers: &dyn Layers) -> Result<Tensor> {
        let table = get(params, EMBEDDING)?;
        let x0 = rms_norm(&layers.embed(EMBEDDING, table, tokens)?)?;
        let skips = get(params, SKIPS)?;
        let mut x = x0.clone();
        let mut stack = Vec::with_capacity(self.encoder());
        for i in 0..self.encoder() {
            x = self.block(i, &x, &x0, params, layers)?;
            stack.push(x.clone());
        }
        for (j, i) in (self.encoder()..self.layers).enumerate() {
            if let Some(skip) = stack.pop() {
                x = scaled_add(&x, &skips.get(j)?, &skip)?;
            }
            x = self.block(i, &x, &x0, params, layers)?;
        }
        Ok(softcap(&layers.linear(EMBEDDING, &rms_norm(&x)?, table)?, self.cap)?)
    }
}
