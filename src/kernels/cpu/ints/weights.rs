//! A weight matrix of integers in panels.

use super::super::Cpu;
use super::super::buffer::LineBuffer;
use super::super::disjoint::Disjoint;
use super::super::line::{FlattenLines, Line};
use super::super::linear::{Interleaved, interleaved};
use super::super::simd::LANES;
use super::{GROUP, IntFormat, IntRow, MOST_INPUTS, format};

/// Half-precision numbers of sixteen outputs, two to a word.
pub(super) type Halves = [u32; LANES / 2];

/// A weight matrix in panels of sixteen outputs.
#[derive(Debug)]
pub struct IntMatrix {
    pub(super) format: IntFormat,
    /// Of each panel, one after the other.
    lines: LineBuffer<u32>,
    /// Of each panel and group a [`Halves`].
    scales: LineBuffer<u32>,
    minimums: LineBuffer<u32>,
    lines_per_panel: usize,
    pub(super) groups: usize,
    pub(super) inputs: usize,
    pub(super) outputs: usize,
}

impl IntMatrix {
    /// Packs a matrix whose rows `read_row` makes: it gets an output's index and a row of zeros.
    /// Runs on all threads.
    ///
    /// # Errors
    /// The system refused the memory, or the matrix has more than 65,536 inputs.
    pub fn pack(
        cpu: &mut Cpu,
        format: IntFormat,
        outputs: usize,
        inputs: usize,
        read_row: impl Fn(usize, &mut IntRow) + Sync,
    ) -> std::io::Result<Self> {
        if inputs > MOST_INPUTS {
            return Err(std::io::Error::other(format!(
                "a matrix of {inputs} inputs, and integer products take at most {MOST_INPUTS}"
            )));
        }
        let panels = format::panels(outputs);
        let groups = format.groups(inputs);
        let words = inputs.next_multiple_of(GROUP) / 4;
        let lines_per_panel = if format.has_nibbles() {
            words / 2
        } else {
            words
        };
        let numbers = (panels * groups).div_ceil(2);
        let mut matrix = Self {
            format,
            lines: LineBuffer::zeros(panels * lines_per_panel)?,
            scales: LineBuffer::zeros(numbers)?,
            minimums: LineBuffer::zeros(if format.is_affine() { numbers } else { 0 })?,
            lines_per_panel,
            groups,
            inputs,
            outputs,
        };
        let lines = Disjoint::new(&mut matrix.lines);
        let scales = Disjoint::new(matrix.scales.as_flattened_words_mut());
        let minimums = Disjoint::new(matrix.minimums.as_flattened_words_mut());
        let mut rows = vec![IntRow::zeros(format, inputs); cpu.threads()];
        cpu.pool.for_each_with(&mut rows, panels, |row, panel| {
            // SAFETY: a panel is one task.
            let lines =
                unsafe { lines.range(panel * lines_per_panel..(panel + 1) * lines_per_panel) };
            let numbers = panel * groups * (LANES / 2)..(panel + 1) * groups * (LANES / 2);
            // SAFETY: as above.
            let scales = unsafe { scales.range(numbers.clone()) };
            let numbers = if format.is_affine() { numbers } else { 0..0 };
            // SAFETY: as above.
            let minimums = unsafe { minimums.range(numbers) };
            for lane in 0..LANES {
                row.clear();
                if panel * LANES + lane < outputs {
                    read_row(panel * LANES + lane, row);
                }
                let words = row.quants.as_chunks::<4>().0;
                if format.has_nibbles() {
                    for (line, pair) in lines.iter_mut().zip(words.as_chunks::<2>().0) {
                        let [low, high] = pair.map(u32::from_le_bytes);
                        line.0[lane] = low | high << 4;
                    }
                } else {
                    for (line, word) in lines.iter_mut().zip(words) {
                        line.0[lane] = u32::from_le_bytes(*word);
                    }
                }
                set_halves(scales, lane, &row.scales);
                set_halves(minimums, lane, &row.minimums);
            }
        });
        Ok(matrix)
    }

    /// How weights are held.
    pub fn format(&self) -> IntFormat {
        self.format
    }

    /// Columns: the width of its inputs.
    pub fn inputs(&self) -> usize {
        self.inputs
    }

    /// Rows: the width of its results.
    pub fn outputs(&self) -> usize {
        self.outputs
    }

    /// Bytes of the packed weights.
    pub fn bytes(&self) -> usize {
        size_of_val(&self.lines[..])
            + size_of_val(&self.scales[..])
            + size_of_val(&self.minimums[..])
    }

    /// Words of an output: four inputs each, in whole groups.
    pub(super) fn words(&self) -> usize {
        self.lines_per_panel * if self.format.has_nibbles() { 2 } else { 1 }
    }

    /// The lines of a panel.
    #[inline(always)]
    pub(super) fn panel_lines(&self, panel: usize) -> &[Line<u32>] {
        &self.lines[panel * self.lines_per_panel..][..self.lines_per_panel]
    }

    pub(super) fn panels(&self) -> usize {
        format::panels(self.outputs)
    }

    /// The scales of a panel, one [`Halves`] per group.
    #[inline(always)]
    pub(super) fn panel_scales(&self, panel: usize) -> &[Halves] {
        let (halves, _) = self.scales.as_flattened_words().as_chunks();
        &halves[panel * self.groups..][..self.groups]
    }

    /// The minimums of a panel, likewise; none where the format has none.
    #[inline(always)]
    pub(super) fn panel_minimums(&self, panel: usize) -> &[Halves] {
        let (halves, _) = self.minimums.as_flattened_words().as_chunks();
        &halves[panel * self.groups..][..self.groups]
    }
}

/// Writes one output's numbers into each group's [`Halves`].
fn set_halves(words: &mut [u32], lane: usize, numbers: &[u16]) {
    let (groups, _) = words.as_chunks_mut::<{ LANES / 2 }>();
    for (group, number) in groups.iter_mut().zip(numbers) {
        group[lane / 2] |= u32::from(*number) << (16 * (lane % 2));
    }
}

/// Gate and up projections of integers, their panels interleaved.
#[derive(Debug)]
pub struct IntGatedMatrix {
    pub(super) packed: IntMatrix,
    pub(super) width: usize,
}

impl IntGatedMatrix {
    /// Packs both matrices, each `[width, inputs]`; see [`IntMatrix::pack`].
    ///
    /// # Errors
    /// As [`IntMatrix::pack`].
    pub fn pack(
        cpu: &mut Cpu,
        format: IntFormat,
        width: usize,
        inputs: usize,
        gate: impl Fn(usize, &mut IntRow) + Sync,
        up: impl Fn(usize, &mut IntRow) + Sync,
    ) -> std::io::Result<Self> {
        let slots = 2 * width.next_multiple_of(LANES);
        let packed = IntMatrix::pack(cpu, format, slots, inputs, |slot, row| {
            match interleaved(slot, width) {
                Some(Interleaved::Gate(output)) => gate(output, row),
                Some(Interleaved::Up(output)) => up(output, row),
                None => {}
            }
        })?;
        Ok(Self { packed, width })
    }

    /// Outputs of each half.
    pub fn width(&self) -> usize {
        self.width
    }

    /// How weights are held.
    pub fn format(&self) -> IntFormat {
        self.packed.format
    }

    /// Bytes of the packed weights.
    pub fn bytes(&self) -> usize {
        self.packed.bytes()
    }
}
