//! Which layers go to which of several devices: stretches in the devices' order, as long as their
//! memories are large.

use std::ops::Range;

use super::device::DeviceInfo;
use super::weights::weight;
use crate::model::{Model, WeightId};

/// A stretch of at least one layer for each device. The head counts as the layers whose weights
/// are as large, on the last device.
///
/// # Errors
/// There are more devices than layers, or none.
pub fn split_layers(devices: &[DeviceInfo], model: &Model) -> Result<Vec<Range<usize>>, String> {
    let layers = model.spec.num_hidden_layers;
    if devices.is_empty() || devices.len() > layers {
        return Err(format!(
            "{} devices for a model of {layers} layers; each needs at least one",
            devices.len()
        ));
    }
    let of_layer: usize = model
        .weights()
        .filter(|(id, _)| matches!(id, WeightId::Layer(0, _)))
        .map(|(_, weight)| weight.num_bytes())
        .sum();
    let of_head = weight(model, WeightId::Head).num_bytes();
    let memories: Vec<f64> = devices.iter().map(|d| d.free_bytes as f64).collect();
    Ok(stretches(
        layers,
        of_head as f64 / of_layer as f64,
        &memories,
    ))
}

/// Splits `layers` and then `head` more in proportion to `memories`, whole layers each.
fn stretches(layers: usize, head: f64, memories: &[f64]) -> Vec<Range<usize>> {
    let count = memories.len();
    let total: f64 = memories.iter().sum();
    let mut sum = 0.0;
    let mut begin = 0;
    let mut stretches = Vec::with_capacity(count);
    for (index, memory) in memories.iter().enumerate() {
        // A driver that does not tell counts as much as its neighbours.
        sum += if total > 0.0 {
            memory / total
        } else {
            1.0 / count as f64
        };
        let wanted = (sum * (layers as f64 + head)).round() as usize;
        let after = count - 1 - index;
        let end = match after {
            0 => layers,
            _ => wanted.clamp(begin + 1, layers - after),
        };
        stretches.push(begin..end);
        begin = end;
    }
    stretches
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn layers_follow_the_memories_and_the_head_counts() {
        assert_eq!(stretches(24, 0.0, &[1.0, 1.0]), [0..12, 12..24]);
        assert_eq!(stretches(24, 8.0, &[1.0, 1.0]), [0..16, 16..24]);
        assert_eq!(stretches(24, 0.0, &[3.0, 1.0]), [0..18, 18..24]);
        assert_eq!(stretches(3, 9.0, &[1.0, 1.0, 1.0]), [0..1, 1..2, 2..3]);
        assert_eq!(stretches(4, 0.0, &[0.0, 0.0]), [0..2, 2..4]);
        assert_eq!(stretches(4, 0.0, &[0.0, 5.0]), [0..1, 1..4]);
    }

    proptest! {
        #[test]
        fn every_layer_has_one_device_and_every_device_a_layer(
            memories in proptest::collection::vec(0.0f64..1e12, 1..9),
            more in 0usize..60,
            head in 0.0f64..40.0
        ) {
            let layers = memories.len() + more;
            let found = stretches(layers, head, &memories);
            prop_assert_eq!(found.len(), memories.len());
            prop_assert!(found.iter().all(|stretch| !stretch.is_empty()));
            prop_assert!(found.into_iter().flatten().eq(0..layers));
        }
    }
}
