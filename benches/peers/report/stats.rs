//! Computes figures from samples.

/// Returns the median: the middle sample, or the mean of the two in the middle. `None` without samples.
pub(crate) fn median(samples: &[f64]) -> Option<f64> {
    let sorted = sorted(samples);
    let upper = *sorted.get(sorted.len() / 2)?;
    if sorted.len() % 2 == 1 {
        return Some(upper);
    }
    let lower = *sorted.get(sorted.len() / 2 - 1)?;
    Some(f64::midpoint(lower, upper))
}

/// Returns the least sample that at least `percent` of 100 samples do not exceed. `None` without
/// samples.
pub(crate) fn percentile(samples: &[f64], percent: usize) -> Option<f64> {
    let sorted = sorted(samples);
    let rank = (sorted.len() * percent.min(100)).div_ceil(100).max(1);
    sorted.get(rank - 1).copied()
}

pub(crate) fn min(samples: &[f64]) -> Option<f64> {
    sorted(samples).first().copied()
}

pub(crate) fn max(samples: &[f64]) -> Option<f64> {
    sorted(samples).last().copied()
}

/// Returns the growth of the cost between neighbouring points (x, y): the exponent e of y = c * x^e. 1
/// is linear.
pub(crate) fn exponents(points: &[(f64, f64)]) -> Vec<f64> {
    points.windows(2).map(|pair| (pair[1].1 / pair[0].1).ln() / (pair[1].0 / pair[0].0).ln()).collect()
}

/// Returns the largest such exponent between two points whose x differ at least by the factor `apart`:
/// between nearer points, noise is larger than growth.
pub(crate) fn steepest(points: &[(f64, f64)], apart: f64) -> Option<f64> {
    let pairs = points.iter().flat_map(|low| points.iter().map(move |high| [*low, *high]));
    let far = pairs.filter(|[low, high]| high.0 >= low.0 * apart);
    max(&far.flat_map(|pair| exponents(&pair)).collect::<Vec<_>>())
}

fn sorted(samples: &[f64]) -> Vec<f64> {
    let mut sorted = samples.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted
}
