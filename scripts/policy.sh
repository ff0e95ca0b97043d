#!/usr/bin/env bash
# Checks what the compiler at hand does not: the licences, versions and origins of crates, known
# vulnerabilities, and that the oldest compiler in Cargo.toml builds the program.
# usage: scripts/policy.sh
# A check whose tool is not installed is skipped, with a line that says how to install the tool. With CI=true in the
# environment it fails instead.
set -euo pipefail
cd "$(dirname "$0")/.."

skip() { printf 'policy: SKIPPED %s\n' "$*" >&2; }
# Like skip, but an error where CI is set.
missing() { skip "$*"; [ -z "${CI:-}" ]; }

if cargo deny --version >/dev/null 2>&1; then
    cargo deny --log-level error check licenses bans sources
    # The list of vulnerabilities is a git repository on the net.
    if cargo deny --log-level off fetch db >/dev/null 2>&1; then
        cargo deny --log-level error check advisories
    else
        skip "vulnerabilities: https://github.com/RustSec/advisory-db cannot be fetched"
    fi
else
    missing "crates: cargo-deny is not installed; cargo install --locked cargo-deny"
fi

oldest=$(sed -n 's/^rust-version = "\(.*\)"$/\1/p' Cargo.toml)
if cargo "+$oldest" --version >/dev/null 2>&1; then
    # Apart, so that the two compilers keep what they made.
    cargo "+$oldest" check --locked --all-targets --target-dir target/oldest
else
    missing "Rust $oldest: it is not installed; rustup toolchain install $oldest --profile minimal"
fi
