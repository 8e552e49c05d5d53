//! Files of the Hugging Face hub: datasets by id, models by id, through the cache that Python's
//! `huggingface_hub` uses.
//!
//! [`Hub`] finds a file in the cache or downloads it: resumed where a download broke off, checked
//! against the hub's SHA-256, and never at all when `HF_HUB_OFFLINE` is set. `HF_HOME`,
//! `HF_HUB_CACHE`, `HF_TOKEN` and `HF_ENDPOINT` mean what they mean in Python. Nothing is uploaded.

mod client;
mod error;
mod patience;
mod settings;
mod snapshot;

pub use client::{Hub, Listing, RepoKind, Transfer};
pub use error::HubError;
pub use settings::HubSettings;
