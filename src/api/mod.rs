//! What a program uses: sources, selected images, loaded images, and the comparison of two.
//!
//! This module owns the names and the shape of the public face, and numbers layers by their position in the
//! image. It decides nothing else: every method hands on to the module that does the work.

mod image;
mod source;
#[cfg(test)]
mod tests;

pub use self::image::{Image, diff};
pub use self::source::{SelectedImage, Source};
