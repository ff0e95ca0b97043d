//! An image, loaded.
