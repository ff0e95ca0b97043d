//! Bytes of a regular file.
