//! A tar stream as a state machine: bytes in, entries out, no I/O.
