//! Where an image is kept.
