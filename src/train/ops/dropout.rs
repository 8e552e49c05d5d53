//! Dropout whose mask is a function of a key: the same step drops the same values, whenever and
//! however often it is computed.

use candle_core::{Result, Tensor};

use crate::random::CounterRng;

/// `x` with a share `p` of its values set to zero and the others divided by `1 - p`.
///
/// # Errors
/// A tensor operation fails.
pub fn dropout(x: &Tensor, p: f64, rng: CounterRng) -> Result<Tensor> {
    let mut draws = vec![0u32; x.elem_count()];
    rng.fill(0, 0, &mut draws);
    let least = (p * 2f64.powi(32)) as u32;
    let kept = (1.0 / (1.0 - p)) as f32;
    let mask: Vec<f32> = draws
        .iter()
        .map(|draw| if *draw >= least { kept } else { 0.0 })
        .collect();
    x * Tensor::from_vec(mask, x.shape(), x.device())?
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::{DType, Device};

    #[test]
    fn keeps_the_mean_and_repeats_itself() {
        let x = Tensor::ones((100, 100), DType::F32, &Device::Cpu).unwrap();
        let rng = CounterRng::from_parts(&[1, 2]);
        let values = |y: Tensor| y.flatten_all().unwrap().to_vec1::<f32>().unwrap();
        let y = values(dropout(&x, 0.25, rng).unwrap());
        let zeros = y.iter().filter(|value| **value == 0.0).count();
        assert!((2300..2700).contains(&zeros), "{zeros}");
        assert!(y.iter().all(|value| *value == 0.0 || *value == 4.0 / 3.0));
        assert_eq!(y, values(dropout(&x, 0.25, rng).unwrap()));
    }
}
