//! Compressed streams that can be entered again in the middle.
//!
//! This module owns checkpoint spacing, the choice of decoder and what a decoder must remember to
//! go on somewhere. It knows nothing of tar, of digests or of where its bytes come from.
