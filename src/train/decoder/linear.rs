//! A linear layer with its bias and its adapter, forward and backward.

use candle_core::{DType, Result, Tensor};

use super::workspace::{Buffer, Workspace};
use super::{Adapter, Decoder, Dropout};
use crate::kernels::cpu::{Matrix, Precision, Start, Values, multiply};
use crate::kernels::grad::{bias, sums};
use crate::train::adapter::generator;
use crate::train::optimizer::Gradients;
use crate::train::tensors::with_values;

/// `x W^T + bias`, plus the module's adapter.
pub(super) struct Linear<'a> {
    path: String,
    /// `[outputs, inputs]`.
    weight: &'a Tensor,
    bias: Option<&'a Tensor>,
    adapter: Option<&'a Adapter>,
    outputs: usize,
    inputs: usize,
    precision: Precision,
    dropout: Dropout,
    workspace: &'a Workspace,
}

impl Decoder {
    /// The layer of a module path.
    ///
    /// # Errors
    /// The model has no such weight.
    pub(super) fn linear(&self, path: String, dropout: Dropout) -> Result<Linear<'_>> {
        let weight = self.weight(&format!("{path}.weight"))?;
        let (outputs, inputs) = weight.dims2()?;
        Ok(Linear {
            weight,
            bias: self.weights.get(&format!("{path}.bias")),
            adapter: self.adapters.get(&path),
            path,
            outputs,
            inputs,
            precision: self.precision,
            dropout,
            workspace: &self.workspace,
        })
    }
}

/// Whether a result replaces what is there or is added to it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Target {
    Replace,
    Add,
}

impl Linear<'_> {
    /// Forward as exactly as in single precision. Where the weight is held in bfloat16, that takes
    /// two products: of the rounded inputs, and of what rounding took from them.
    pub(super) fn forward_precisely(self, x: &[f32], out: &mut [f32]) -> Result<()> {
        if self.precision == Precision::F32 || self.weight.dtype() != DType::BF16 {
            let single = Self {
                precision: Precision::F32,
                ..self
            };
            return single.forward(x, Target::Replace, out);
        }
        self.forward(x, Target::Replace, out)?;
        let mut rest = self.workspace.take(x.len())?;
        sums::rounded_off(x, &mut rest);
        self.forward(&rest, Target::Add, out)
    }

    fn rows(&self, x: &[f32]) -> usize {
        x.len() / self.inputs
    }

    /// Forward. Shapes: `x`: `[rows, inputs]`, `out`: `[rows, outputs]`. A layer with a bias can
    /// only replace.
    pub(super) fn forward(&self, x: &[f32], target: Target, out: &mut [f32]) -> Result<()> {
        let rows = self.rows(x);
        let product = |weight: Values<'_>, start: Start<'_>, out: &mut [f32]| {
            let weight = Matrix::of(weight, self.inputs).transposed();
            let x = Matrix::new(x, self.inputs);
            let (inputs, outputs) = (self.inputs, self.outputs);
            multiply(self.precision, x, weight, rows, inputs, outputs, start, out);
        };
        match (self.bias, target) {
            (None, target) => {
                let start = match target {
                    Target::Replace => Start::Zero,
                    Target::Add => Start::Present,
                };
                with_values(self.weight, |weight| product(weight, start, out))?;
            }
            (Some(bias), Target::Replace) => {
                let bias = bias.to_vec1::<f32>()?;
                with_values(self.weight, |weight| {
                    product(weight, Start::Bias(&bias), out);
                })?;
            }
            (Some(_), Target::Add) => {
                candle_core::bail!(
                    "{}.bias: no family that is trained has one there",
                    self.path
                )
            }
        }
        if let Some(adapter) = self.adapter {
            let dropped = self.dropped(x)?;
            let low = self.low(adapter, dropped.as_deref().unwrap_or(x))?;
            let rank = low.len() / rows.max(1);
            with_values(adapter.b.as_tensor(), |b| {
                let (low, b) = (Matrix::new(&low, rank), Matrix::of(b, rank).transposed());
                let outputs = self.outputs;
                multiply(
                    self.precision,
                    low,
                    b,
                    rows,
                    rank,
                    outputs,
                    Start::Present,
                    out,
                );
            })?;
        }
        Ok(())
    }

    /// `scale * x A^T`: `[rows, rank]`.
    fn low(&self, adapter: &Adapter, x: &[f32]) -> Result<Buffer<'_>> {
        let (rows, (rank, inputs)) = (self.rows(x), adapter.a.as_tensor().dims2()?);
        let mut low = self.workspace.take(rows * rank)?;
        with_values(adapter.a.as_tensor(), |a| {
            let (x, a) = (Matrix::new(x, inputs), Matrix::of(a, inputs).transposed());
            multiply(
                self.precision,
                x,
                a,
                rows,
                inputs,
                rank,
                Start::Zero,
                &mut low,
            );
        })?;
        sums::scale(&mut low, adapter.scale as f32);
        Ok(low)
    }

    /// The gradient of the layer's input, given that of its result. Shapes: `dy`: `[rows,
    /// outputs]`, `dx`: `[rows, inputs]`.
    pub(super) fn input_gradient(&self, dy: &[f32], target: Target, dx: &mut [f32]) -> Result<()> {
        let (rows, inputs, outputs) = (self.rows(dx), self.inputs, self.outputs);
        let start = match target {
            Target::Replace => Start::Zero,
            Target::Add => Start::Present,
        };
        with_values(self.weight, |weight| {
            let (dy, weight) = (Matrix::new(dy, outputs), Matrix::of(weight, inputs));
            multiply(self.precision, dy, weight, rows, outputs, inputs, start, dx);
        })?;
        let Some(adapter) = self.adapter else {
            return Ok(());
        };
        let dlow = self.low_gradient(adapter, dy)?;
        let rank = dlow.len() / rows.max(1);
        let add = |start: Start<'_>, to: &mut [f32]| {
            with_values(adapter.a.as_tensor(), |a| {
                let (dlow, a) = (Matrix::new(&dlow, rank), Matrix::of(a, inputs));
                multiply(self.precision, dlow, a, rows, rank, inputs, start, to);
            })
        };
        match self.mask(dx.len())? {
            None => add(Start::Present, dx),
            Some(mask) => {
                let mut ddropped = self.workspace.take(dx.len())?;
                add(Start::Zero, &mut ddropped)?;
                sums::add_masked(&ddropped, &mask, dx);
                Ok(())
            }
        }
    }

    /// Adds the gradients of what is trained of the layer to `gradients`. `x` is what the forward
    /// pass got, `dy` the gradient of its result.
    pub(super) fn weight_gradients(
        &self,
        x: &[f32],
        dy: &[f32],
        gradients: &mut Gradients,
    ) -> Result<()> {
        let (rows, inputs, outputs) = (self.rows(x), self.inputs, self.outputs);
        let precision = self.precision;
        let (weight, lora_b) = (
            format!("{}.weight", self.path),
            format!("{}.lora_B.weight", self.path),
        );
        let by_output = Matrix::new(dy, outputs).transposed();
        if let Some((dweight, start)) = gradients.product(&weight) {
            let x = Matrix::new(x, inputs);
            multiply(
                precision, by_output, x, outputs, rows, inputs, start, dweight,
            );
        }
        if self.bias.is_some()
            && let Some(dbias) = gradients.sum(&format!("{}.bias", self.path))
        {
            bias::backward(dy, dbias);
        }
        let Some(adapter) = self.adapter else {
            return Ok(());
        };
        let dropped = self.dropped(x)?;
        let x = dropped.as_deref().unwrap_or(x);
        let rank = adapter.a.as_tensor().dim(0)?;
        if let Some((db, start)) = gradients.product(&lora_b) {
            let low = self.low(adapter, x)?;
            let low = Matrix::new(&low, rank);
            multiply(precision, by_output, low, outputs, rows, rank, start, db);
        }
        if let Some((da, start)) = gradients.product(&format!("{}.lora_A.weight", self.path)) {
            let dlow = self.low_gradient(adapter, dy)?;
            let by_rank = Matrix::new(&dlow, rank).transposed();
            let x = Matrix::new(x, inputs);
            multiply(precision, by_rank, x, rank, rows, inputs, start, da);
        }
        Ok(())
    }

    /// `scale * dy B`: `[rows, rank]`.
    fn low_gradient(&self, adapter: &Adapter, dy: &[f32]) -> Result<Buffer<'_>> {
        let (outputs, rank) = adapter.b.as_tensor().dims2()?;
        let rows = dy.len() / outputs;
        let mut dlow = self.workspace.take(rows * rank)?;
        with_values(adapter.b.as_tensor(), |b| {
            let (dy, b) = (Matrix::new(dy, outputs), Matrix::of(b, rank));
            multiply(
                self.precision,
                dy,
                b,
                rows,
                outputs,
                rank,
                Start::Zero,
                &mut dlow,
            );
        })?;
        sums::scale(&mut dlow, adapter.scale as f32);
        Ok(dlow)
    }

    /// What an adapter sees of `x` in training, where it is not all of it.
    fn dropped(&self, x: &[f32]) -> Result<Option<Buffer<'_>>> {
        let Some(mask) = self.mask(x.len())? else {
            return Ok(None);
        };
        let mut dropped = self.workspace.zeros(x.len())?;
        sums::add_masked(x, &mask, &mut dropped);
        Ok(Some(dropped))
    }

    /// The factor of each input value of an adapter: a function of the run's seed, the layer, and
    /// the place in the run, however often it is computed.
    fn mask(&self, len: usize) -> Result<Option<Buffer<'_>>> {
        let Dropout {
            share,
            seed,
            step,
            micro_batch,
        } = self.dropout;
        if share == 0.0 {
            return Ok(None);
        }
        let rng = generator(seed, &format!("{} {step} {micro_batch}", self.path));
        let mut draws = vec![0u32; len];
        rng.fill(0, 0, &mut draws);
        let least = (share * 2f64.powi(32)) as u32;
        let kept = (1.0 / (1.0 - share)) as f32;
        let mut mask = self.workspace.take(len)?;
        for (factor, draw) in mask.iter_mut().zip(draws) {
            *factor = if draw >= least { kept } else { 0.0 };
        }
        Ok(Some(mask))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use candle_core::{DType, Device, Var};

    use super::*;
    use crate::model::spec_from_config;

    /// A decoder of which only one layer with an adapter is there.
    fn decoder(share: f64) -> (Decoder, Dropout) {
        let config = serde_json::json!({
            "model_type": "qwen2", "architectures": ["Qwen2ForCausalLM"], "vocab_size": 16,
            "hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1,
            "num_attention_heads": 2, "num_key_value_heads": 2, "max_position_embeddings": 16,
            "rms_norm_eps": 1e-6, "tie_word_embeddings": true, "rope_theta": 10000.0,
        });
        let tensor = |rows: usize, columns: usize| {
            let values = (0..rows * columns).map(|i| (i as f32 * 0.7).sin());
            let values: Vec<f32> = values.collect();
            Tensor::from_vec(values, (rows, columns), &Device::Cpu).unwrap()
        };
        let adapter = Adapter {
            a: Var::from_tensor(&tensor(2, 5)).unwrap(),
            b: Var::from_tensor(&tensor(4, 2)).unwrap(),
            scale: 1.5,
        };
        let weights = BTreeMap::from([("l.weight".to_owned(), tensor(4, 5))]);
        let adapters = BTreeMap::from([("l".to_owned(), adapter)]);
        let spec = spec_from_config(&config).unwrap();
        let dropout = Dropout {
            share,
            seed: 3,
            step: 2,
            micro_batch: 1,
        };
        (
            Decoder::new(spec, weights, adapters, DType::F32, false),
            dropout,
        )
    }

    fn gradients(decoder: &Decoder) -> Gradients {
        let adapter = &decoder.adapters["l"];
        let names = [
            ("l.lora_A.weight", &adapter.a),
            ("l.lora_B.weight", &adapter.b),
        ];
        Gradients::of(names.map(|(name, var)| (name.to_owned(), var.as_tensor().elem_count())))
    }

    #[test]
    fn an_adapter_with_dropout_has_the_gradients_of_its_formula() {
        let (decoder, dropout) = decoder(0.4);
        let layer = decoder.linear("l".into(), dropout).unwrap();
        let x: Vec<f32> = (0..15).map(|i| (i as f32 * 0.3).cos()).collect();
        let dy: Vec<f32> = (0..12).map(|i| (i as f32 * 0.9).sin()).collect();
        let loss = |x: &[f32]| -> f64 {
            let mut y = vec![0.0; 12];
            layer.forward(x, Target::Replace, &mut y).unwrap();
            y.iter().zip(&dy).map(|(y, d)| f64::from(y * d)).sum()
        };
        let mut sums = gradients(&decoder);
        let mut dx = vec![0.0; 15];
        layer.input_gradient(&dy, Target::Replace, &mut dx).unwrap();
        layer.weight_gradients(&x, &dy, &mut sums).unwrap();
        let step = 1e-2;
        for i in 0..x.len() {
            let mut moved = [x.clone(), x.clone()];
            moved[0][i] += step;
            moved[1][i] -= step;
            let slope = (loss(&moved[0]) - loss(&moved[1])) / f64::from(2.0 * step);
            assert!((f64::from(dx[i]) - slope).abs() < 1e-3, "dx[{i}]");
        }
        for (name, var) in [
            ("A", &decoder.adapters["l"].a),
            ("B", &decoder.adapters["l"].b),
        ] {
            let found = sums
                .values(&format!("l.lora_{name}.weight"))
                .unwrap()
                .to_vec();
            let before = var.as_tensor().copy().unwrap();
            let values = before.flatten_all().unwrap().to_vec1::<f32>().unwrap();
            for i in 0..values.len() {
                let moved = [step, -step].map(|by| {
                    let mut values = values.clone();
                    values[i] += by;
                    let tensor = Tensor::from_vec(values, before.shape(), &Device::Cpu);
                    var.set(&tensor.unwrap()).unwrap();
                    loss(&x)
                });
                let slope = (moved[0] - moved[1]) / f64::from(2.0 * step);
                assert!((f64::from(found[i]) - slope).abs() < 1e-3, "{name}[{i}]");
            }
            var.set(&before).unwrap();
        }
    }

    #[test]
    fn dropout_keeps_the_mean_and_repeats_itself() {
        let (decoder, dropout) = decoder(0.25);
        let layer = decoder.linear("l".into(), dropout).unwrap();
        let x = vec![1.0; 10_000];
        let dropped = layer.dropped(&x).unwrap().unwrap();
        let zeros = dropped.iter().filter(|value| **value == 0.0).count();
        assert!((2300..2700).contains(&zeros), "{zeros}");
        let again = layer.dropped(&x).unwrap().unwrap();
        assert_eq!(&dropped[..], &again[..]);
    }
}
