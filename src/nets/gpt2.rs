//! GPT-2 (Radford et al. 2019) as Hugging Face's transformers stores it, and as nanoGPT does.
//!
//! Learned positions, pre-norm blocks with biases everywhere, queries, keys and values in one matrix, a tanh-approximated
//! GELU. Matrices are stored as (inputs, outputs). The head is the token embedding. nanoGPT has the same names, but stores
//! matrices as (outputs, inputs), leaves biases out if it is told to, and has the exact GELU.

use std::sync::Arc;

use candle_core::Tensor;

use super::keys::{self, Table, Treatment};
use super::ops::attention::attention;
use super::ops::norm;
use super::parts::{Activation, Fields, biased, layer_norm};
use super::{Form, Layers, Net, Params, State, TensorSpec, get};
use crate::error::{Error, Result};
use crate::ingest::config::Config;

/// `model_type` in config.json.
pub const ARCH: &str = "gpt2";
/// `arch` of a checkpoint of nanoGPT; its keys are those of `model_args`.
pub const NANO: &str = "nanogpt";

const TOKENS: &str = "transformer.wte.weight";
const POSITIONS: &str = "transformer.wpe.weight";
const HEAD: &str = "lm_head.weight";

const TIED_ROLES: &[&str] = &["attn.c_attn.weight", "attn.c_proj.weight", "mlp.c_fc.weight", "mlp.c_proj.weight"];

use Treatment::{Read, Silent};

/// The keys of transformers' configuration, and their treatment.
pub const KEYS: &[Table] = &[
    keys::NAMES,
    keys::COMMON,
    &[
        (Read, &["vocab_size", "n_positions", "n_embd", "n_layer", "n_head", "n_inner", "layer_norm_epsilon"]),
        // Other names of four of them.
        (Read, &["hidden_size", "max_position_embeddings", "num_attention_heads", "num_hidden_layers"]),
        (
            Read,
            &["activation_function", "scale_attn_weights", "scale_attn_by_inverse_layer_idx", "tie_word_embeddings"],
        ),
        // Changes the order of operations in 16 bits only.
        (Silent, &["reorder_and_upcast_attn"]),
        (Silent, &["n_ctx", "resid_pdrop", "embd_pdrop", "attn_pdrop"]),
        (Silent, &["summary_type", "summary_use_proj", "summary_activation", "summary_proj_to_labels"]),
        (Silent, &["summary_first_dropout", "summary_last_dropout"]),
    ],
];

/// The keys of nanoGPT's `model_args`, and their treatment.
pub const NANO_KEYS: &[Table] = &[
    keys::NAMES,
    &[
        (Read, &["vocab_size", "block_size", "n_embd", "n_layer", "n_head", "bias", "activation_function"]),
        (Read, &["tiepack_context"]),
        (Silent, &["dropout"]),
    ],
];

struct Gpt2 {
    vocab: usize,
    positions: usize,
    width: usize,
    hidden: usize,
    layers: usize,
    heads: usize,
    eps: f32,
    /// The head is the embedding.
    tied: bool,
    /// Matrices and normalisations have biases.
    biased: bool,
    /// Matrices are stored as (inputs, outputs).
    transposed: bool,
    /// What attention multiplies the products of queries and keys by, beyond the usual, layer by layer.
    scales: Vec<f64>,
    activation: Activation,
    context: usize,
}

/// Reads the dimensions from config.json.
///
/// # Errors
/// If one is missing, they do not fit together, or a setting is not supported.
pub fn build(config: &Config) -> Result<Arc<dyn Net>> {
    let fields = Fields(config);
    let named = |key: &'static str, other: &'static str| match (config.fields.get(key), config.fields.get(other)) {
        (Some(a), Some(b)) if a != b => Err(Error::input(format!("config.json: {key} is {a}, but {other} is {b}"))
            .hint("the two name the same: leave the wrong one out")),
        (None, Some(_)) => Ok(other),
        _ => Ok(key),
    };
    let width = fields.dimension(named("n_embd", "hidden_size")?, 1 << 16)?;
    let heads = fields.dimension(named("n_head", "num_attention_heads")?, 1 << 10)?;
    let layers = fields.dimension(named("n_layer", "num_hidden_layers")?, 1 << 10)?;
    let positions = fields.dimension(named("n_positions", "max_position_embeddings")?, 1 << 20)?;
    check(width, heads)?;
    let usual = if fields.switch("scale_attn_weights", true)? { 1.0 } else { ((width / heads) as f64).sqrt() };
    let by_layer = fields.switch("scale_attn_by_inverse_layer_idx", false)?;
    Ok(Arc::new(Gpt2 {
        vocab: fields.dimension("vocab_size", 1 << 24)?,
        positions,
        width,
        hidden: fields.dimension_or("n_inner", 1 << 20, 4 * width)?,
        layers,
        heads,
        eps: fields.number_or("layer_norm_epsilon", 1e-5)? as f32,
        tied: fields.switch("tie_word_embeddings", true)?,
        biased: true,
        transposed: true,
        scales: (0..layers).map(|i| if by_layer { usual / (i + 1) as f64 } else { usual }).collect(),
        activation: fields.activation("activation_function", "gelu_new")?,
        context: fields.context(positions)?,
    }))
}

/// Reads the dimensions from the `model_args` of nanoGPT.
///
/// # Errors
/// If one is missing, or they do not fit together.
pub fn build_nano(config: &Config) -> Result<Arc<dyn Net>> {
    let fields = Fields(config);
    let width = fields.dimension("n_embd", 1 << 16)?;
    let (heads, layers) = (fields.dimension("n_head", 1 << 10)?, fields.dimension("n_layer", 1 << 10)?);
    check(width, heads)?;
    let positions = fields.dimension("block_size", 1 << 20)?;
    Ok(Arc::new(Gpt2 {
        vocab: fields.dimension("vocab_size", 1 << 24)?,
        positions,
        width,
        hidden: 4 * width,
        layers,
        heads,
        eps: 1e-5,
        tied: true,
        biased: fields.switch("bias", true)?,
        transposed: false,
        scales: vec![1.0; layers],
        activation: fields.activation("activation_function", "gelu")?,
        context: fields.context(positions)?,
    }))
}

fn check(width: usize, heads: usize) -> Result<()> {
    match width % heads {
        0 => Ok(()),
        _ => Err(Error::input(format!("config.json: n_embd {width} is not a multiple of n_head {heads}"))),
    }
}

impl Gpt2 {
    fn norm(&self, x: &Tensor, params: &Params, name: &str) -> Result<Tensor> {
        if self.biased {
            return layer_norm(x, params, name, self.eps);
        }
        Ok(norm::layer_norm(x, self.eps)?.broadcast_mul(get(params, &format!("{name}.weight"))?)?)
    }

    fn block(&self, i: usize, x: &Tensor, params: &Params, layers: &dyn Layers) -> Result<Tensor> {
        let (rows, length, width) = x.dims3()?;
        let at = |role: &str| format!("transformer.h.{i}.{role}");
        let norm = |role: &str, x: &Tensor| self.norm(x, params, &at(role));
        let linear = |role: &str, x: &Tensor| {
            let name = at(&format!("{role}.weight"));
            let w = get(params, &name)?;
            let y = if self.transposed { layers.linear_transposed(&name, x, w) } else { layers.linear(&name, x, w) }?;
            if self.biased { biased(y, params, &at(&format!("{role}.bias"))) } else { Ok(y) }
        };
        let head = width / self.heads;
        let qkv = linear("attn.c_attn", &norm("ln_1", x)?)?;
        let part = |k: usize| -> Result<Tensor> {
            Ok(qkv.narrow(2, k * width, width)?.contiguous()?.reshape((rows, length, self.heads, head))?)
        };
        let q = if self.scales[i] == 1.0 { part(0)? } else { (part(0)? * self.scales[i])? };
        let y = attention(&q, &part(1)?, &part(2)?)?.reshape((rows, length, width))?;
        let x = (x + linear("attn.c_proj", &y)?)?;
        let hidden = self.activation.apply(&linear("mlp.c_fc", &norm("ln_2", &x)?)?)?;
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
            for (role, mut shape) in [
                ("ln_1.weight", vec![d]),
                ("ln_1.bias", vec![d]),
                ("attn.c_attn.weight", vec![d, 3 * d]),
                ("attn.c_attn.bias", vec![3 * d]),
                ("attn.c_proj.weight", vec![d, d]),
                ("attn.c_proj.bias", vec![d]),
                ("ln_2.weight", vec![d]),
                ("ln_2.bias", vec![d]),
                ("mlp.c_fc.weight", vec![d, h]),
                ("mlp.c_fc.bias", vec![h]),
                ("mlp.c_proj.weight", vec![h, d]),
                ("mlp.c_proj.bias", vec![d]),
            ] {
                if !self.transposed {
                    shape.reverse();
                }
                if self.biased || role.ends_with(".weight") {
                    push(Some(i), role, &shape, if shape.len() == 2 { Form::Matrix } else { Form::Vector });
                }
            }
        }
        push(None, "ln_f.weight", &[d], Form::Vector);
        if self.biased {
            push(None, "ln_f.bias", &[d], Form::Vector);
        }
        if !self.tied {
            let shape = vec![self.vocab, d];
            specs.push(TensorSpec { name: HEAD.into(), role: HEAD.into(), layer: None, shape, form: Form::Embedding });
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
        if self.tied { &[(HEAD, TOKENS)] } else { &[] }
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

    fn run_position(&self, position: usize, state: State, params: &Params, layers: &dyn Layers) -> Result<State> {
        Ok(State { x: self.block(position, &state.x, params, layers)?, ..state })
    }

    fn leave(&self, state: State, params: &Params, layers: &dyn Layers) -> Result<Tensor> {
        let x = self.norm(&state.x, params, "transformer.ln_f")?;
        let head = if self.tied { TOKENS } else { HEAD };
        layers.linear(head, &x, get(params, head)?)
    }
}
