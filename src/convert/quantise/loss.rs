//! What a tensor lost: its values before against its values read back.

/// Differences between a tensor's old and new values.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Loss {
    /// Root of the mean squared difference.
    pub rmse: f64,
    /// The largest difference.
    pub max: f64,
    /// `rmse` over the root mean square of the old values; 0 where both are 0.
    pub relative: f64,
    /// Cosine of the angle between old and new values; 1 where both are all zeros.
    pub cosine: f64,
}

/// Sums over a part of a tensor, in double precision.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Sums {
    count: f64,
    squared_error: f64,
    max_error: f64,
    old_old: f64,
    new_new: f64,
    old_new: f64,
}

impl Sums {
    /// *Shapes* both: the same length.
    pub(super) fn of(old: &[f32], new: &[f32]) -> Self {
        let mut sums = Self {
            count: old.len() as f64,
            ..Self::default()
        };
        for (old, new) in old.iter().zip(new) {
            let (old, new) = (f64::from(*old), f64::from(*new));
            let error = (old - new).abs();
            sums.squared_error += error * error;
            sums.max_error = sums.max_error.max(error);
            sums.old_old += old * old;
            sums.new_new += new * new;
            sums.old_new += old * new;
        }
        sums
    }

    pub(super) fn add(&mut self, other: &Self) {
        self.count += other.count;
        self.squared_error += other.squared_error;
        self.max_error = self.max_error.max(other.max_error);
        self.old_old += other.old_old;
        self.new_new += other.new_new;
        self.old_new += other.old_new;
    }

    pub(super) fn loss(&self) -> Loss {
        let ratio = |a: f64, b: f64, of_zeros: f64| if b > 0.0 { a / b } else { of_zeros };
        let of_zeros = if self.old_old == self.new_new {
            1.0
        } else {
            0.0
        };
        Loss {
            rmse: ratio(self.squared_error, self.count, 0.0).sqrt(),
            max: self.max_error,
            relative: ratio(self.squared_error, self.old_old, 0.0).sqrt(),
            cosine: ratio(self.old_new, (self.old_old * self.new_new).sqrt(), of_zeros),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_add_up_to_the_whole() {
        let old = [1.0, -2.0, 3.0, 0.5];
        let new = [1.5, -2.0, 2.0, 0.5];
        let whole = Sums::of(&old, &new).loss();
        let mut parts = Sums::of(&old[..1], &new[..1]);
        parts.add(&Sums::of(&old[1..], &new[1..]));
        assert_eq!(parts.loss(), whole);
        assert_eq!(whole.max, 1.0);
        assert!((whole.rmse - (1.25_f64 / 4.0).sqrt()).abs() < 1e-15);
        let zeros = Sums::of(&[0.0; 3], &[0.0; 3]).loss();
        assert_eq!((zeros.relative, zeros.cosine), (0.0, 1.0));
    }
}
