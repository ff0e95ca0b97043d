//! The FUSE view.
