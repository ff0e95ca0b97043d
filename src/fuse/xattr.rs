//! Extended attributes as the kernel requests them: those of the image, and the provenance of a file.
//!
//! Three attributes give the provenance of every file and directory. They can be read by name and are not
//! listed, so copying a tree does not copy them. They hide attributes of the image with the same names, so an
//! image cannot forge them. This module owns these names and the rules for sizes. It does not know trees.

use fuser::Errno;

use crate::layer::entry::Xattrs;
use crate::load::LayerInfo;

/// Number of the layer, from 0, in decimal digits.
const LAYER: &[u8] = b"user.imgmount.layer";
/// `diff_id` of the layer.
const DIFF_ID: &[u8] = b"user.imgmount.diff_id";
/// Command that made the layer; missing if the image does not name it.
const CREATED_BY: &[u8] = b"user.imgmount.created_by";

/// Maximum length of a value in Linux, in bytes: `XATTR_SIZE_MAX` in include/uapi/linux/limits.h.
const VALUE_MAX_BYTES: usize = 65536;

/// The answer to a request for a value or a list.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Answer {
    /// The length only, as requested.
    Length(u32),
    /// The value or list.
    Bytes(Vec<u8>),
}

/// The provenance of an inode.
pub(super) struct Provenance<'a> {
    /// Number of the inode's layer.
    pub(super) number: u16,
    /// The layer's facts, if known.
    pub(super) layer: Option<&'a LayerInfo>,
}

/// Returns the value of the attribute `name`, cut to the maximum length; `None` if there is no such
/// attribute.
pub(super) fn value(name: &[u8], own: Xattrs<'_>, provenance: &Provenance<'_>) -> Option<Vec<u8>> {
    let mut value = match name {
        LAYER => provenance.number.to_string().into_bytes(),
        DIFF_ID => provenance.layer?.diff_id?.to_string().into_bytes(),
        CREATED_BY => provenance.layer?.created_by.clone()?.into_bytes(),
        _ => return own.get(name).map(<[u8]>::to_vec),
    };
    value.truncate(VALUE_MAX_BYTES);
    Some(value)
}

/// Returns the names of an image's own attributes, each terminated by a NUL: listxattr(2). Names that are
/// empty or contain a NUL cannot be represented and are left out.
pub(super) fn list(own: Xattrs<'_>) -> Vec<u8> {
    let mut names = Vec::new();
    for (name, _) in own.iter().filter(|(name, _)| !name.is_empty() && !name.contains(&0)) {
        names.extend_from_slice(name);
        names.push(0);
    }
    names
}

/// Returns the answer for a caller with a buffer of `room` bytes; 0 requests the length only.
///
/// # Errors
/// `ERANGE` when the answer does not fit, `E2BIG` when its length exceeds 32 bits.
pub(super) fn answer(bytes: Vec<u8>, room: u32) -> Result<Answer, Errno> {
    let length = u32::try_from(bytes.len()).map_err(|_| Errno::E2BIG)?;
    match room {
        0 => Ok(Answer::Length(length)),
        room if room < length => Err(Errno::ERANGE),
        _ => Ok(Answer::Bytes(bytes)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compress::Compression;
    use crate::digest::Algorithm;
    use crate::image::LayerOrigin;

    fn packed(xattrs: &[(&[u8], &[u8])]) -> Vec<u8> {
        let mut packed = Vec::new();
        for (name, value) in xattrs {
            assert!(Xattrs::pack(&mut packed, name, value));
        }
        packed
    }

    fn layer(created_by: Option<&str>) -> LayerInfo {
        LayerInfo {
            diff_id: Some(Algorithm::Sha256.digest(b"layer")),
            origin: LayerOrigin::Image,
            digest: None,
            media_type: None,
            created_by: created_by.map(str::to_owned),
            compression: Compression::Plain,
            blob_bytes: 0,
            tar_bytes: 0,
            entries: 0,
        }
    }

    #[test]
    fn provenance_answers_by_name() {
        let layer = layer(Some("RUN make"));
        let provenance = Provenance { number: 12, layer: Some(&layer) };
        let text =
            |name: &[u8]| value(name, Xattrs::default(), &provenance).map(|v| String::from_utf8(v).unwrap());
        assert_eq!(text(LAYER).as_deref(), Some("12"));
        assert_eq!(text(DIFF_ID), layer.diff_id.map(|digest| digest.to_string()));
        assert_eq!(text(CREATED_BY).as_deref(), Some("RUN make"));
    }

    #[test]
    fn a_layer_without_history_has_no_command() {
        let layer = layer(None);
        let provenance = Provenance { number: 0, layer: Some(&layer) };
        assert_eq!(value(CREATED_BY, Xattrs::default(), &provenance), None);
    }

    #[test]
    fn an_image_cannot_forge_provenance() {
        let packed = packed(&[(LAYER, b"999")]);
        let provenance = Provenance { number: 1, layer: None };
        assert_eq!(value(LAYER, Xattrs::from_packed(&packed), &provenance), Some(b"1".to_vec()));
    }

    #[test]
    fn m9_own_attributes_are_listed_and_provenance_is_not() {
        let packed = packed(&[(b"user.a", b"1\n2\0"), (b"security.capability", b"\x01")]);
        assert_eq!(list(Xattrs::from_packed(&packed)), b"user.a\0security.capability\0");
    }

    #[test]
    fn a_name_with_a_nul_is_not_listed() {
        let packed = packed(&[(b"user.a\0user.b", b"1"), (b"", b"2"), (b"user.c", b"3")]);
        assert_eq!(list(Xattrs::from_packed(&packed)), b"user.c\0");
    }

    #[test]
    fn an_answer_fits_the_callers_room() {
        let bytes = || b"12345".to_vec();
        assert_eq!(answer(bytes(), 0), Ok(Answer::Length(5)));
        assert_eq!(answer(bytes(), 5), Ok(Answer::Bytes(bytes())));
        assert_eq!(answer(bytes(), 4).map_err(|errno| errno.code()), Err(libc::ERANGE));
    }
}
