//! Makes synthetic images, and OCI layouts in general: streamed to disk, with the same bytes every
//! time. This module must not know what is measured, so that the integration tests can use it.

pub(crate) mod data;
pub(crate) mod layout;
pub(crate) mod random;
mod synthetic;

pub(crate) use synthetic::{dense_file, layered_files, many_files, sparse_file};
