//! The public API: sources, selected images, loaded images, and the comparison of two images.
//!
//! This module owns the names and signatures of the public types, and converts layer numbers to positions in
//! the image. It makes no other decision: every method calls the module that does the work.

mod image;
mod source;
#[cfg(test)]
mod tests;

pub use self::image::{Image, diff};
pub use self::source::{SelectedImage, Source};
