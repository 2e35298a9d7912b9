//! Scales with which the codes of some weights are off by little, in squares.

/// Of candidates for a scale, the best one so far. One that is off by much at a single weight is none.
struct Best<T> {
    scale: T,
    error: f32,
    worst: f32,
}

impl<T: Copy> Best<T> {
    /// `first` is taken for sure; others may be off by twice as much where it is off most.
    fn new(first: T, errors: impl Iterator<Item = f32>) -> Self {
        let (error, worst) = sums(errors);
        Self { scale: first, error, worst: 2.0 * worst }
    }

    fn consider(&mut self, scale: T, errors: impl Iterator<Item = f32>) {
        let (error, worst) = sums(errors);
        if error < self.error && worst <= self.worst {
            (self.scale, self.error) = (scale, error);
        }
    }
}

/// Sum of the squares, and the largest magnitude.
fn sums(errors: impl Iterator<Item = f32>) -> (f32, f32) {
    errors.fold((0.0, 0.0), |(sum, worst): (f32, f32), error| (sum + error * error, worst.max(error.abs())))
}

/// The value of largest magnitude, the first of equals.
pub fn largest(values: &[f32]) -> f32 {
    values.iter().fold(0.0f32, |most, value| if value.abs() > most.abs() { *value } else { most })
}

/// The scale with which `values` are best told by `code`, which gives the nearest code as a number. The value of
/// largest magnitude gets the codes `ends`, of which the first is the farthest from zero, and some around them.
pub fn symmetric(values: &[f32], ends: &[f32], code: impl Fn(f32) -> f32) -> f32 {
    let largest = largest(values);
    if largest == 0.0 {
        return 0.0;
    }
    let code = &code;
    let errors = |scale: f32, inverse: f32| values.iter().map(move |x| scale * code(x * inverse) - x);
    let first = largest / ends[0];
    let mut best = Best::new(first, errors(first, ends[0] / largest));
    for end in ends {
        for stretch in STRETCHES {
            let inverse = stretch * end / largest;
            let (dot, square) = values.iter().fold((0.0, 0.0), |(dot, square), x| {
                let code = code(x * inverse);
                (dot + code * x, square + code * code)
            });
            if square > 0.0 {
                best.consider(dot / square, errors(dot / square, inverse));
            }
        }
    }
    best.scale
}

/// The scale and the offset, not above zero, with which `values` are best told by codes from 0 to `most`.
pub fn affine(values: &[f32], most: f32) -> (f32, f32) {
    let (low, high) =
        values.iter().fold((0.0f32, f32::NEG_INFINITY), |(low, high), x| (low.min(*x), high.max(*x)));
    if high <= low {
        return (0.0, low);
    }
    let code = |x: f32, inverse: f32| ((x - low) * inverse).round().clamp(0.0, most);
    let errors = |(scale, offset): (f32, f32), inverse: f32| {
        values.iter().map(move |x| scale * code(*x, inverse) + offset - x)
    };
    let first = ((high - low) / most, low);
    let mut best = Best::new(first, errors(first, most / (high - low)));
    let count = values.len() as f32;
    for stretch in STRETCHES {
        let inverse = stretch * most / (high - low);
        let sums = values.iter().fold([0.0; 4], |[c, cc, x, cx], value| {
            let code = code(*value, inverse);
            [c + code, cc + code * code, x + value, cx + code * value]
        });
        let [c, cc, x, cx] = sums;
        let determinant = count * cc - c * c;
        if determinant > 0.0 {
            let offset = (x * cc - c * cx) / determinant;
            let fit =
                if offset > 0.0 { (cx / cc, 0.0) } else { ((count * cx - c * x) / determinant, offset) };
            best.consider(fit, errors(fit, inverse));
        }
    }
    best.scale
}

/// How much farther than the value at an end reaches the codes' range: less, and some values are cut off for smaller steps.
const STRETCHES: [f32; 9] = [0.9, 0.925, 0.95, 0.975, 1.0, 1.025, 1.05, 1.075, 1.1];
