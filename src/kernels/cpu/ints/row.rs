//! One output's weights as integers: made from floats, or taken from ggml's blocks as they are.

use half::f16;

use crate::quant::{BlockType, q4_k_groups};

use super::{GROUP, IntFormat};

/// The weights of one output in a format.
#[derive(Clone, Debug, PartialEq)]
pub struct IntRow {
    format: IntFormat,
    /// The unsigned integer of each input, in whole groups.
    pub(super) quants: Vec<u8>,
    /// Half-precision bits, one per group.
    pub(super) scales: Vec<u16>,
    /// The same, where the format has minimums.
    pub(super) minimums: Vec<u16>,
    /// Floats of blocks that have to be quantised again.
    values: Vec<f32>,
}

/// What is added to 8-bit weights.
const OFFSET_8: i32 = 128;

impl IntRow {
    /// A row of `inputs` zeros.
    pub fn zeros(format: IntFormat, inputs: usize) -> Self {
        let groups = format.groups(inputs);
        let mut row = Self {
            format,
            quants: vec![0; inputs.next_multiple_of(GROUP)],
            scales: vec![0; groups],
            minimums: vec![0; if format.is_affine() { groups } else { 0 }],
            values: vec![0.0; inputs],
        };
        row.clear();
        row
    }

    /// How the weights are held.
    pub fn format(&self) -> IntFormat {
        self.format
    }

    /// Makes every weight zero.
    pub fn clear(&mut self) {
        self.quants.fill(match self.format {
            IntFormat::Int8 | IntFormat::Int8Wide | IntFormat::Int8PerRow => OFFSET_8 as u8,
            IntFormat::Int4 => 8,
            IntFormat::Int4Affine => 0,
        });
        self.scales.fill(0);
        self.minimums.fill(0);
    }

    /// Quantises floats: the largest magnitude of a group becomes 127.
    ///
    /// # Panics
    /// The format is not of 8 bits, or the row has another length.
    pub fn quantise(&mut self, values: &[f32]) {
        assert!(!self.format.has_nibbles(), "no quantiser to 4 bits");
        assert_eq!(values.len(), self.values.len(), "a value per input");
        let group = self.format.group().unwrap_or(self.quants.len());
        let groups = values.chunks(group).zip(self.quants.chunks_mut(group));
        for ((values, quants), scale) in groups.zip(&mut self.scales) {
            let largest = values.iter().fold(0.0_f32, |most, x| most.max(x.abs()));
            // A weight that is no number must not vanish in rounding.
            let damage: f32 = values.iter().map(|x| x * 0.0).sum();
            let rounded = f16::from_f32(largest / 127.0 + damage);
            *scale = rounded.to_bits();
            let step = rounded.to_f32();
            let inverse = if step > 0.0 { 1.0 / step } else { 0.0 };
            for (quant, value) in quants.iter_mut().zip(values) {
                let integer = (value * inverse).round_ties_even().clamp(-127.0, 127.0);
                *quant = (integer as i32 + OFFSET_8) as u8;
            }
        }
    }

    /// Reads a stored row. Blocks are taken over as they are where [`IntFormat::takes`] them; the
    /// values of others, and floats, are quantised.
    ///
    /// # Panics
    /// `bytes` are not the row, or the format is of 4 bits and does not take such blocks.
    pub fn read(&mut self, block_type: BlockType, bytes: &[u8]) {
        assert_eq!(
            block_type.row_bytes(self.values.len()),
            Some(bytes.len()),
            "the blocks of the row"
        );
        match (self.format, block_type) {
            (IntFormat::Int8, BlockType::Q8_0) => self.take::<34>(bytes, |block, quants| {
                for (quant, byte) in quants.iter_mut().zip(&block[2..]) {
                    *quant = byte ^ 0x80;
                }
            }),
            (IntFormat::Int8, BlockType::Q5_0) => self.take::<22>(bytes, |block, quants| {
                let high = u32::from_le_bytes([block[2], block[3], block[4], block[5]]);
                for (index, quant) in quants.iter_mut().enumerate() {
                    let five = nibble(&block[6..], index) | ((high >> index & 1) << 4) as u8;
                    *quant = five + (OFFSET_8 - 16) as u8;
                }
            }),
            (IntFormat::Int8, BlockType::Q4_0) => self.take::<18>(bytes, |block, quants| {
                for (index, quant) in quants.iter_mut().enumerate() {
                    *quant = nibble(&block[2..], index) + (OFFSET_8 - 8) as u8;
                }
            }),
            (IntFormat::Int4, BlockType::Q4_0) => self.take::<18>(bytes, |block, quants| {
                for (index, quant) in quants.iter_mut().enumerate() {
                    *quant = nibble(&block[2..], index);
                }
            }),
            (IntFormat::Int4Affine, BlockType::Q4_0) => {
                self.take::<18>(bytes, |block, quants| {
                    for (index, quant) in quants.iter_mut().enumerate() {
                        *quant = nibble(&block[2..], index);
                    }
                });
                for (minimum, scale) in self.minimums.iter_mut().zip(&self.scales) {
                    let scale = f16::from_bits(*scale).to_f32();
                    *minimum = f16::from_f32(8.0 * scale).to_bits();
                }
            }
            (IntFormat::Int4Affine, BlockType::Q4_1) => {
                self.take::<20>(bytes, |block, quants| {
                    for (index, quant) in quants.iter_mut().enumerate() {
                        *quant = nibble(&block[4..], index);
                    }
                });
                for (minimum, block) in self.minimums.iter_mut().zip(bytes.chunks_exact(20)) {
                    // ggml adds what is subtracted here.
                    *minimum = u16::from_le_bytes([block[2], block[3]]) ^ 0x8000;
                }
            }
            (IntFormat::Int4Affine, BlockType::Q4K) => self.take_q4_k(bytes),
            _ => {
                assert!(!self.format.takes(block_type), "every such pair is above");
                let mut values = std::mem::take(&mut self.values);
                block_type.dequantise(bytes, &mut values);
                self.values.resize(values.len(), 0.0);
                self.quantise(&values);
            }
        }
    }

    /// Blocks of 32 that begin with their scale.
    fn take<const BYTES: usize>(&mut self, bytes: &[u8], read: fn(&[u8; BYTES], &mut [u8])) {
        let blocks = bytes.as_chunks::<BYTES>().0.iter();
        let groups = self.quants.chunks_exact_mut(GROUP).zip(&mut self.scales);
        for (block, (quants, scale)) in blocks.zip(groups) {
            *scale = u16::from_le_bytes([block[0], block[1]]);
            read(block, quants);
        }
    }

    /// Scales and minimums of a group are products of two numbers there; they are rounded to half
    /// precision, a relative error below 2^-11.
    fn take_q4_k(&mut self, bytes: &[u8]) {
        let groups = self.quants.chunks_exact_mut(GROUP).zip(q4_k_groups(bytes));
        for (index, (quants, group)) in groups.enumerate() {
            self.scales[index] = f16::from_f32(group.scale).to_bits();
            self.minimums[index] = f16::from_f32(group.minimum).to_bits();
            quants.copy_from_slice(&group.quants);
        }
    }

    /// The values that the integers stand for: the specification of the formats.
    pub fn values(&self) -> Vec<f32> {
        let number = |bits: u16| f16::from_bits(bits).to_f32();
        let group = self.format.group().unwrap_or(self.quants.len());
        let value = |index: usize, quant: u8| {
            let scale = number(self.scales[index / group]);
            match self.format {
                IntFormat::Int8 | IntFormat::Int8Wide | IntFormat::Int8PerRow => {
                    scale * (i32::from(quant) - OFFSET_8) as f32
                }
                IntFormat::Int4 => scale * (i32::from(quant) - 8) as f32,
                IntFormat::Int4Affine => {
                    scale * f32::from(quant) - number(self.minimums[index / group])
                }
            }
        };
        let values = self.quants.iter().enumerate();
        values
            .map(|(index, quant)| value(index, *quant))
            .take(self.values.len())
            .collect()
    }
}

/// Element `index` of a block of 32 whose byte `j` holds elements `j` and `j + 16`.
fn nibble(bytes: &[u8], index: usize) -> u8 {
    if index < GROUP / 2 {
        bytes[index] & 15
    } else {
        bytes[index - GROUP / 2] >> 4
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn noise(count: usize) -> Vec<f32> {
        let mut state = 12345_u32;
        let mut next = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 8) as f32 / (1 << 23) as f32 - 1.0
        };
        (0..count).map(|_| next()).collect()
    }

    #[test]
    fn blocks_are_taken_as_they_are() {
        // Bytes are noise; the halves that are scales are made sensible.
        let noise: Vec<u8> = noise(4096)
            .iter()
            .map(|x| (x * 127.0) as i8 as u8)
            .collect();
        for (block_type, format) in [
            (BlockType::Q8_0, IntFormat::Int8),
            (BlockType::Q5_0, IntFormat::Int8),
            (BlockType::Q4_0, IntFormat::Int8),
            (BlockType::Q4_0, IntFormat::Int4),
            (BlockType::Q4_0, IntFormat::Int4Affine),
            (BlockType::Q4_1, IntFormat::Int4Affine),
            (BlockType::Q4K, IntFormat::Int4Affine),
        ] {
            let bytes = block_type.row_bytes(512).unwrap();
            let mut blocks = noise[..bytes].to_vec();
            let halves = if matches!(block_type, BlockType::Q4_1 | BlockType::Q4K) {
                2
            } else {
                1
            };
            for block in blocks.chunks_exact_mut(block_type.block_bytes()) {
                for half in block[..2 * halves].as_chunks_mut::<2>().0 {
                    *half = f16::from_f32(0.01 * f32::from(half[0])).to_le_bytes();
                }
            }
            let mut expected = vec![0.0; 512];
            block_type.dequantise(&blocks, &mut expected);
            let mut row = IntRow::zeros(format, 512);
            row.read(block_type, &blocks);
            // Products that ggml rounds once are rounded to half precision here.
            let largest = expected.iter().fold(0.0_f32, |most, x| most.max(x.abs()));
            let is_q4_k = block_type == BlockType::Q4K;
            let slack = if is_q4_k { largest / 1024.0 } else { 0.0 };
            for (index, (found, expected)) in row.values().iter().zip(&expected).enumerate() {
                assert!(
                    (found - expected).abs() <= slack,
                    "{} as {}, element {index}: {found} for {expected}",
                    block_type.name(),
                    format.name()
                );
            }
        }
    }

    #[test]
    fn other_blocks_are_quantised_again() {
        let values = noise(256);
        let mut blocks = vec![0; BlockType::Q5_0.row_bytes(256).unwrap()];
        assert!(BlockType::Q5_0.quantise(&values, &mut blocks));
        let mut per_row = IntRow::zeros(IntFormat::Int8PerRow, 256);
        per_row.read(BlockType::Q5_0, &blocks);
        let mut expected = vec![0.0; 256];
        BlockType::Q5_0.dequantise(&blocks, &mut expected);
        let step = f16::from_bits(per_row.scales[0]).to_f32();
        for (found, expected) in per_row.values().iter().zip(&expected) {
            assert!((found - expected).abs() <= 0.501 * step);
        }
    }

    #[test]
    fn rounding_is_at_most_half_a_step_and_damage_stays_visible() {
        let mut values = noise(70);
        let mut row = IntRow::zeros(IntFormat::Int8, 70);
        row.quantise(&values);
        for (index, (found, value)) in row.values().iter().zip(&values).enumerate() {
            let step = f16::from_bits(row.scales[index / GROUP]).to_f32();
            assert!((found - value).abs() <= 0.57 * step, "element {index}");
        }
        values[40] = f32::NAN;
        row.quantise(&values);
        assert!(row.values()[33].is_nan() && !row.values()[0].is_nan());
        row.clear();
        assert_eq!(row.values(), [0.0; 70]);
    }
}
