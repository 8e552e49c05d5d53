//! One decoder layer, forward and backward. What the backward pass needs of the forward pass is
//! kept in a [`Tape`]; norms and the gated product are cheap and computed again.

use candle_core::Result;

use super::linear::{Linear, Target};
use super::workspace::Buffer;
use super::{Decoder, Pass};
use crate::kernels::grad::rope::Direction;
use crate::kernels::grad::{attention, rms_norm, rope, silu_mul, sums};
use crate::train::optimizer::Gradients;
use crate::train::tensors::with_f32;

/// What a layer keeps for its backward pass; rows are those of the batch.
pub(super) struct Tape<'w> {
    /// The layer's input, `[rows, hidden_size]`.
    x: Buffer<'w>,
    /// Queries and keys as projected, where they are normed.
    raw: Option<(Buffer<'w>, Buffer<'w>)>,
    /// As attention gets them.
    q: Buffer<'w>,
    k: Buffer<'w>,
    v: Buffer<'w>,
    attended: Buffer<'w>,
    normalisers: Buffer<'w>,
    /// The residual stream between attention and MLP, `[rows, hidden_size]`.
    middle: Buffer<'w>,
    gate: Buffer<'w>,
    up: Buffer<'w>,
}

impl Tape<'_> {
    fn saved(&self) -> attention::Saved<'_> {
        attention::Saved {
            q: &self.q,
            k: &self.k,
            v: &self.v,
        }
    }
}

/// A layer's linear parts.
struct Parts<'a> {
    q: Linear<'a>,
    k: Linear<'a>,
    v: Linear<'a>,
    o: Linear<'a>,
    gate: Linear<'a>,
    up: Linear<'a>,
    down: Linear<'a>,
}

impl Decoder {
    fn parts(&self, layer: usize, pass: &Pass) -> Result<Parts<'_>> {
        let part = |name: &str| {
            let path = format!("model.layers.{layer}.{name}_proj");
            self.linear(path, pass.dropout)
        };
        Ok(Parts {
            q: part("self_attn.q")?,
            k: part("self_attn.k")?,
            v: part("self_attn.v")?,
            o: part("self_attn.o")?,
            gate: part("mlp.gate")?,
            up: part("mlp.up")?,
            down: part("mlp.down")?,
        })
    }

    /// The norm of a module path. Shapes: `x`, `y`: `[rows, width]`.
    pub(super) fn norm(&self, path: &str, x: &[f32], y: &mut [f32]) -> Result<()> {
        let weight = self.weight(&format!("{path}.weight"))?;
        with_f32(weight, |weight| {
            rms_norm::forward(x, weight, self.spec.rms_norm_eps, y);
        })
    }

    /// Adds the gradient of the norm's input to `dx`.
    pub(super) fn norm_backward(
        &self,
        path: &str,
        x: &[f32],
        dy: &[f32],
        dx: &mut [f32],
        gradients: &mut Gradients,
    ) -> Result<()> {
        let name = format!("{path}.weight");
        with_f32(self.weight(&name)?, |weight| {
            let dweight = gradients.sum(&name);
            rms_norm::backward(x, weight, self.spec.rms_norm_eps, dy, dx, dweight);
        })
    }

    /// Runs a layer on the residual stream `x`, `[rows, hidden_size]`; returns what the backward
    /// pass needs and the stream after it.
    ///
    /// # Errors
    /// A weight is missing or has another shape than the specification says.
    pub(super) fn layer_forward<'w>(
        &'w self,
        layer: usize,
        x: Buffer<'w>,
        pass: &Pass,
    ) -> Result<(Tape<'w>, Buffer<'w>)> {
        let (spec, workspace, rows) = (&self.spec, &self.workspace, pass.rows);
        let (path, parts) = (format!("model.layers.{layer}"), self.parts(layer, pass)?);
        let mut normed = workspace.take(x.len())?;
        self.norm(&format!("{path}.input_layernorm"), &x, &mut normed)?;
        let mut q = workspace.take(rows * spec.q_size())?;
        let [mut k, mut v] = [
            workspace.take(rows * spec.kv_size())?,
            workspace.take(rows * spec.kv_size())?,
        ];
        parts.q.forward(&normed, Target::Replace, &mut q)?;
        parts.k.forward(&normed, Target::Replace, &mut k)?;
        parts.v.forward(&normed, Target::Replace, &mut v)?;
        let mut raw = None;
        if spec.qk_norm {
            let (raw_q, raw_k) = (q, k);
            (q, k) = (workspace.take(raw_q.len())?, workspace.take(raw_k.len())?);
            self.norm(&format!("{path}.self_attn.q_norm"), &raw_q, &mut q)?;
            self.norm(&format!("{path}.self_attn.k_norm"), &raw_k, &mut k)?;
            raw = Some((raw_q, raw_k));
        }
        self.rotate(layer, pass, &mut q, &mut k, Direction::Forward);
        let shape = self.attention_shape(layer, pass);
        let mut attended = workspace.take(q.len())?;
        let mut normalisers = workspace.take(shape.num_normalisers())?;
        let saved = attention::Saved {
            q: &q,
            k: &k,
            v: &v,
        };
        attention::forward(&shape, &saved, &mut attended, &mut normalisers);
        let mut middle = workspace.take(x.len())?;
        sums::copy(&x, &mut middle);
        parts.o.forward(&attended, Target::Add, &mut middle)?;

        self.norm(
            &format!("{path}.post_attention_layernorm"),
            &middle,
            &mut normed,
        )?;
        let [mut gate, mut up, mut gated] = [
            workspace.take(rows * spec.intermediate_size)?,
            workspace.take(rows * spec.intermediate_size)?,
            workspace.take(rows * spec.intermediate_size)?,
        ];
        parts.gate.forward(&normed, Target::Replace, &mut gate)?;
        parts.up.forward(&normed, Target::Replace, &mut up)?;
        silu_mul::forward(&gate, &up, &mut gated);
        let mut out = normed;
        sums::copy(&middle, &mut out);
        parts.down.forward(&gated, Target::Add, &mut out)?;
        let tape = Tape {
            x,
            raw,
            q,
            k,
            v,
            attended,
            normalisers,
            middle,
            gate,
            up,
        };
        Ok((tape, out))
    }

    /// Takes the gradient of a layer's output in `dx` to that of its input, in place, where
    /// something before the layer learns; adds those of its weights to `gradients`.
    ///
    /// # Errors
    /// As [`Self::layer_forward`].
    pub(super) fn layer_backward(
        &self,
        layer: usize,
        tape: Tape<'_>,
        dx: &mut [f32],
        pass: &Pass,
        gradients: &mut Gradients,
    ) -> Result<()> {
        let (path, parts) = (format!("model.layers.{layer}"), self.parts(layer, pass)?);
        let tape = self.mlp_backward(&path, &parts, tape, dx, gradients)?;
        self.attention_backward(layer, &path, &parts, tape, dx, pass, gradients)
    }

    fn mlp_backward<'w>(
        &'w self,
        path: &str,
        parts: &Parts<'_>,
        mut tape: Tape<'w>,
        dx: &mut [f32],
        gradients: &mut Gradients,
    ) -> Result<Tape<'w>> {
        let norm = format!("{path}.post_attention_layernorm");
        let workspace = &self.workspace;
        // The gradient of the gated product first, then, in its place, the product itself.
        let mut gated = workspace.take(tape.gate.len())?;
        parts.down.input_gradient(dx, Target::Replace, &mut gated)?;
        silu_mul::backward(&mut tape.gate, &mut tape.up, &mut gated);
        parts.down.weight_gradients(&gated, dx, gradients)?;
        drop(gated);
        let mut dnormed = workspace.take(dx.len())?;
        parts
            .gate
            .input_gradient(&tape.gate, Target::Replace, &mut dnormed)?;
        parts
            .up
            .input_gradient(&tape.up, Target::Add, &mut dnormed)?;
        let mut normed = workspace.take(dx.len())?;
        self.norm(&norm, &tape.middle, &mut normed)?;
        parts
            .gate
            .weight_gradients(&normed, &tape.gate, gradients)?;
        parts.up.weight_gradients(&normed, &tape.up, gradients)?;
        self.norm_backward(&norm, &tape.middle, &dnormed, dx, gradients)?;
        Ok(tape)
    }

    #[allow(
        clippy::too_many_arguments,
        reason = "what both halves of a layer need, and what this one does"
    )]
    fn attention_backward(
        &self,
        layer: usize,
        path: &str,
        parts: &Parts<'_>,
        tape: Tape<'_>,
        dx: &mut [f32],
        pass: &Pass,
        gradients: &mut Gradients,
    ) -> Result<()> {
        let workspace = &self.workspace;
        let mut dattended = workspace.take(tape.attended.len())?;
        parts
            .o
            .input_gradient(dx, Target::Replace, &mut dattended)?;
        parts.o.weight_gradients(&tape.attended, dx, gradients)?;
        let mut dq = workspace.take(tape.q.len())?;
        let [mut dk, mut dv] = [workspace.take(tape.k.len())?, workspace.take(tape.v.len())?];
        attention::backward(
            &self.attention_shape(layer, pass),
            &tape.saved(),
            &tape.normalisers,
            &dattended,
            attention::Gradients {
                dq: &mut dq,
                dk: &mut dk,
                dv: &mut dv,
            },
        );
        drop(dattended);
        self.rotate(layer, pass, &mut dq, &mut dk, Direction::Backward);
        if let Some((raw_q, raw_k)) = &tape.raw {
            for (name, raw, gradient) in [("q", raw_q, &mut dq), ("k", raw_k, &mut dk)] {
                let mut draw = workspace.zeros(raw.len())?;
                let norm = format!("{path}.self_attn.{name}_norm");
                self.norm_backward(&norm, raw, gradient, &mut draw, gradients)?;
                *gradient = draw;
            }
        }
        let norm = format!("{path}.input_layernorm");
        let mut normed = workspace.take(dx.len())?;
        self.norm(&norm, &tape.x, &mut normed)?;
        let projections = [(&parts.q, &dq), (&parts.k, &dk), (&parts.v, &dv)];
        for (part, gradient) in projections {
            part.weight_gradients(&normed, gradient, gradients)?;
        }
        if layer == 0 && !self.learns_before_layers(gradients) {
            return Ok(());
        }
        let mut dnormed = normed;
        for (index, (part, gradient)) in projections.into_iter().enumerate() {
            let target = if index == 0 {
                Target::Replace
            } else {
                Target::Add
            };
            part.input_gradient(gradient, target, &mut dnormed)?;
        }
        self.norm_backward(&norm, &tape.x, &dnormed, dx, gradients)
    }

    /// Whether anything is trained that comes before the first layer's projections.
    fn learns_before_layers(&self, gradients: &Gradients) -> bool {
        let first_norm = "model.layers.0.input_layernorm.weight";
        gradients.contains(super::EMBEDDING) || gradients.contains(first_norm)
    }

    fn rotate(&self, layer: usize, pass: &Pass, q: &mut [f32], k: &mut [f32], way: Direction) {
        let spec = &self.spec;
        let angles = &pass.angles[spec.layer_rope[layer]];
        let heads = [(q, spec.num_attention_heads), (k, spec.num_key_value_heads)];
        for (values, heads) in heads {
            rope::rotate(values, &angles.cos, &angles.sin, heads, spec.head_dim, way);
        }
    }

    fn attention_shape(&self, layer: usize, pass: &Pass) -> attention::Shape {
        let spec = &self.spec;
        attention::Shape {
            batch: pass.batch,
            length: pass.length,
            num_heads: spec.num_attention_heads,
            num_kv_heads: spec.num_key_value_heads,
            head_dim: spec.head_dim,
            scale: spec.attention_scale,
            window: spec.sliding_window[layer],
            segments: pass.segments.clone(),
        }
    }
}
