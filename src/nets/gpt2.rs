//! GPT-2 (Radford et al. 2019) as Hugging Face's transformers stores it.
//!
//! Learned positions, pre-norm blocks with biases everywhere, queries, keys and values in one matrix, a tanh-approximated
//! GELU. Matrices are stored as (inputs, outputs). The head is the token embedding.

use std::sync::Arc;

use candle_core::Tensor;

use super::ops::attention::attention;
use super::parts::{Fields, biased, layer_norm};
use super::{Form, Layers, Net, Params, State, TensorSpec, get};
use crate::error::{Error, Result};
use crate::ingest::config::Config;

/// `model_type` in config.json.
pub const ARCH: &str = "gpt2";

const TOKENS: &str = "transformer.wte.weight";
const POSITIONS: &str = "transformer.wpe.weight";

const TIED_ROLES: &[&str] = &["attn.c_attn.weight", "attn.c_proj.weight", "mlp.c_fc.weight", "mlp.c_proj.weight"];

struct Gpt2 {
    vocab: usize,
    positions: usize,
    width: usize,
    hidden: usize,
    layers: usize,
    heads: usize,
    eps: f32,
    context: usize,
}

/// Reads the dimensions from config.json.
///
/// # Errors
/// If one is missing, they do not fit together, or a setting is not supported.
pub fn build(config: &Config) -> Result<Arc<dyn Net>> {
    let fields = Fields(config);
    let width = fields.dimension("n_embd", 1 << 16)?;
    let heads = fields.dimension("n_head", 1 << 10)?;
    if width % heads != 0 {
        return Err(Error::input(format!("config.json: n_embd {width} is not a multiple of n_head {heads}")));
    }
    fields.only("activation_function", &["gelu_new", "gelu_pytorch_tanh"], "gelu_new")?;
    for (key, usual) in
        [("scale_attn_weights", true), ("scale_attn_by_inverse_layer_idx", false), ("tie_word_embeddings", true)]
    {
        if fields.switch(key, usual)? != usual {
            return Err(Error::input(format!("config.json: {key} is {}, which is not supported", !usual)));
        }
    }
    let positions = fields.dimension("n_positions", 1 << 20)?;
    Ok(Arc::new(Gpt2 {
        vocab: fields.dimension("vocab_size", 1 << 24)?,
        positions,
        width,
        hidden: fields.dimension_or("n_inner", 1 << 20, 4 * width)?,
        layers: fields.dimension("n_layer", 1 << 10)?,
        heads,
        eps: fields.number_or("layer_norm_epsilon", 1e-5)? as f32,
        context: fields.context(positions)?,
    }))
}

impl Gpt2 {
    fn block(&self, i: usize, x: &Tensor, params: &Params, layers: &dyn Layers) -> Result<Tensor> {
        let (rows, length, width) = x.dims3()?;
        let at = |role: &str| format!("transformer.h.{i}.{role}");
        let norm = |role: &str, x: &Tensor| layer_norm(x, params, &at(role), self.eps);
        let linear = |role: &str, x: &Tensor| {
            let name = at(&format!("{role}.weight"));
            biased(layers.linear_transposed(&name, x, get(params, &name)?)?, params, &at(&format!("{role}.bias")))
        };
        let head = width / self.heads;
        let qkv = linear("attn.c_attn", &norm("ln_1", x)?)?;
        let part = |k: usize| -> Result<Tensor> {
            Ok(qkv.narrow(2, k * width, width)?.contiguous()?.reshape((rows, length, self.heads, head))?)
        };
        let y = attention(&part(0)?, &part(1)?, &part(2)?)?.reshape((rows, length, width))?;
        let x = (x + linear("attn.c_proj", &y)?)?;
        let hidden = linear("mlp.c_fc", &norm("ln_2", &x)?)?.gelu()?;
        Ok((&x + linear("mlp.c_proj", &hidden)?)?)
    }
}

impl Net for Gpt2 {
    fn tensors(&self) -> Vec<TensorSpec> {
        let (d, h) = (self.width, self.hidden);
        let mut specs = Vec::new();
        let mut push = |layer: Option<usize>, role: &str, shape: &[usize], form: Form| {
            let name = match layer {
                Some(i) => format!("transformer.h.{i}.{role}"),
                None => format!("transformer.{role}"),
            };
            specs.push(TensorSpec { name, role: role.to_string(), layer, shape: shape.to_vec(), form });
        };
        push(None, "wte.weight", &[self.vocab, d], Form::Embedding);
        push(None, "wpe.weight", &[self.positions, d], Form::Embedding);
        for i in 0..self.layers {
            for (role, shape) in [
                ("ln_1.weight", &[d][..]),
                ("ln_1.bias", &[d]),
                ("attn.c_attn.weight", &[d, 3 * d]),
                ("attn.c_attn.bias", &[3 * d]),
                ("attn.c_proj.weight", &[d, d]),
                ("attn.c_proj.bias", &[d]),
                ("ln_2.weight", &[d]),
                ("ln_2.bias", &[d]),
                ("mlp.c_fc.weight", &[d, h]),
                ("mlp.c_fc.bias", &[h]),
                ("mlp.c_proj.weight", &[h, d]),
                ("mlp.c_proj.bias", &[d]),
            ] {
                push(Some(i), role, shape, if shape.len() == 2 { Form::Matrix } else { Form::Vector });
            }
        }
        push(None, "ln_f.weight", &[d], Form::Vector);
        push(None, "ln_f.bias", &[d], Form::Vector);
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
        &[("lm_head.weight", TOKENS)]
    }

    fn prefix(&self) -> &'static str {
        "transformer."
    }

    fn enter(&self, params: &Params, tokens: &Tensor, layers: &dyn Layers) -> Result<State> {
        let (rows, length) = tokens.dims2()?;
        let places: Vec<u32> = (0..rows).flat_map(|_| 0..length as u32).collect();
        let places = Tensor::from_vec(places, (rows, length), tokens.device())?;
        let words = layers.embed(TOKENS, get(params, TOKENS)?, tokens)?;
        let x = (words + layers.embed(POSITIONS, get(params, POSITIONS)?, &places)?)?;
        Ok(State { x, kept: Vec::new() })
    }

    fn step(&self, step: usize, state: State, params: &Params, layers: &dyn Layers) -> Result<State> {
        Ok(State { x: self.block(step, &state.x, params, layers)?, ..state })
    }

    fn leave(&self, state: State, params: &Params, layers: &dyn Layers) -> Result<Tensor> {
        let x = layer_norm(&state.x, params, "transformer.ln_f", self.eps)?;
        layers.linear(TOKENS, &x, get(params, TOKENS)?)
    }
}
