//! Means with their standard errors, and quantiles.

use serde::Serialize;

/// A measured mean.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Estimate {
    pub value: f64,
    /// Standard error of the mean; `None` for a single observation.
    pub standard_error: Option<f64>,
}

impl Estimate {
    /// The mean of independent observations, with s / √n for its standard error.
    ///
    /// Observations must be independent for that: rows are, the positions within a row are not.
    ///
    /// # Panics
    /// There are none.
    pub fn of(observations: &[f64]) -> Estimate {
        assert!(!observations.is_empty(), "a mean of nothing");
        let n = observations.len() as f64;
        let value = observations.iter().sum::<f64>() / n;
        let squares = observations.iter().map(|x| (x - value).powi(2)).sum::<f64>();
        let standard_error = (observations.len() > 1).then(|| (squares / (n - 1.0) / n).sqrt());
        Estimate { value, standard_error }
    }

    /// The same estimate in another unit.
    #[must_use]
    pub fn scaled(self, factor: f64) -> Estimate {
        Estimate { value: self.value * factor, standard_error: self.standard_error.map(|e| e * factor) }
    }
}

/// The smallest value that at least the share `q` of sorted `values` does not exceed (the nearest-rank quantile).
///
/// # Panics
/// There are no values.
pub fn quantile(values: &[f32], q: f64) -> f64 {
    let rank = (q * values.len() as f64).ceil() as usize;
    f64::from(values[rank.clamp(1, values.len()) - 1])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_standard_error_is_that_of_the_mean() {
        // Mean 3, variance (4 + 0 + 4) / 2 = 4, over 3 observations: √(4/3).
        let estimate = Estimate::of(&[1.0, 3.0, 5.0]);
        assert_eq!(estimate.value, 3.0);
        assert!((estimate.standard_error.unwrap() - (4.0f64 / 3.0).sqrt()).abs() < 1e-15);
        assert_eq!(estimate.scaled(2.0).value, 6.0);
        assert_eq!(Estimate::of(&[2.0]).standard_error, None);
    }

    #[test]
    fn quantiles_are_values_that_occur() {
        let values: Vec<f32> = (1..=100).map(|v| v as f32).collect();
        assert_eq!((quantile(&values, 0.5), quantile(&values, 0.99), quantile(&values, 1.0)), (50.0, 99.0, 100.0));
        assert_eq!((quantile(&[7.0], 0.0), quantile(&[1.0, 2.0, 3.0], 0.5)), (7.0, 2.0));
    }
}
