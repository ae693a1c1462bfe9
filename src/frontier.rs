//! What points of loss against bytes say to somebody who designs a model: the price of the next thousandth of a nat, and
//! the width that sharing pays for.

use serde::Serialize;

use crate::model::Model;

/// Keys of config.json that hold the width of a model.
const WIDTHS: [&str; 4] = ["model_dim", "hidden_size", "n_embd", "d_model"];

/// What the bytes that sharing saves would buy in width.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Width {
    /// Columns of the model as it is.
    pub columns: usize,
    /// Columns that its shape would have if every layer had its own matrices' bytes to spend on width, ties kept.
    pub widened: usize,
    /// Weights of matrices and embeddings that are stored.
    pub stored: usize,
    /// The same if nothing were shared.
    pub unshared: usize,
}

impl Width {
    /// `None` where the configuration names no width.
    ///
    /// Matrices of layers grow with the square of the width, embeddings and heads with the width: the same shape otherwise
    /// (recursive width scaling).
    pub fn of(model: &Model) -> Option<Width> {
        let columns = WIDTHS.iter().find_map(|key| model.config.fields.get(*key)?.as_u64())? as usize;
        let (mut square, mut line, mut unshared) = (0usize, 0usize, 0usize);
        for (spec, stored) in model.specs.iter().zip(&model.source).filter(|(spec, _)| spec.is_matrix()) {
            let weights = model.stored[*stored].data.len();
            unshared += weights;
            if model.spec(*stored).name == spec.name {
                *(if spec.layer.is_some() { &mut square } else { &mut line }) += weights;
            }
        }
        Some(widened(columns, square, line, unshared))
    }

    /// Bytes that sharing saves at so many bits a weight.
    pub fn saved(&self, bits_per_weight: f64) -> f64 {
        (self.unshared - self.stored) as f64 * bits_per_weight / 8.0
    }
}

/// Solves square r² + line r = unshared for the factor r of the width.
fn widened(columns: usize, square: usize, line: usize, unshared: usize) -> Width {
    let (a, b, c) = (square as f64, line as f64, unshared as f64);
    let factor = match square {
        0 => c / b.max(1.0),
        _ => (-b + (b * b + 4.0 * a * c).sqrt()) / (2.0 * a),
    };
    // A hair of rounding must not cost a column.
    let widened = (columns as f64 * factor + 1e-9).floor() as usize;
    Width { columns, widened, stored: square + line, unshared }
}

/// For each point of (bytes, nats), ascending in bytes: bytes that the next thousandth of a nat costs, by the straight line
/// to the next point. `None` for the last, and where more bytes lost more.
pub fn prices(points: &[(u64, f64)]) -> Vec<Option<f64>> {
    let price = |pair: &[(u64, f64)]| {
        let gain = pair[0].1 - pair[1].1;
        (gain > 0.0).then(|| 1e-3 * (pair[1].0 - pair[0].0) as f64 / gain)
    };
    points.windows(2).map(price).chain(points.last().map(|_| None)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_width_that_sharing_buys() {
        // Four layers of one block, no embedding: twice the width has four times the weights.
        assert_eq!(widened(64, 1000, 0, 4000).widened, 128);
        // Nothing shared, nothing bought.
        assert_eq!(widened(64, 1000, 500, 1500).widened, 64);
        let width = widened(256, 2_293_760, 262_144, 6_029_312);
        let r = width.widened as f64 / 256.0;
        assert!(2_293_760.0 * r * r + 262_144.0 * r <= 6_029_312.0);
        assert_eq!(width.saved(8.0), (6_029_312 - 2_555_904) as f64);
    }

    #[test]
    fn the_price_of_the_next_thousandth() {
        let found = prices(&[(1000, 0.5), (3000, 0.3), (4000, 0.3), (5000, 0.4)]);
        assert!((found[0].unwrap() - 10.0).abs() < 1e-9);
        assert_eq!(&found[1..], [None, None, None]);
    }
}
