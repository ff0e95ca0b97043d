//! Names as tar archives write them, cleaned into components: bytes, never `String`.
