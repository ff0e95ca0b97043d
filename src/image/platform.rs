//! Platforms: their text form, and which image runs on which machine.
//!
//! This module owns the choice among the images of an image index. It follows containerd's `platforms`
//! package (normalisation, aliases, and which older architectures a newer machine runs), so the image that is
//! chosen is the one that an engine would run.

use std::fmt;
use std::str::FromStr;

use crate::error::{Error, Result};
use crate::path::escape;

/// An operating system and an architecture, with aliases and defaults resolved.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct Platform {
    /// Operating system as Go names it: `linux`.
    pub os: String,
    /// Architecture as Go names it: `amd64`.
    pub architecture: String,
    /// Version of the architecture, for example `v7`; empty for the default version. `arm` always has a
    /// version.
    pub variant: String,
}

impl Platform {
    /// Creates a platform from its parts. `variant` may be empty.
    #[must_use]
    pub fn new(os: &str, architecture: &str, variant: &str) -> Self {
        let os = match os.to_lowercase() {
            os if os == "macos" => "darwin".to_owned(),
            os => os,
        };
        let (architecture, variant) = normalise(&architecture.to_lowercase(), &variant.to_lowercase());
        Platform { os, architecture, variant }
    }

    /// Returns the platform of this machine. The operating system is `linux`, because images are Linux images
    /// unless another platform is requested.
    #[must_use]
    pub fn host() -> Self {
        Platform::new("linux", host_architecture(std::env::consts::ARCH), "")
    }

    /// Returns how well a machine of this platform runs an image for `image`: 0 is best, `None` means not at
    /// all.
    #[must_use]
    pub(crate) fn rank(&self, image: &Platform) -> Option<usize> {
        if self.os != image.os {
            return None;
        }
        runnable(&self.architecture, &self.variant).iter().position(|(architecture, variant)| {
            *architecture == image.architecture && *variant == image.variant
        })
    }

    /// Returns true for `unknown/unknown`, which BuildKit gives to attestations (F15).
    #[must_use]
    pub(crate) fn is_unknown(&self) -> bool {
        self.os == "unknown" && self.architecture == "unknown"
    }
}

impl fmt::Display for Platform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // X19: the text of an image must not control a terminal.
        let [os, architecture, variant] =
            [&self.os, &self.architecture, &self.variant].map(|text| escape(text.as_bytes()));
        write!(f, "{os}/{architecture}")?;
        if variant.is_empty() {
            return Ok(());
        }
        write!(f, "/{variant}")
    }
}

impl FromStr for Platform {
    type Err = Error;

    /// Parses `os/arch[/variant]`.
    fn from_str(text: &str) -> Result<Self> {
        let bad = || Error::Reference {
            text: text.to_owned(),
            reason: "not a platform; use os/arch[/variant], as in linux/arm64".to_owned(),
        };
        let word = |part: &str| {
            !part.is_empty()
                && part.bytes().all(|c| c.is_ascii_alphanumeric() || matches!(c, b'_' | b'-' | b'.'))
        };
        let parts: Vec<&str> = text.split('/').collect();
        if !parts.iter().all(|part| word(part)) {
            return Err(bad());
        }
        match parts.as_slice() {
            [os, architecture] => Ok(Platform::new(os, architecture, "")),
            [os, architecture, variant] => Ok(Platform::new(os, architecture, variant)),
            _ => Err(bad()),
        }
    }
}

/// Returns the position of the best of `candidates` for `wanted`; the first one if several are equal.
#[must_use]
pub(crate) fn choose(wanted: &Platform, candidates: &[Option<Platform>]) -> Option<usize> {
    candidates
        .iter()
        .enumerate()
        .filter_map(|(at, candidate)| Some((wanted.rank(candidate.as_ref()?)?, at)))
        .min()
        .map(|(_, at)| at)
}

/// Resolves aliases and defaults. Source: containerd `platforms/database.go`, normalizeArch.
fn normalise(architecture: &str, variant: &str) -> (String, String) {
    let (architecture, variant) = match (architecture, variant) {
        ("i386" | "i486" | "i586" | "i686" | "x86", _) => ("386", ""),
        ("x86_64" | "x86-64" | "amd64", "" | "v1") => ("amd64", ""),
        ("x86_64" | "x86-64", variant) => ("amd64", variant),
        ("aarch64" | "arm64", "" | "8" | "v8") => ("arm64", ""),
        ("aarch64", variant) => ("arm64", variant),
        ("armhf", _) => ("arm", "v7"),
        ("armel", _) => ("arm", "v6"),
        ("arm", "" | "7") => ("arm", "v7"),
        ("arm", "5") => ("arm", "v5"),
        ("arm", "6") => ("arm", "v6"),
        ("arm", "8") => ("arm", "v8"),
        other => other,
    };
    (architecture.to_owned(), variant.to_owned())
}

/// Returns the architectures that a machine runs, best first. Source: containerd `platforms/compare.go`,
/// platformVector.
fn runnable(architecture: &str, variant: &str) -> Vec<(String, String)> {
    let version = |variant: &str| variant.trim_start_matches('v').parse::<u8>().ok();
    let down = |architecture: &str, from: u8, to: u8| -> Vec<(String, String)> {
        (to..=from)
            .rev()
            .map(|version| Platform::new("", architecture, &format!("v{version}")))
            .map(|platform| (platform.architecture, platform.variant))
            .collect()
    };
    let mut vector = vec![(architecture.to_owned(), variant.to_owned())];
    match architecture {
        "amd64" => {
            if let Some(version) = version(variant).filter(|version| *version > 1) {
                vector.extend(down("amd64", version - 1, 1));
            }
            vector.push(("386".to_owned(), String::new()));
        }
        "arm" => {
            if let Some(version) = version(variant).filter(|version| *version > 5) {
                vector.extend(down("arm", version - 1, 5));
            }
        }
        "arm64" => {
            if !variant.is_empty() {
                vector.push(("arm64".to_owned(), String::new()));
            }
            vector.extend(down("arm", 8, 5));
        }
        _ => {}
    }
    vector
}

/// Returns Go's name for the architecture that Rust calls `rust_name`.
fn host_architecture(rust_name: &str) -> &str {
    match rust_name {
        "x86_64" => "amd64",
        "x86" => "386",
        "aarch64" => "arm64",
        "powerpc64" if cfg!(target_endian = "little") => "ppc64le",
        "powerpc64" => "ppc64",
        "loongarch64" => "loong64",
        "mips64" if cfg!(target_endian = "little") => "mips64le",
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn platform(text: &str) -> Platform {
        text.parse().unwrap()
    }

    #[test]
    fn f14_aliases_and_default_variants() {
        for (text, normal) in [
            ("linux/amd64", "linux/amd64"),
            ("Linux/x86_64", "linux/amd64"),
            ("linux/x86-64/v1", "linux/amd64"),
            ("linux/x86_64/v3", "linux/amd64/v3"),
            ("linux/aarch64", "linux/arm64"),
            ("linux/arm64/v8", "linux/arm64"),
            ("linux/arm64/8", "linux/arm64"),
            ("linux/arm", "linux/arm/v7"),
            ("linux/arm/6", "linux/arm/v6"),
            ("linux/armhf", "linux/arm/v7"),
            ("linux/armel", "linux/arm/v6"),
            ("linux/i386", "linux/386"),
            ("macos/arm64", "darwin/arm64"),
        ] {
            assert_eq!(platform(text).to_string(), normal, "{text}");
        }
    }

    #[test]
    fn f14_the_best_that_runs_is_chosen() {
        for (wanted, there, chosen) in [
            ("linux/amd64", "linux/386 linux/amd64", Some(1)),
            ("linux/amd64", "linux/arm64 linux/386", Some(1)),
            ("linux/amd64", "linux/amd64/v2 windows/amd64", None),
            ("linux/amd64/v3", "linux/amd64 linux/amd64/v2 linux/amd64/v4", Some(1)),
            ("linux/arm64", "linux/arm/v5 linux/arm/v7 linux/arm/v6", Some(1)),
            ("linux/arm64", "linux/arm/v8 linux/arm64/v8", Some(1)),
            ("linux/arm/v7", "linux/arm/v5 linux/arm/v6 linux/arm64", Some(1)),
            ("linux/arm/v6", "linux/arm/v7", None),
            ("linux/arm/v5", "linux/arm/v5", Some(0)),
            ("linux/s390x", "linux/s390x linux/s390x", Some(0)),
            ("linux/386", "linux/amd64", None),
        ] {
            let candidates: Vec<_> = there.split(' ').map(|text| Some(platform(text))).collect();
            assert_eq!(choose(&platform(wanted), &candidates), chosen, "{wanted} of {there}");
        }
    }

    #[test]
    fn f14_what_is_no_platform_is_refused() {
        for text in ["", "linux", "linux/", "/amd64", "linux/arm/v7/x", "linux/a b"] {
            assert!(text.parse::<Platform>().is_err(), "{text}");
        }
    }

    #[test]
    fn f14_the_host_has_a_name_that_images_use() {
        assert_eq!(host_architecture("x86_64"), "amd64");
        assert_eq!(host_architecture("aarch64"), "arm64");
        assert_eq!(host_architecture("riscv64"), "riscv64");
    }

    #[test]
    fn x19_the_text_of_a_platform_cannot_control_a_terminal() {
        let platform =
            Platform { os: "li\u{1b}[2Jnux".into(), architecture: "a\nb".into(), variant: "\u{202e}".into() };
        assert_eq!(platform.to_string(), r"li\x1b[2Jnux/a\x0ab/\xe2\x80\xae");
    }
}
