//! The layer index on disk.
