//! Entries of an image list that are not images: signatures, attestations and other artifacts.
//!
//! This module owns the marks that cosign leaves in a list. The marks in a manifest are known to
//! [`crate::image::manifest::Manifest::artifact`].

use super::names::Names;
use crate::image::manifest::Descriptor;

/// Suffixes of the tags that cosign derives from an image's digest (`sha256-<hex>.sig`), and what they mark.
/// Source: cosign, specs/SIGNATURE_SPEC.md and `cosign triangulate --type`.
const TAGS: [(&str, &str); 3] = [
    (".sig", "a cosign signature"),
    (".att", "a cosign attestation"),
    (".sbom", "an SBOM attached by cosign"),
];

/// The annotation with which `cosign save` marks the kind of each entry of a layout, and its values. Source:
/// cosign, pkg/oci/layout/index.go.
const KIND: &str = "kind";
const KINDS: [(&str, &str); 2] = [
    ("dev.cosignproject.cosign/sigs", "a cosign signature"),
    ("dev.cosignproject.cosign/atts", "a cosign attestation"),
];

/// Returns the kind of artifact that cosign stored as `entry`, with its article; `None` for an image.
pub(super) fn of_cosign(entry: &Descriptor, names: &Names) -> Option<&'static str> {
    let kind = entry.annotations.get(KIND);
    let by_kind = || KINDS.iter().find(|(value, _)| kind.is_some_and(|kind| kind == value));
    let is_tag = |name: &str, suffix: &str| name.strip_suffix(suffix).is_some_and(ends_with_digest);
    let all = || names.full.iter().chain(&names.reference);
    let by_tag = || TAGS.iter().find(|(suffix, _)| all().any(|name| is_tag(name, suffix)));
    by_kind().or_else(by_tag).map(|(_, what)| *what)
}

/// Returns true for text that ends with `sha256-` and 64 hexadecimal digits. The text before may be an image
/// name, or a prefix that the user of cosign chose.
fn ends_with_digest(text: &str) -> bool {
    let Some((_, hex)) = text.rsplit_once("sha256-") else { return false };
    hex.len() == 64 && hex.bytes().all(|byte| byte.is_ascii_digit() || matches!(byte, b'a'..=b'f'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn f17_cosigns_tags_are_known_by_digest_and_suffix() {
        let hex = "0".repeat(64);
        for (tag, known) in [
            (format!("sha256-{hex}.sig"), true),
            (format!("ghcr.io/o/app:sha256-{hex}.att"), true),
            (format!("ours-sha256-{hex}.sbom"), true),
            (format!("sha256-{hex}"), false),
            (format!("sha256-{hex}.txt"), false),
            (format!("sha256-{}.sig", "0".repeat(63)), false),
            ("app.sig".to_owned(), false),
        ] {
            let is_tag =
                TAGS.iter().any(|(suffix, _)| tag.strip_suffix(suffix).is_some_and(ends_with_digest));
            assert_eq!(is_tag, known, "{tag}");
        }
    }
}
