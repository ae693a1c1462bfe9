//! The inventory of a file as pictures need it.

use std::collections::BTreeMap;

use serde_json::Value;

use super::figure::Document;

/// What a row of bytes is for, as colours tell.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Family {
    Embedding,
    Attention,
    Mlp,
    Other,
    Container,
}

impl Family {
    pub const ALL: [(Family, &'static str, &'static str); 5] = [
        (Family::Embedding, "embed", "embedding and head"),
        (Family::Attention, "attn", "attention"),
        (Family::Mlp, "mlp", "MLP"),
        (Family::Other, "other", "control and other tensors"),
        (Family::Container, "box", "container"),
    ];

    pub fn class(self) -> &'static str {
        Family::ALL.iter().find(|(family, ..)| *family == self).map_or("other", |(_, class, _)| class)
    }

    fn of(part: &str, in_layer: bool, tensors: usize) -> Family {
        let part = part.to_lowercase();
        let named = |words: &[&str]| words.iter().any(|word| part.contains(word));
        match () {
            () if tensors == 0 => Family::Container,
            () if !in_layer && named(&["emb", "wte", "wpe", "head"]) => Family::Embedding,
            () if !part.contains("weight") || named(&["norm", "ln_", "scale", "vectors"]) => Family::Other,
            () if named(&["attn", "attention"]) => Family::Attention,
            () if named(&["mlp", "ffn", "feed_forward"]) => Family::Mlp,
            () => Family::Other,
        }
    }
}

/// A run of bytes.
pub struct Row<'a> {
    /// Where it stands in the document.
    pub at: String,
    pub part: &'a str,
    pub layers: Vec<usize>,
    pub bytes: f64,
    pub bits: Option<f64>,
    pub family: Family,
    /// What it is called when hovered over.
    pub title: String,
}

/// A matrix of the architecture.
pub struct Matrix<'a> {
    pub role: &'a str,
    pub layer: Option<usize>,
    /// Layer of the tensor that it is stored as.
    pub owner: Option<usize>,
    /// It has bytes of its own.
    pub own: bool,
    /// Layer of the tensor that these bytes are added to.
    pub from: Option<usize>,
    /// Index into the rows.
    pub row: usize,
}

/// An inventory.
pub struct Ledger<'a> {
    pub document: Document<'a>,
    pub rows: Vec<Row<'a>>,
    pub matrices: Vec<Matrix<'a>>,
    /// For every layer the first layer that shares all its tied roles.
    pub copies: Vec<usize>,
    /// Layers in the order in which they run.
    pub order: Vec<usize>,
}

impl<'a> Ledger<'a> {
    /// The inventory at a JSON pointer (empty: the document itself), if there is one.
    pub fn at(document: Document<'a>, pointer: &str) -> Option<Ledger<'a>> {
        let place = |field: &str| format!("{pointer}/{field}");
        document.at(&place("rows"))?;
        let rows = document.list(&place("rows")).iter().enumerate();
        let rows = rows.map(|(i, row)| Row::read(row, format!("{}/{i}", place("rows")))).collect();
        let matrices = document.list(&place("matrices"));
        let layer_of: BTreeMap<&str, Option<usize>> =
            matrices.iter().map(|m| (text(m, "tensor"), number(m, "layer"))).collect();
        let made_from = |row: usize| document.text(&format!("{}/{row}/made/from", place("rows")));
        let matrix = |m: &'a Value| {
            let (row, own) = (number(m, "row").unwrap_or(0), text(m, "stored_as") == text(m, "tensor"));
            Matrix {
                role: text(m, "role"),
                layer: number(m, "layer"),
                owner: layer_of.get(text(m, "stored_as")).copied().flatten(),
                own,
                from: made_from(row).filter(|_| own).and_then(|from| layer_of.get(from).copied().flatten()),
                row,
            }
        };
        Some(Ledger {
            document,
            rows,
            matrices: matrices.iter().map(matrix).collect(),
            copies: integers(document.list(&place("copies"))),
            order: integers(document.list(&place("order"))),
        })
    }

    /// Layers that others share, each with the number of its colour.
    pub fn shared(&self) -> BTreeMap<usize, usize> {
        let mut uses: BTreeMap<(usize, &str), usize> = BTreeMap::new();
        for m in &self.matrices {
            if let Some(owner) = m.owner {
                *uses.entry((owner, m.role)).or_default() += 1;
            }
        }
        let mut owners: Vec<usize> = uses.iter().filter(|(_, n)| **n > 1).map(|((owner, _), _)| *owner).collect();
        owners.extend(self.matrices.iter().filter_map(|m| m.from));
        // A loop runs one layer several times.
        owners.extend(self.order.iter().filter(|layer| self.order.iter().filter(|l| l == layer).count() > 1));
        owners.sort_unstable();
        owners.dedup();
        owners.into_iter().enumerate().map(|(k, owner)| (owner, k)).collect()
    }

    /// Roles of matrices in layers, in their order.
    pub fn roles(&self) -> Vec<&'a str> {
        let mut roles = Vec::new();
        for m in self.matrices.iter().filter(|m| m.layer.is_some()) {
            if !roles.contains(&m.role) {
                roles.push(m.role);
            }
        }
        roles
    }
}

impl<'a> Row<'a> {
    fn read(row: &'a Value, at: String) -> Row<'a> {
        let (part, layers) = (text(row, "part"), integers(row["layers"].as_array().map_or(&[], Vec::as_slice)));
        let tensors = row["tensors"].as_array().map_or(0, Vec::len);
        let bytes = row["bytes"].as_f64().unwrap_or(0.0);
        let bits = row["bits_per_weight"].as_f64();
        let mut title = part.to_string();
        if !layers.is_empty() {
            let word = if layers.len() == 1 { "layer" } else { "layers" };
            title += &format!(" · {word} {}", crate::text::list(&layers));
        }
        title += &format!(" · {} bytes", crate::text::thousands(bytes as u64));
        if let Some(bits) = bits {
            title += &format!(" · {bits:.3} bits per weight");
        }
        if let Some(codec) = row["codec"].as_str() {
            title += &format!(" · {codec}");
        }
        let family = Family::of(part, !layers.is_empty(), tensors);
        Row { at, part, layers, bytes, bits, family, title }
    }
}

/// A role without what all of them have in common.
pub fn short(role: &str) -> &str {
    role.strip_suffix(".weight").unwrap_or(role)
}

fn text<'a>(value: &'a Value, key: &str) -> &'a str {
    value[key].as_str().unwrap_or_default()
}

fn number(value: &Value, key: &str) -> Option<usize> {
    value[key].as_u64().map(|n| n as usize)
}

fn integers(list: &[Value]) -> Vec<usize> {
    list.iter().filter_map(|n| n.as_u64().map(|n| n as usize)).collect()
}
