//! Quantised blocks against the values that ggml reads from the same bytes, bit for bit.

use micota::kernels::quant::BlockType;
use safetensors::SafeTensors;

use crate::shared::shared;

#[test]
fn blocks_dequantise_to_ggmls_bits() {
    let Some(shared) = shared() else { return };
    let file = std::fs::read(shared.join("golden/gguf/blocks.safetensors")).unwrap();
    let tensors = SafeTensors::deserialize(&file).unwrap();
    let mut checked = 0;
    for block_type in BlockType::ALL {
        let Ok(bytes) = tensors.tensor(&format!("{block_type}.bytes")) else {
            continue;
        };
        let expected = tensors.tensor(&format!("{block_type}.values")).unwrap();
        let mut values = vec![0.0; expected.shape().iter().product()];
        block_type.dequantise(bytes.data(), &mut values);
        for (i, (value, expected)) in values
            .iter()
            .zip(expected.data().as_chunks::<4>().0)
            .enumerate()
        {
            let expected = f32::from_le_bytes(*expected);
            assert_eq!(
                value.to_bits(),
                expected.to_bits(),
                "{block_type} value {i}: {value} for {expected}"
            );
        }
        checked += 1;
    }
    assert_eq!(checked, 6, "Q8_0, Q4_0, Q5_0, Q4_K, Q5_K, Q6_K");
}

#[test]
fn blocks_quantise_to_ggmls_bytes() {
    let Some(shared) = shared() else { return };
    let file = std::fs::read(shared.join("golden/gguf/blocks.safetensors")).unwrap();
    let tensors = SafeTensors::deserialize(&file).unwrap();
    let input = tensors.tensor("input").unwrap();
    let values: Vec<f32> = input
        .data()
        .as_chunks::<4>()
        .0
        .iter()
        .map(|bytes| f32::from_le_bytes(*bytes))
        .collect();
    for block_type in [BlockType::Q8_0, BlockType::Q4_0, BlockType::Q5_0] {
        let expected = tensors.tensor(&format!("{block_type}.bytes")).unwrap();
        let mut bytes = vec![0; expected.data().len()];
        assert!(block_type.quantise(&values, &mut bytes));
        assert_eq!(bytes, expected.data(), "{block_type}");
    }
}
