#!/usr/bin/env bash
# Runs fuzz targets one after the other, and prints a table of executions.
# usage: scripts/fuzz.sh SECONDS SANITIZER [TARGET]...
# The seeds are written to fuzz/seeds first. Inputs that fail are kept in fuzz/artifacts; the exit code is then 1.
set -euo pipefail
cd "$(dirname "$0")/.."
seconds=$1 sanitizer=$2
shift 2
if ! cargo +nightly fuzz --version >/dev/null 2>&1; then
    echo "fuzz: cargo-fuzz or a nightly compiler is missing: rustup toolchain install nightly --profile minimal && cargo install --locked cargo-fuzz" >&2
    exit 1
fi
IMGMOUNT_FUZZ_SEEDS=$PWD/fuzz/seeds cargo test --locked --quiet --lib fuzzing::tests::write_seeds
# Name and largest input of each target.
targets=$(sed -n 's/.*Target { name: "\([a-z_]*\)", max_bytes: \([0-9]*\)\( << 10\)\{0,1\},.*/\1 \2\3/p' src/fuzzing/mod.rs)
printf '%-12s %12s %10s %8s\n' target executions seconds inputs
status=0
while read -r name max_bytes; do
    case " $* " in "  " | *" $name "*) ;; *) continue ;; esac
    mkdir -p "fuzz/corpus/$name" "fuzz/artifacts/$name"
    log=fuzz/artifacts/$name/log
    code=0
    cargo +nightly fuzz run -s "$sanitizer" "$name" "fuzz/corpus/$name" "fuzz/seeds/$name" -- -max_total_time="$seconds" \
        -max_len=$((max_bytes)) -rss_limit_mb=1024 -timeout=10 -print_final_stats=1 >"$log" 2>&1 || code=$?
    executions=$(sed -n 's/^stat::number_of_executed_units: *//p' "$log" | tail -1)
    taken=$(sed -n 's/^Done [0-9]* runs in \([0-9]*\) second.*/\1/p' "$log")
    printf '%-12s %12s %10s %8s\n' "$name" "${executions:-0}" "${taken:--}" "$(find "fuzz/corpus/$name" -type f | wc -l)"
    if [ "$code" != 0 ]; then
        status=1
        echo "fuzz: $name failed, see $log" >&2
    fi
done <<<"$targets"
exit $status
