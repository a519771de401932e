#!/bin/sh
# Fuzzes each target for some seconds, one after the other, and says what came of it:
#
#     fuzz/run.sh [SECONDS [TARGET ...]]
#
# What is found on the way, inputs that reach something new and those that fail, is kept in
# target/fuzz, and what is kept there is where the next run goes on.
set -eu
cd "$(dirname "$0")"
seconds=${1:-60}
[ $# -eq 0 ] || shift
work=$(cd .. && pwd)/target/fuzz
export CARGO_TARGET_DIR="$work" RUSTUP_TOOLCHAIN="${NIGHTLY:-nightly}"
cargo fuzz build

failed=0
for target in ${*:-$(cargo fuzz list)}; do
    mkdir -p "$work/corpus/$target" "$work/artifacts/$target"
    # Five seconds for an input are a hang, and memory by the hundred megabytes is as wrong for one
    # of kilobytes.
    if cargo fuzz run "$target" "$work/corpus/$target" "corpus/$target" -- -max_total_time="$seconds" \
        -max_len=8192 -timeout=5 -malloc_limit_mb=128 -rss_limit_mb=1024 -print_final_stats=1 \
        -artifact_prefix="$work/artifacts/$target/" >"$work/$target.log" 2>&1; then
        result=passed
    else
        result="FAILED: target/fuzz/$target.log"
        failed=$((failed + 1))
    fi
    printf '%-10s %s: %s runs, coverage %s, %s inputs kept\n' "$target" "$result" \
        "$(sed -n 's/^stat::number_of_executed_units: *//p' "$work/$target.log")" \
        "$(grep -o 'cov: [0-9]*' "$work/$target.log" | tail -n 1 | cut -c 6-)" \
        "$(find "$work/corpus/$target" -type f | wc -l)"
done
exit "$failed"
