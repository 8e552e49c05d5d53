//! Random numbers whose every bit is specified: no room draws from anything else.
//!
//! [`Mt19937`] repeats the stream of Python's `random` and of torch's CPU generator, where a
//! reference program's draws must be repeated. [`CounterRng`] is ours: a value depends only on
//! its key and counter, so order, threads and batching cannot change it.

mod counter;
mod mt19937;

pub use counter::CounterRng;
pub use mt19937::Mt19937;
