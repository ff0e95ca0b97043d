//! Entries of an image list that are not images: signatures, attestations, other artifacts.
//!
//! This module owns the marks that cosign leaves in a list. What a manifest itself tells is for
//! [`crate::image::manifest::Manifest::artifact`].

use super::names::Names;
use crate::image::manifest::Descriptor;

/// Suffixes of the tags that cosign makes of an image's digest (`sha256-<hex>.sig`), and what they
/// mark. ImageSource: cosign, specs/SIGNATURE_SPEC.md and `cosign triangulate --type`.
const TAGS: [(&str, &str); 3] = [
    (".sig", "a cosign signature"),
    (".att", "a cosign attestation"),
    (".sbom", "an SBOM attached by cosign"),
];

/// The annotation by which `cosign save` tells the entries of a layout apart, and its values. Source:
/// cosign, pkg/oci/layout/index.go.
const KIND: &str = "kind";
const KINDS: [(&str, &str); 2] = [
    ("dev.cosignproject.cosign/sigs", "a cosign signature"),
    ("dev.cosignproject.cosign/atts", "a cosign attestation"),
];

/// Returns what cosign put into the list as `entry`, unless it is an image; with its article.
pub(super) fn of_cosign(entry: &Descriptor, names: &Names) -> Option<&'static str> {
    let kind = entry.annotations.get(KIND);
    let by_kind = || KINDS.iter().find(|(value, _)| kind.is_some_and(|kind| kind == value));
    let is_tag = |name: &str, suffix: &str| name.strip_suffix(suffix).is_some_and(ends_with_digest);
    let all = || names.full.iter().chain(&names.reference);
    let by_tag = || TAGS.iter().find(|(suffix, _)| all().any(|name| is_tag(name, suffix)));
    by_kind().or_else(by_tag).map(|(_, what)| *what)
}

/// True for `sha256-` and 64 hexadecimal digits, with anything before: a name, or the prefix that
/// cosign can be told to write.
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
