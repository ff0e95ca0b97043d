//! What a file in the directory of an overlay layer means: a file, a whiteout, or a mark that only the
//! overlay understands.
//!
//! This module owns the form in which each driver stores whiteouts and opaque directories, and which of its
//! attributes it refuses. It is pure. Each form honours only the marks of its own driver: an image or a
//! container can contain the marks of another driver as plain files and attributes.
//! Sources: Linux, Documentation/filesystems/overlayfs.rst, "whiteouts and opaque directories", "renaming
//! directories", "Metadata only copy up" and "Nesting overlayfs mounts"; fs/overlayfs/namei.c,
//! ovl_lookup_single; fuse-overlayfs 1.10, main.c and utils.c.

use crate::layer::entry::{DeviceNumber, Xattrs};

/// The form in which a directory stores a layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::source) enum DirectoryForm {
    /// A plain tree without marks.
    Plain,
    /// A layer of the kernel's overlay: whiteouts are character devices 0/0, and attributes begin with
    /// `trusted.overlay.`.
    Overlay,
    /// A layer of the kernel's overlay with the option `userxattr`, which user namespaces need: attributes
    /// begin with `user.overlay.`.
    UserOverlay,
    /// A layer of fuse-overlayfs: whiteouts are devices or `.wh.` files, and attributes have five prefixes.
    FuseOverlay,
}

/// Prefix of the names that mark a whiteout in a layer's tar.
pub(super) const WHITEOUT_PREFIX: &[u8] = b".wh.";
/// Name that marks an opaque directory in a layer's tar.
pub(super) const OPAQUE_NAME: &[u8] = b".wh..wh..opq";

/// Attributes of overlay that have no effect on the tree. `overlay` is the prefix of escaped attributes of an
/// overlay inside the overlay.
const WITHOUT_EFFECT: [&[u8]; 7] =
    [b"origin", b"impure", b"nlink", b"upper", b"uuid", b"protattr", b"override_stat"];

/// The type of a file, as far as marks depend on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum MarkedType {
    /// A regular file of this many bytes.
    File(u64),
    Directory,
    Char(DeviceNumber),
    Other,
}

/// The marks of a directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct DirectoryMarks {
    /// Nothing of lower layers shows in the directory.
    pub(super) opaque: bool,
    /// Empty files with the attribute `whiteout` are whiteouts.
    pub(super) whiteout_files: bool,
}

/// What a file means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Meaning {
    /// The file itself.
    Itself,
    /// The name is deleted from lower layers.
    Whiteout,
    /// A mark that the tar has already, or that has no effect.
    Nothing,
    /// A file whose name or type would mark a whiteout in a tar. It cannot be shown.
    CannotShow,
}

/// An attribute that is not supported.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Refused {
    /// Name of the attribute, as bytes.
    pub(super) attribute: Vec<u8>,
    /// What the attribute does.
    pub(super) reason: &'static str,
}

impl DirectoryForm {
    /// Returns the prefixes of the driver's own attributes.
    fn prefixes(self) -> &'static [&'static [u8]] {
        match self {
            DirectoryForm::Plain => &[],
            DirectoryForm::Overlay => &[b"trusted.overlay."],
            DirectoryForm::UserOverlay => &[b"user.overlay."],
            DirectoryForm::FuseOverlay => &[
                b"user.fuseoverlayfs.",
                b"trusted.fuseoverlayfs.",
                b"security.fuseoverlayfs.",
                b"user.overlay.",
                b"trusted.overlay.",
            ],
        }
    }

    /// Returns the driver's own name of an attribute, without its prefix; `None` if the attribute belongs to
    /// the file.
    pub(super) fn own(self, attribute: &[u8]) -> Option<&[u8]> {
        self.prefixes().iter().find_map(|prefix| attribute.strip_prefix(*prefix))
    }

    /// Returns the driver's own attributes in `xattrs`: name without prefix, value, and full name.
    fn owned<'a>(self, xattrs: Xattrs<'a>) -> impl Iterator<Item = (&'a [u8], &'a [u8], &'a [u8])> {
        xattrs.iter().filter_map(move |(full, value)| Some((self.own(full)?, value, full)))
    }
}

/// Returns the marks of a directory with these attributes.
///
/// # Errors
/// [`Refused`] for `redirect` and for attributes that are not known.
pub(super) fn directory_marks(form: DirectoryForm, xattrs: Xattrs<'_>) -> Result<DirectoryMarks, Refused> {
    let mut marks = DirectoryMarks::default();
    for (name, value, full) in form.owned(xattrs) {
        match (name, value) {
            (b"opaque", b"y") => marks.opaque = true,
            (b"opaque", b"x") => marks.whiteout_files = true,
            // The kernel compares values, and looks for `metacopy` and `whiteout` on files only.
            (b"opaque" | b"metacopy" | b"whiteout", _) => {}
            (b"redirect", _) => return Err(refused(full, "the directory was renamed by redirect_dir")),
            _ => check_known(name, full)?,
        }
    }
    Ok(marks)
}

/// Returns what a file means that is called `name` in a directory with the marks `directory`.
///
/// # Errors
/// [`Refused`] for `metacopy` and for attributes that are not known.
pub(super) fn meaning(
    form: DirectoryForm,
    directory: DirectoryMarks,
    name: &[u8],
    kind: MarkedType,
    xattrs: Xattrs<'_>,
) -> Result<Meaning, Refused> {
    let is_device = kind == MarkedType::Char(DeviceNumber::default());
    if is_device && form == DirectoryForm::Plain {
        return Ok(Meaning::CannotShow);
    }
    let is_marked_file = kind == MarkedType::File(0)
        && directory.whiteout_files
        && form.owned(xattrs).any(|(own, ..)| own == b"whiteout");
    if is_device || is_marked_file {
        // A layer has no names that begin with `.wh.`, so none of them can be deleted.
        let is_mark = name.starts_with(WHITEOUT_PREFIX);
        return Ok(if is_mark { Meaning::Nothing } else { Meaning::Whiteout });
    }
    if name.starts_with(WHITEOUT_PREFIX) {
        return Ok(match (form, kind) {
            (DirectoryForm::FuseOverlay, MarkedType::File(_)) if name == OPAQUE_NAME && directory.opaque => {
                Meaning::Nothing
            }
            (DirectoryForm::FuseOverlay, MarkedType::File(_)) => Meaning::Itself,
            _ => Meaning::CannotShow,
        });
    }
    if kind == MarkedType::Directory {
        // The marks of a directory are read when it is entered.
        return Ok(Meaning::Itself);
    }
    for (own, _, full) in form.owned(xattrs) {
        match own {
            b"metacopy" if matches!(kind, MarkedType::File(_)) => {
                return Err(refused(
                    full,
                    "the file has only metadata, and its contents are in a lower layer",
                ));
            }
            // The kernel looks for `redirect` on files only beside `metacopy`.
            b"metacopy" | b"redirect" | b"opaque" | b"whiteout" => {}
            _ => check_known(own, full)?,
        }
    }
    Ok(Meaning::Itself)
}

/// Checks that an attribute is one that has no effect on the tree.
fn check_known(own: &[u8], full: &[u8]) -> Result<(), Refused> {
    if WITHOUT_EFFECT.contains(&own) || own.starts_with(b"overlay.") {
        return Ok(());
    }
    Err(refused(full, "the attribute is not known, and may change the tree"))
}

fn refused(attribute: &[u8], reason: &'static str) -> Refused {
    Refused { attribute: attribute.to_vec(), reason }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WHITEOUT: MarkedType = MarkedType::Char(DeviceNumber { major: 0, minor: 0 });
    const FORMS: [DirectoryForm; 4] = [
        DirectoryForm::Plain,
        DirectoryForm::Overlay,
        DirectoryForm::UserOverlay,
        DirectoryForm::FuseOverlay,
    ];

    fn packed(xattrs: &[(&str, &str)]) -> Vec<u8> {
        let mut packed = Vec::new();
        for (name, value) in xattrs {
            Xattrs::pack(&mut packed, name.as_bytes(), value.as_bytes());
        }
        packed
    }

    /// Returns the meaning of a file in a directory without marks, in each form of `FORMS`.
    fn meanings(name: &str, kind: MarkedType, xattrs: &[(&str, &str)]) -> [Result<Meaning, String>; 4] {
        let packed = packed(xattrs);
        FORMS.map(|form| {
            let marks = DirectoryMarks::default();
            meaning(form, marks, name.as_bytes(), kind, Xattrs::from_packed(&packed))
                .map_err(|refused| String::from_utf8(refused.attribute).unwrap())
        })
    }

    /// Returns the marks of a directory in each form of `FORMS`: `y`, `x`, or nothing; an attribute if it is
    /// refused.
    fn directories(xattrs: &[(&str, &str)]) -> [String; 4] {
        let packed = packed(xattrs);
        FORMS.map(|form| match directory_marks(form, Xattrs::from_packed(&packed)) {
            Ok(DirectoryMarks { opaque: true, .. }) => "y".to_owned(),
            Ok(DirectoryMarks { whiteout_files: true, .. }) => "x".to_owned(),
            Ok(_) => String::new(),
            Err(refused) => String::from_utf8(refused.attribute).unwrap(),
        })
    }

    #[test]
    fn f45_a_device_0_0_is_a_whiteout_in_every_overlay() {
        use Meaning::{CannotShow, Itself, Whiteout};
        let expected = [Ok(CannotShow), Ok(Whiteout), Ok(Whiteout), Ok(Whiteout)];
        assert_eq!(meanings("a", WHITEOUT, &[]), expected);
        let null = MarkedType::Char(DeviceNumber { major: 1, minor: 3 });
        assert_eq!(meanings("null", null, &[]), [const { Ok(Itself) }; 4]);
    }

    #[test]
    fn f45_a_name_of_a_mark_is_a_mark_only_for_fuse_overlayfs() {
        use Meaning::{CannotShow, Itself, Nothing};
        let file = MarkedType::File(0);
        let expected = [Ok(CannotShow), Ok(CannotShow), Ok(CannotShow), Ok(Itself)];
        assert_eq!(meanings(".wh.a", file, &[]), expected);
        assert_eq!(meanings(".wh..wh..opq", file, &[]), expected);
        assert_eq!(meanings(".wh.a", MarkedType::Directory, &[]), [const { Ok(CannotShow) }; 4]);
        // fuse-overlayfs leaves a device `.wh..opq` in an opaque directory.
        assert_eq!(
            meanings(".wh..opq", WHITEOUT, &[]),
            [Ok(CannotShow), Ok(Nothing), Ok(Nothing), Ok(Nothing)]
        );
        let opaque = DirectoryMarks { opaque: true, whiteout_files: false };
        let repeated = meaning(DirectoryForm::FuseOverlay, opaque, OPAQUE_NAME, file, Xattrs::default());
        assert_eq!(repeated, Ok(Nothing));
    }

    #[test]
    fn f45_each_form_honours_only_the_attributes_of_its_own_driver() {
        assert_eq!(directories(&[("trusted.overlay.opaque", "y")]), ["", "y", "", "y"]);
        assert_eq!(directories(&[("user.overlay.opaque", "y")]), ["", "", "y", "y"]);
        assert_eq!(directories(&[("user.fuseoverlayfs.opaque", "y")]), ["", "", "", "y"]);
        assert_eq!(directories(&[("trusted.overlay.opaque", "x")]), ["", "x", "", "x"]);
        for other in ["n", "", "yy"] {
            assert_eq!(directories(&[("trusted.overlay.opaque", other)]), ["", "", "", ""]);
        }
    }

    #[test]
    fn f45_an_empty_file_with_an_attribute_is_a_whiteout_where_its_directory_says_so() {
        let packed = packed(&[("user.overlay.whiteout", "")]);
        let meaning = |form, whiteout_files, size| {
            let marks = DirectoryMarks { opaque: false, whiteout_files };
            meaning(form, marks, b"a", MarkedType::File(size), Xattrs::from_packed(&packed)).unwrap()
        };
        assert_eq!(meaning(DirectoryForm::UserOverlay, true, 0), Meaning::Whiteout);
        assert_eq!(meaning(DirectoryForm::UserOverlay, true, 1), Meaning::Itself);
        assert_eq!(meaning(DirectoryForm::UserOverlay, false, 0), Meaning::Itself);
        assert_eq!(meaning(DirectoryForm::Overlay, true, 0), Meaning::Itself);
    }

    #[test]
    fn f45_redirect_metacopy_and_unknown_attributes_are_refused_where_they_have_an_effect() {
        use Meaning::Itself;
        let redirect = "trusted.overlay.redirect";
        assert_eq!(directories(&[(redirect, "/old")]), ["", redirect, "", redirect]);
        assert_eq!(meanings("a", MarkedType::File(1), &[(redirect, "/old")]), [const { Ok(Itself) }; 4]);
        let metacopy = "user.overlay.metacopy";
        let refused = || Err(metacopy.to_owned());
        let expected = [Ok(Itself), Ok(Itself), refused(), refused()];
        assert_eq!(meanings("a", MarkedType::File(1), &[(metacopy, "")]), expected);
        assert_eq!(directories(&[(metacopy, "")]), ["", "", "", ""]);
        let unknown = "trusted.overlay.shadow";
        assert_eq!(directories(&[(unknown, "")]), ["", unknown, "", unknown]);
    }

    #[test]
    fn f45_attributes_without_effect_are_left_out() {
        for own in ["origin", "impure", "nlink", "upper", "uuid", "protattr", "overlay.opaque"] {
            let full = format!("trusted.overlay.{own}");
            assert_eq!(directories(&[(&full, "y")]), ["", "", "", ""], "{own}");
            let files = meanings("a", MarkedType::File(1), &[(&full, "y")]);
            assert_eq!(files, [const { Ok(Meaning::Itself) }; 4], "{own}");
            assert_eq!(DirectoryForm::Overlay.own(full.as_bytes()), Some(own.as_bytes()));
            assert_eq!(DirectoryForm::UserOverlay.own(full.as_bytes()), None);
        }
    }
}
