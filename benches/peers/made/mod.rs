//! Images that are made up, and OCI layouts in general: streamed to disk, the same bytes every time. Nothing here
//! knows what is measured, so that the integration tests can look at what is made.

pub(crate) mod data;
pub(crate) mod layout;
pub(crate) mod random;
mod synthetic;

pub(crate) use synthetic::{dense_file, layered_files, many_files, sparse_file};
