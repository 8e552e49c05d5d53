//! Merging checkpoints tensor by tensor, streaming, with bounded memory.
