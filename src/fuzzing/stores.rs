//! Stores of engines, registries and running engines; [`crate::source::fuzzing`] has the targets.

use super::input::split;
use super::mutate::{self, Mutation, Plain, Random};
use crate::source::fuzzing as source;

pub(super) fn bolt(data: &[u8]) {
    source::bolt(data);
}

pub(super) fn tar_split(data: &[u8]) {
    source::tar_split(data);
}

/// Parts: the transport, then names and contents of files.
pub(super) fn run(data: &[u8]) {
    source::stores(&split(data));
}

/// Parts: the question, then answers.
#[cfg(feature = "registry")]
pub(super) fn registry(data: &[u8]) {
    source::registry::run(&split(data));
}

/// Parts: the question, then answers.
pub(super) fn daemon(data: &[u8]) {
    source::daemon::run(&split(data));
}

/// Changes a file, which is JSON in most cases.
pub(super) fn mutation(data: &mut Vec<u8>, random: &mut Random, plain: &mut Plain<'_>) {
    mutate::parts(data, random, plain, |at| if at == 0 { mutate::bytes as Mutation } else { mutate::json });
}

pub(super) fn plain_parts(data: &mut Vec<u8>, random: &mut Random, plain: &mut Plain<'_>) {
    mutate::parts(data, random, plain, |_| -> Mutation { mutate::bytes });
}
