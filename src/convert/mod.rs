//! Checkpoints to GGUF and back, and quantisation.
