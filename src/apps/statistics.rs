//! Means, shares and distributions, with their errors.

/// A mean with its standard error, of values taken as independent.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Estimate {
    /// Number of values.
    pub count: usize,
    /// Their mean; NaN without values.
    pub mean: f64,
    /// Standard error of the mean, √(variance / (n − 1)); NaN for less than two values.
    pub error: f64,
}

/// Sums from which an [`Estimate`] comes.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Sums {
    count: usize,
    sum: f64,
    squares: f64,
}

impl Sums {
    pub fn estimate(&self) -> Estimate {
        let count = self.count as f64;
        let mean = self.sum / count;
        let variance = (self.squares / count - mean * mean).max(0.0);
        let error = if self.count > 1 { (variance / (count - 1.0)).sqrt() } else { f64::NAN };
        Estimate { count: self.count, mean, error }
    }
}

impl Extend<f64> for Sums {
    fn extend<I: IntoIterator<Item = f64>>(&mut self, values: I) {
        for value in values {
            self.count += 1;
            self.sum += value;
            self.squares += value * value;
        }
    }
}

impl FromIterator<f64> for Estimate {
    fn from_iter<I: IntoIterator<Item = f64>>(values: I) -> Self {
        let mut sums = Sums::default();
        sums.extend(values);
        sums.estimate()
    }
}

/// Values in order, with their mean.
#[derive(Debug, Clone, PartialEq)]
pub struct Distribution {
    /// Their mean.
    pub mean: Estimate,
    sorted: Vec<f32>,
}

impl Distribution {
    /// The distribution of `values`.
    pub fn new(mut values: Vec<f32>) -> Self {
        let mean = values.iter().copied().map(f64::from).collect();
        values.sort_by(f32::total_cmp);
        Self { mean, sorted: values }
    }

    /// The value that a `share` of them does not exceed, with values in between where it falls between
    /// two; 0 is the least, 0.5 the median, 1 the largest. NaN without values.
    pub fn quantile(&self, share: f64) -> f64 {
        let Some(last) = self.sorted.len().checked_sub(1) else { return f64::NAN };
        let at = share.clamp(0.0, 1.0) * last as f64;
        let (below, above) = (self.sorted[at as usize], self.sorted[last.min(at as usize + 1)]);
        f64::from(below) + at.fract() * (f64::from(above) - f64::from(below))
    }

    /// Root of the mean square.
    pub fn rms(&self) -> f64 {
        let squares: Estimate = self.sorted.iter().map(|value| f64::from(*value).powi(2)).collect();
        squares.mean.sqrt()
    }
}

/// How many of some trials went well.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Share {
    /// Those that went well.
    pub right: usize,
    /// All of them.
    pub of: usize,
}

impl Share {
    /// The share; NaN without trials.
    pub fn value(&self) -> f64 {
        self.right as f64 / self.of as f64
    }

    /// Its standard error, √(p · (1 − p) / (n − 1)).
    pub fn error(&self) -> f64 {
        let p = self.value();
        (p * (1.0 - p) / (self.of as f64 - 1.0)).sqrt()
    }

    /// The interval that holds the true share with 95 % confidence (Wilson's score interval: Wilson 1927,
    /// "Probable inference, the law of succession, and statistical inference").
    pub fn interval(&self) -> (f64, f64) {
        const Z: f64 = 1.959_963_984_540_054;
        let (p, n) = (self.value(), self.of as f64);
        let centre = p + Z * Z / (2.0 * n);
        let half = Z * (p * (1.0 - p) / n + Z * Z / (4.0 * n * n)).sqrt();
        let scale = 1.0 + Z * Z / n;
        ((centre - half) / scale, (centre + half) / scale)
    }
}

impl Extend<bool> for Share {
    fn extend<I: IntoIterator<Item = bool>>(&mut self, trials: I) {
        for right in trials {
            self.right += usize::from(right);
            self.of += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn near(found: f64, expected: f64) {
        assert!((found - expected).abs() < 1e-6, "{found}, expected {expected}");
    }

    #[test]
    fn estimates_and_quantiles() {
        let estimate: Estimate = [1.0, 2.0, 3.0, 6.0].into_iter().collect();
        near(estimate.mean, 3.0);
        // Variance 14 / 4, over n − 1 = 3.
        near(estimate.error, (3.5f64 / 3.0).sqrt());
        let distribution = Distribution::new(vec![4.0, 1.0, 3.0, 2.0, 10.0]);
        near(distribution.quantile(0.0), 1.0);
        near(distribution.quantile(0.5), 3.0);
        near(distribution.quantile(0.9), 7.6);
        near(distribution.quantile(1.0), 10.0);
        near(distribution.rms(), 26f64.sqrt());
        assert!(Distribution::new(Vec::new()).quantile(0.5).is_nan());
    }

    /// scipy 1.17: `binomtest(13, 20).proportion_ci(method="wilson")`, and of 0 of 10 and 10 of 10.
    #[test]
    fn wilson_intervals() {
        for (right, of, low, high) in
            [(13, 20, 0.432_854_3, 0.818_808_2), (0, 10, 0.0, 0.277_532_8), (10, 10, 0.722_467_2, 1.0)]
        {
            let (found_low, found_high) = Share { right, of }.interval();
            near(found_low, low);
            near(found_high, high);
        }
    }
}
