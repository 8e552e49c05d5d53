//! Model files on disk, memory-mapped and checked: Hugging Face folders, GGUF, tokenizers.
//!
//! This room reads and writes bytes; it knows no model family and computes nothing.
