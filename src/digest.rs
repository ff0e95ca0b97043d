//! Digests as images write them: grammar, hashing and comparison.
//!
//! This module owns which digest strings are legal. A digest string is checked against its grammar before any
//! other use, so a digest can be joined to a path safely (CVE-2024-3727). Source: OCI image-spec,
//! descriptor.md, "Digests".

use std::fmt;
use std::str::FromStr;

use sha2::Digest as _;

use crate::error::{Error, Result, Subject};

/// The hash algorithms of digests.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Algorithm {
    /// SHA-256: 32 bytes; the algorithm that images normally use.
    Sha256,
    /// SHA-512: 64 bytes.
    Sha512,
    /// BLAKE3: 32 bytes.
    Blake3,
}

impl Algorithm {
    /// Returns the algorithm's name as digest strings write it before the colon: `sha256`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Algorithm::Sha256 => "sha256",
            Algorithm::Sha512 => "sha512",
            Algorithm::Blake3 => "blake3",
        }
    }

    /// Returns the length of a hash in bytes.
    #[must_use]
    pub(crate) fn len_bytes(self) -> usize {
        match self {
            Algorithm::Sha256 | Algorithm::Blake3 => 32,
            Algorithm::Sha512 => 64,
        }
    }

    /// Creates a hasher for this algorithm.
    #[must_use]
    pub(crate) fn hasher(self) -> Hasher {
        match self {
            Algorithm::Sha256 => Hasher::Sha256(sha2::Sha256::new()),
            Algorithm::Sha512 => Hasher::Sha512(Box::new(sha2::Sha512::new())),
            Algorithm::Blake3 => Hasher::Blake3(Box::new(blake3::Hasher::new())),
        }
    }

    /// Returns the digest of `bytes`.
    #[must_use]
    pub fn digest(self, bytes: &[u8]) -> Digest {
        let mut hasher = self.hasher();
        hasher.update(bytes);
        hasher.finish()
    }
}

/// A digest: an algorithm and a hash.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Digest {
    algorithm: Algorithm,
    /// The hash, followed by zeros past the algorithm's length.
    hash: [u8; 64],
}

impl Digest {
    /// Creates a digest from `hash`; `None` if the length of `hash` is not the algorithm's.
    #[must_use]
    pub(crate) fn new(algorithm: Algorithm, hash: &[u8]) -> Option<Self> {
        if hash.len() != algorithm.len_bytes() {
            return None;
        }
        let mut full = [0; 64];
        full.get_mut(..hash.len())?.copy_from_slice(hash);
        Some(Digest { algorithm, hash: full })
    }

    /// Creates a SHA-256 digest from its 64 lower-case hexadecimal digits, which docker-archives use in file
    /// names.
    #[must_use]
    pub(crate) fn from_sha256_hex(hex: &str) -> Option<Self> {
        Digest::new(Algorithm::Sha256, &parse_hex(hex)?)
    }

    /// Returns the algorithm.
    #[must_use]
    pub fn algorithm(&self) -> Algorithm {
        self.algorithm
    }

    /// Returns the hash as bytes.
    #[must_use]
    pub fn hash(&self) -> &[u8] {
        &self.hash[..self.algorithm.len_bytes()]
    }

    /// Returns the hash as lower-case hexadecimal digits.
    #[must_use]
    pub fn hex(&self) -> String {
        let nibbles = self.hash().iter().flat_map(|byte| [byte >> 4, byte & 0xf]);
        let mut hex = String::with_capacity(2 * self.hash().len());
        hex.extend(nibbles.filter_map(|nibble| char::from_digit(nibble.into(), 16)));
        hex
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.algorithm.name(), self.hex())
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Digest {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let bad = |reason: &str| Error::malformed(Subject::DigestText(text.to_owned()), reason);
        let (name, hex) = text.split_once(':').ok_or_else(|| bad("':' is missing"))?;
        let algorithm = match name {
            "sha256" => Algorithm::Sha256,
            "sha512" => Algorithm::Sha512,
            "blake3" => Algorithm::Blake3,
            _ => return Err(bad("unknown algorithm (supported: sha256, sha512, blake3)")),
        };
        let hash = parse_hex(hex).ok_or_else(|| bad("not lower-case hexadecimal digits"))?;
        Digest::new(algorithm, &hash).ok_or_else(|| bad("wrong length for the algorithm"))
    }
}

fn parse_hex(hex: &str) -> Option<Vec<u8>> {
    let digit = |c: u8| match c {
        b'0'..=b'9' => Some(c - b'0'),
        b'a'..=b'f' => Some(c - b'a' + 10),
        _ => None,
    };
    // The longest hash has 128 digits.
    if hex.len() > 128 || !hex.len().is_multiple_of(2) {
        return None;
    }
    hex.as_bytes()
        .chunks_exact(2)
        .map(|pair| Some((digit(*pair.first()?)? << 4) | digit(*pair.get(1)?)?))
        .collect()
}

/// A hash computation in progress.
#[derive(Clone)]
pub(crate) enum Hasher {
    /// SHA-256.
    Sha256(sha2::Sha256),
    /// SHA-512.
    Sha512(Box<sha2::Sha512>),
    /// BLAKE3.
    Blake3(Box<blake3::Hasher>),
}

impl fmt::Debug for Hasher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Hasher::Sha256(_) => "Hasher::Sha256",
            Hasher::Sha512(_) => "Hasher::Sha512",
            Hasher::Blake3(_) => "Hasher::Blake3",
        })
    }
}

impl Hasher {
    /// Adds `bytes` to the hashed bytes.
    pub(crate) fn update(&mut self, bytes: &[u8]) {
        match self {
            Hasher::Sha256(hasher) => hasher.update(bytes),
            Hasher::Sha512(hasher) => hasher.update(bytes),
            Hasher::Blake3(hasher) => {
                hasher.update(bytes);
            }
        }
    }

    /// Returns the digest of all bytes that were added.
    #[must_use]
    pub(crate) fn finish(self) -> Digest {
        let mut hash = [0; 64];
        let algorithm = match self {
            Hasher::Sha256(hasher) => {
                hash[..32].copy_from_slice(&hasher.finalize());
                Algorithm::Sha256
            }
            Hasher::Sha512(hasher) => {
                hash.copy_from_slice(&hasher.finalize());
                Algorithm::Sha512
            }
            Hasher::Blake3(hasher) => {
                hash[..32].copy_from_slice(hasher.finalize().as_bytes());
                Algorithm::Blake3
            }
        };
        Digest { algorithm, hash }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ABC: &str = "sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";

    #[test]
    fn a_digest_reads_and_prints_the_same() {
        let digest: Digest = ABC.parse().unwrap();
        assert_eq!(digest.to_string(), ABC);
        assert_eq!(Algorithm::Sha256.digest(b"abc"), digest);
    }

    #[test]
    fn every_algorithm_reads_back_what_it_hashed() {
        for algorithm in [Algorithm::Sha256, Algorithm::Sha512, Algorithm::Blake3] {
            let digest = algorithm.digest(b"imgmount");
            assert_eq!(digest.to_string().parse::<Digest>().unwrap(), digest);
        }
    }

    #[test]
    fn x2_a_digest_that_breaks_the_grammar_is_refused() {
        for text in [
            "sha256",
            "sha256:",
            "sha256:../../etc/passwd",
            "md5:d41d8cd98f00b204e9800998ecf8427e",
            "sha512:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad",
            &ABC.to_uppercase(),
            &format!("{ABC}00"),
        ] {
            assert!(text.parse::<Digest>().is_err(), "{text}");
        }
    }
}
