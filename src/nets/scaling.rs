//! Frequencies of the rotary embedding as transformers' configurations scale them for long contexts: its
//! `modeling_rope_utils`, operation by operation.

use std::f64::consts::PI;

use serde_json::{Map, Value};

use super::keys::{self, Table, Treatment};
use super::ops::rope::{Rotary, frequencies};
use super::parts::Fields;
use crate::error::{Error, Result};

use Treatment::{Only, Read, Silent};

/// Keys within `rope_parameters` or `rope_scaling`, for all kinds of scaling.
pub const KEYS: Table =
    &[(Read, &["rope_type", "type", "rope_theta"]), (Only(keys::nothing, "null"), &["mrope_section"])];

/// What each kind reads beside them.
const KINDS: &[(&str, Table)] = &[
    ("default", &[(Only(keys::one, "1"), &["partial_rotary_factor"]), (Silent, &["factor"])]),
    ("linear", &[(Only(keys::one, "1"), &["partial_rotary_factor"]), (Read, &["factor"])]),
    // No row is longer than all positions, and within them nothing is scaled.
    (
        "dynamic",
        &[
            (Only(keys::one, "1"), &["partial_rotary_factor"]),
            (Read, &["factor"]),
            (Silent, &["original_max_position_embeddings"]),
        ],
    ),
    (
        "llama3",
        &[
            (Only(keys::one, "1"), &["partial_rotary_factor"]),
            (Read, &["factor", "original_max_position_embeddings", "low_freq_factor", "high_freq_factor"]),
        ],
    ),
    (
        "yarn",
        &[
            (Only(keys::one, "1"), &["partial_rotary_factor"]),
            (Read, &["factor", "original_max_position_embeddings", "attention_factor", "beta_fast", "beta_slow"]),
            (Read, &["mscale", "mscale_all_dim", "truncate"]),
        ],
    ),
    (
        "longrope",
        &[
            (Only(keys::one, "1"), &["partial_rotary_factor"]),
            (Read, &["factor", "original_max_position_embeddings", "attention_factor", "short_factor", "long_factor"]),
        ],
    ),
    ("proportional", &[(Read, &["factor", "partial_rotary_factor"])]),
];

/// The rotary embedding of a network.
pub struct Positions {
    usual: Rotary,
    /// Rows of more tokens than this are turned by another one.
    long: Option<(usize, Rotary)>,
}

impl Positions {
    /// That of rows of `length` tokens.
    pub fn of(&self, length: usize) -> &Rotary {
        match &self.long {
            Some((most, long)) if length > *most => long,
            _ => &self.usual,
        }
    }
}

/// The object that scales: the older name goes first, as in transformers.
fn object<'a>(fields: &Fields<'a>) -> Result<Option<(&'static str, &'a Map<String, Value>)>> {
    for key in ["rope_scaling", "rope_parameters"] {
        match fields.0.fields.get(key) {
            None | Some(Value::Null) => {}
            Some(Value::Object(inner)) if inner.is_empty() => {}
            Some(Value::Object(inner)) => return Ok(Some((key, inner))),
            Some(other) => {
                return Err(Error::input(format!("config.json: {key} is {other}, expected an object")));
            }
        }
    }
    Ok(None)
}

/// The kind of scaling that an object names.
fn kind(inner: &Map<String, Value>) -> &str {
    inner.get("rope_type").or(inner.get("type")).and_then(Value::as_str).unwrap_or("default")
}

/// Keys of the scaling that its kind does not know, with the name of the object before them.
pub fn unknown(fields: &Fields) -> Vec<String> {
    let Ok(Some((name, inner))) = object(fields) else { return Vec::new() };
    let Some((_, own)) = KINDS.iter().find(|(known, _)| *known == kind(inner)) else { return Vec::new() };
    let tables = [KEYS, own];
    let foreign = inner.keys().filter(|key| keys::treatment(&tables, key).is_none());
    foreign.map(|key| format!("{name}.{key}")).collect()
}

/// What scales, with the numbers of the configuration around it.
struct Scaling<'a> {
    name: &'static str,
    kind: &'a str,
    inner: Option<&'a Map<String, Value>>,
    fields: &'a Fields<'a>,
    /// Positions of the network.
    most: f64,
}

impl Scaling<'_> {
    /// A number of the object; null is as if it were absent.
    fn number(&self, key: &str) -> Result<Option<f64>> {
        match self.inner.and_then(|inner| inner.get(key)) {
            None | Some(Value::Null) => Ok(None),
            Some(value) => value.as_f64().map(Some).ok_or_else(|| self.refusal(key, value, "a number")),
        }
    }

    fn refusal(&self, key: &str, value: &Value, wanted: &str) -> Error {
        Error::input(format!("config.json: {}: {key} is {value}, expected {wanted}", self.name))
    }

    fn positive(&self, key: &str) -> Result<Option<f64>> {
        let number = self.number(key)?;
        match number {
            Some(x) if !(x > 0.0 && x.is_finite()) => Err(self.refusal(key, &x.into(), "a positive number")),
            number => Ok(number),
        }
    }

    fn need(&self, key: &str) -> Result<f64> {
        self.positive(key)?
            .ok_or_else(|| Error::input(format!("config.json: {}: {:?} needs a positive {key}", self.name, self.kind)))
    }

    /// Positions before the scaling: what stands beside the object goes first, as in transformers.
    fn original(&self) -> Result<f64> {
        const KEY: &str = "original_max_position_embeddings";
        let beside = self.fields.dimension_or(KEY, 1 << 24, 0)?;
        if beside > 0 {
            return Ok(beside as f64);
        }
        Ok(self.positive(KEY)?.unwrap_or(self.most))
    }

    fn switch(&self, key: &str, usual: bool) -> Result<bool> {
        match self.inner.and_then(|inner| inner.get(key)) {
            None | Some(Value::Null) => Ok(usual),
            Some(value) => value.as_bool().ok_or_else(|| self.refusal(key, value, "true or false")),
        }
    }

    /// A list of positive numbers, one for each of `pairs`.
    fn list(&self, key: &str, pairs: usize) -> Result<Vec<f32>> {
        let value = self.inner.and_then(|inner| inner.get(key)).unwrap_or(&Value::Null);
        let list: Option<Vec<f32>> =
            value.as_array().and_then(|list| list.iter().map(|x| x.as_f64().map(|x| x as f32)).collect());
        list.filter(|list| list.len() == pairs && list.iter().all(|x| *x > 0.0 && x.is_finite()))
            .ok_or_else(|| self.refusal(key, value, &format!("a list of {pairs} positive numbers")))
    }
}

/// The rotary embedding of heads of `head` dimensions in rows of up to `context` tokens, for a network of `most` positions.
///
/// # Errors
/// The configuration scales in a way that is not known, or a number is missing or out of range.
pub fn positions(fields: &Fields, head: usize, context: usize, most: usize) -> Result<Positions> {
    let found = object(fields)?;
    let (name, inner) = found.map_or(("rope_parameters", None), |(name, inner)| (name, Some(inner)));
    let kind = inner.map_or("default", kind);
    let own = KINDS.iter().find(|(known, _)| *known == kind).map(|(_, table)| *table);
    let own = own.ok_or_else(|| {
        let known: Vec<&str> = KINDS.iter().map(|(kind, _)| *kind).collect();
        Error::input(format!("config.json: rope scaling {kind:?} is not supported"))
            .hint(format!("known: {}", known.join(", ")))
    })?;
    for (key, value) in inner.into_iter().flatten() {
        if let Value::Object(_) = value {
            return Err(Error::input(format!("config.json: {name} has parameters of its own for {key}"))
                .hint("supported: the same for all layers"));
        }
        if let Some(Only(fits, which)) = keys::treatment(&[KEYS, own], key)
            && !value.is_null()
            && !fits(value)
        {
            return Err(Error::input(format!("config.json: {name}: {key} is {value}, which is not supported"))
                .hint(format!("supported: {which}")));
        }
    }
    let scaling = Scaling { name, kind, inner, fields, most: most as f64 };
    let base = match scaling.positive("rope_theta")? {
        Some(base) => base,
        None => fields.number_or("rope_theta", 10_000.0)?,
    };
    let plain = frequencies(head, base);
    let turned = |frequencies: &[f32], size: f64| Rotary::forwards(context, frequencies).scaled(size as f32);
    let of = |frequencies: Vec<f32>| Positions { usual: turned(&frequencies, 1.0), long: None };
    match kind {
        "linear" => {
            let factor = scaling.need("factor")? as f32;
            Ok(of(plain.into_iter().map(|f| f / factor).collect()))
        }
        "dynamic" => scaling.need("factor").map(|_| of(plain)),
        "proportional" => {
            let share = scaling.number("partial_rotary_factor")?.unwrap_or(1.0);
            if !(0.0..=1.0).contains(&share) {
                return Err(scaling.refusal("partial_rotary_factor", &share.into(), "0 to 1"));
            }
            let turning = (share * head as f64 / 2.0).floor() as usize;
            let factor = scaling.positive("factor")?.unwrap_or(1.0) as f32;
            let one = |(pair, f): (usize, f32)| if pair < turning { f / factor } else { 0.0 };
            Ok(of(plain.into_iter().enumerate().map(one).collect()))
        }
        "llama3" => {
            // Long wavelengths are stretched, short ones kept, those between blended.
            let (factor, original) = (scaling.need("factor")?, scaling.original()?);
            let (low, high) = (scaling.need("low_freq_factor")?, scaling.need("high_freq_factor")?);
            let scale = |f: f32| {
                let turns = original * f64::from(f) / (2.0 * PI);
                let share = ((turns - low) / (high - low)).clamp(0.0, 1.0);
                (f64::from(f) * (share + (1.0 - share) / factor)) as f32
            };
            Ok(of(plain.into_iter().map(scale).collect()))
        }
        "yarn" => {
            let (frequencies, size) = yarn(&scaling, head, base)?;
            Ok(Positions { usual: turned(&frequencies, size), long: None })
        }
        "longrope" => {
            let original = scaling.original()?;
            let factor = scaling.positive("factor")?.unwrap_or(most as f64 / original);
            let usual = if factor <= 1.0 { 1.0 } else { (1.0 + factor.ln() / original.ln()).sqrt() };
            let size = scaling.positive("attention_factor")?.unwrap_or(usual);
            let powers: Vec<f32> = plain.iter().map(|f| 1.0 / f).collect();
            let by = |key: &str| -> Result<Rotary> {
                let list = scaling.list(key, head / 2)?;
                let stretched: Vec<f32> = powers.iter().zip(list).map(|(power, by)| 1.0 / (by * power)).collect();
                Ok(turned(&stretched, size))
            };
            Ok(Positions { usual: by("short_factor")?, long: Some((original as usize, by("long_factor")?)) })
        }
        _ => Ok(of(plain)),
    }
}

/// Frequencies of YaRN (arXiv:2309.00071), and what cosines and sines are multiplied by.
fn yarn(scaling: &Scaling, head: usize, base: f64) -> Result<(Vec<f32>, f64)> {
    let original = scaling.original()?;
    let factor = scaling.positive("factor")?.unwrap_or(scaling.most / original);
    let size = |mscale: f64| if factor <= 1.0 { 1.0 } else { 0.1 * mscale * factor.ln() + 1.0 };
    let given = |key: &str| -> Result<Option<f64>> { Ok(scaling.number(key)?.filter(|x| *x != 0.0)) };
    let usual = match (given("mscale")?, given("mscale_all_dim")?) {
        (Some(mscale), Some(all)) => size(mscale) / size(all),
        _ => size(1.0),
    };
    let size = scaling.positive("attention_factor")?.unwrap_or(usual);
    let (fast, slow) = (given("beta_fast")?.unwrap_or(32.0), given("beta_slow")?.unwrap_or(1.0));
    // The pair that turns so many times within the original positions.
    let pair = |turns: f64| head as f64 * (original / (turns * 2.0 * PI)).ln() / (2.0 * base.ln());
    let (mut low, mut high) = (pair(fast), pair(slow));
    if scaling.switch("truncate", true)? {
        (low, high) = (low.floor(), high.ceil());
    }
    (low, high) = (low.max(0.0), high.min(head as f64 - 1.0));
    if low == high {
        high += 0.001;
    }
    let blend = |(m, f): (usize, f32)| {
        let share = 1.0 - ((m as f32 - low as f32) / (high - low) as f32).clamp(0.0, 1.0);
        1.0 / (factor as f32 * (1.0 / f)) * (1.0 - share) + f * share
    };
    Ok((frequencies(head, base).into_iter().enumerate().map(blend).collect(), size))
}
