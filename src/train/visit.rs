//! Which rows each step sees: epochs of micro-batches in the seed's order. A function of the step
//! alone, so that a run that is taken up again needs nothing but its step count.

use super::order;
use super::recipe::Recipe;

/// How rows are grouped into steps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Grouping {
    /// Rows (or packs) that there are.
    pub num_rows: usize,
    /// Rows of a micro-batch.
    pub batch_size: usize,
    /// Micro-batches of a step; the last step of an epoch may have fewer.
    pub accumulation: usize,
    /// Whether an epoch's last micro-batch is left out where it is not full.
    pub drop_last: bool,
    /// Seeds the order with the epoch added; `None` visits rows as they come.
    pub shuffle_seed: Option<u64>,
}

impl Grouping {
    /// The grouping of a recipe.
    pub fn new(recipe: &Recipe, num_rows: usize) -> Self {
        let seed = recipe.data_seed.unwrap_or(recipe.seed);
        Self {
            num_rows,
            batch_size: recipe.per_device_train_batch_size,
            accumulation: recipe.gradient_accumulation_steps,
            drop_last: recipe.dataloader_drop_last,
            shuffle_seed: (!recipe.disable_shuffling).then_some(seed),
        }
    }

    /// Micro-batches of an epoch.
    pub fn micro_batches(&self) -> usize {
        if self.drop_last {
            self.num_rows / self.batch_size
        } else {
            self.num_rows.div_ceil(self.batch_size)
        }
    }

    /// Steps of an epoch.
    pub fn steps_per_epoch(&self) -> usize {
        self.micro_batches().div_ceil(self.accumulation)
    }

    fn order(&self, epoch: usize) -> Vec<usize> {
        match self.shuffle_seed {
            Some(seed) => order::torch_permutation(self.num_rows, seed.wrapping_add(epoch as u64)),
            None => (0..self.num_rows).collect(),
        }
    }
}

/// What one step does.
#[derive(Clone, Debug, PartialEq)]
pub struct StepRows {
    /// The rows of each micro-batch.
    pub micro_batches: Vec<Vec<usize>>,
    /// Passes over the data after this step.
    pub epoch: f64,
    /// Whether it is the last of its epoch.
    pub ends_epoch: bool,
}

/// The steps of a run, one after the other.
pub struct Visit {
    grouping: Grouping,
    step: usize,
    order: Vec<usize>,
}

impl Visit {
    /// Begins after `done` steps.
    pub fn after(grouping: Grouping, done: usize) -> Self {
        let epoch = done / grouping.steps_per_epoch();
        Self {
            order: grouping.order(epoch),
            grouping,
            step: done,
        }
    }

    /// The rows of the next step.
    pub fn next_step(&mut self) -> StepRows {
        let Grouping {
            batch_size,
            accumulation,
            ..
        } = self.grouping;
        let (per_epoch, all) = (
            self.grouping.steps_per_epoch(),
            self.grouping.micro_batches(),
        );
        let (epoch, in_epoch) = (self.step / per_epoch, self.step % per_epoch);
        if in_epoch == 0 {
            self.order = self.grouping.order(epoch);
        }
        self.step += 1;
        let end = ((in_epoch + 1) * accumulation).min(all);
        let rows = self.order.chunks(batch_size);
        let rows = rows.take(end).skip(in_epoch * accumulation);
        StepRows {
            micro_batches: rows.map(<[usize]>::to_vec).collect(),
            epoch: epoch as f64 + end as f64 / all as f64,
            ends_epoch: end == all,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_step_of_an_epoch_is_smaller_and_any_step_can_be_entered_at() {
        let grouping = Grouping {
            num_rows: 11,
            batch_size: 2,
            accumulation: 4,
            drop_last: false,
            shuffle_seed: Some(7),
        };
        assert_eq!(grouping.steps_per_epoch(), 2);
        let mut straight = Visit::after(grouping, 0);
        let steps: Vec<StepRows> = (0..6).map(|_| straight.next_step()).collect();
        let sizes: Vec<usize> = steps
            .iter()
            .map(|s| s.micro_batches.concat().len())
            .collect();
        assert_eq!(sizes, [8, 3, 8, 3, 8, 3]);
        assert_eq!(steps[0].epoch, 4.0 / 6.0);
        assert_eq!((steps[1].epoch, steps[1].ends_epoch), (1.0, true));
        let mut epoch = [&steps[2], &steps[3]]
            .map(|s| s.micro_batches.concat())
            .concat();
        assert_eq!(epoch, order::torch_permutation(11, 8));
        epoch.sort_unstable();
        assert_eq!(epoch, (0..11).collect::<Vec<_>>());
        for (done, step) in steps.iter().enumerate() {
            assert_eq!(&Visit::after(grouping, done).next_step(), step);
        }
        let dropping = Grouping {
            drop_last: true,
            ..grouping
        };
        assert_eq!(
            (dropping.micro_batches(), dropping.steps_per_epoch()),
            (5, 2)
        );
    }
}
