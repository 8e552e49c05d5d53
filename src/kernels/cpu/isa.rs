//! Which instruction set the kernels use: detected at run time, overridable by name.

use std::fmt;
use std::str::FromStr;
use std::sync::OnceLock;

#[cfg(target_arch = "x86_64")]
use super::amx::Amx;
use super::simd::{Kernel, Simd, portable::Portable};
#[cfg(target_arch = "x86_64")]
use super::simd::{avx2::Avx2, avx512::Avx512};

/// An instruction set that this CPU has. The value is the proof: there is no way to make one for
/// a CPU that lacks it.
#[derive(Clone, Copy)]
pub struct Isa(Token);

#[derive(Clone, Copy)]
enum Token {
    #[cfg(target_arch = "x86_64")]
    Amx(Amx),
    #[cfg(target_arch = "x86_64")]
    Avx512Bf16(Avx512<true>),
    #[cfg(target_arch = "x86_64")]
    Avx512(Avx512<false>),
    #[cfg(target_arch = "x86_64")]
    Avx2(Avx2),
    Portable(Portable),
}

/// A kernel path that does not exist or that this CPU cannot run.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum IsaError {
    /// The name is none of the known ones.
    #[error("unknown kernels `{name}`; known: {known}")]
    Unknown {
        /// What was asked for.
        name: String,
        /// Every name.
        known: String,
    },
    /// The CPU lacks the instructions.
    #[error("this CPU has no `{name}`; it can run: {available}")]
    Unavailable {
        /// What was asked for.
        name: String,
        /// The names that would work.
        available: String,
    },
}

/// Names of all paths, fastest first.
const NAMES: [&str; 5] = ["amx", "avx512-bf16", "avx512", "avx2", "portable"];

impl Isa {
    /// The fastest path that this CPU has.
    pub fn detect() -> Self {
        static DETECTED: OnceLock<Isa> = OnceLock::new();
        *DETECTED.get_or_init(|| Self::available()[0])
    }

    /// Every path that this CPU has, fastest first. The portable one is always there.
    pub fn available() -> Vec<Self> {
        let mut tokens = Vec::new();
        #[cfg(target_arch = "x86_64")]
        {
            tokens.extend(Amx::detect().map(Token::Amx));
            tokens.extend(Avx512::<true>::detect().map(Token::Avx512Bf16));
            tokens.extend(Avx512::<false>::detect().map(Token::Avx512));
            tokens.extend(Avx2::detect().map(Token::Avx2));
        }
        tokens.push(Token::Portable(Portable));
        tokens.into_iter().map(Self).collect()
    }

    /// Its name, as [`FromStr`] takes it.
    pub fn name(self) -> &'static str {
        match self.0 {
            #[cfg(target_arch = "x86_64")]
            Token::Amx(_) => NAMES[0],
            #[cfg(target_arch = "x86_64")]
            Token::Avx512Bf16(_) => NAMES[1],
            #[cfg(target_arch = "x86_64")]
            Token::Avx512(_) => NAMES[2],
            #[cfg(target_arch = "x86_64")]
            Token::Avx2(_) => NAMES[3],
            Token::Portable(_) => NAMES[4],
        }
    }

    /// Runs a kernel that has no use for bfloat16 dot products, so that it need not be compiled
    /// once more for them.
    #[inline]
    pub(crate) fn run_elementwise<K: Kernel>(self, kernel: K) -> K::Output {
        match self.0 {
            #[cfg(target_arch = "x86_64")]
            Token::Amx(amx) => amx.simd().without_dot().vectorize(kernel),
            #[cfg(target_arch = "x86_64")]
            Token::Avx512Bf16(simd) => simd.without_dot().vectorize(kernel),
            #[cfg(target_arch = "x86_64")]
            Token::Avx512(simd) => simd.vectorize(kernel),
            #[cfg(target_arch = "x86_64")]
            Token::Avx2(simd) => simd.vectorize(kernel),
            Token::Portable(simd) => simd.vectorize(kernel),
        }
    }

    /// Whether products of bfloat16 go through matrix tiles.
    pub fn has_matrix_tiles(self) -> bool {
        #[cfg(target_arch = "x86_64")]
        return self.amx().is_some();
        #[cfg(not(target_arch = "x86_64"))]
        false
    }

    /// Its matrix tiles, where it has them.
    #[cfg(target_arch = "x86_64")]
    #[inline]
    pub(super) fn amx(self) -> Option<Amx> {
        match self.0 {
            Token::Amx(amx) => Some(amx),
            _ => None,
        }
    }

    /// Runs a kernel compiled for this instruction set; for one that has matrix tiles, for the
    /// vector instructions beside them.
    #[inline]
    pub(crate) fn run<K: Kernel>(self, kernel: K) -> K::Output {
        match self.0 {
            #[cfg(target_arch = "x86_64")]
            Token::Amx(amx) => amx.simd().vectorize(kernel),
            #[cfg(target_arch = "x86_64")]
            Token::Avx512Bf16(simd) => simd.vectorize(kernel),
            #[cfg(target_arch = "x86_64")]
            Token::Avx512(simd) => simd.vectorize(kernel),
            #[cfg(target_arch = "x86_64")]
            Token::Avx2(simd) => simd.vectorize(kernel),
            Token::Portable(simd) => simd.vectorize(kernel),
        }
    }
}

impl FromStr for Isa {
    type Err = IsaError;

    fn from_str(name: &str) -> Result<Self, IsaError> {
        let available = Self::available();
        if let Some(isa) = available.iter().find(|isa| isa.name() == name) {
            return Ok(*isa);
        }
        let name = name.to_owned();
        if NAMES.contains(&name.as_str()) {
            let names: Vec<_> = available.iter().map(|isa| isa.name()).collect();
            return Err(IsaError::Unavailable {
                name,
                available: names.join(", "),
            });
        }
        Err(IsaError::Unknown {
            name,
            known: NAMES.join(", "),
        })
    }
}

impl PartialEq for Isa {
    fn eq(&self, other: &Self) -> bool {
        self.name() == other.name()
    }
}

impl Eq for Isa {}

impl fmt::Debug for Isa {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl fmt::Display for Isa {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_round_trip_and_the_portable_path_is_last() {
        for isa in Isa::available() {
            assert_eq!(isa.name().parse::<Isa>(), Ok(isa));
        }
        assert_eq!(Isa::available().last().unwrap().name(), "portable");
        assert_eq!(Isa::detect(), Isa::available()[0]);
    }

    #[test]
    fn an_unknown_name_lists_the_known_ones() {
        let error = "neon".parse::<Isa>().unwrap_err();
        assert_eq!(
            error.to_string(),
            "unknown kernels `neon`; known: amx, avx512-bf16, avx512, avx2, portable"
        );
    }
}
