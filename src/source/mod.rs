//! Where an image is kept.
pub mod reference;
