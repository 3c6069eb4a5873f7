#!/usr/bin/env bash
# Builds the fuzz target `routes` with stable Rust and runs it: `fuzz/run.sh [SECONDS]`, 60 when nothing is said.
#
# It passes to rustc what cargo-fuzz would, but for the sanitizer, which needs a nightly compiler and looks for what a
# crate without `unsafe` can't do. An input that fails is kept in `fuzz/artifacts/`; run the binary with it to see why.
set -euo pipefail
cd -- "$(dirname -- "${BASH_SOURCE[0]}")"

seconds=${1:-60}
host=$(rustc -vV | sed -n 's/^host: //p')
corpus=$(mktemp -d)
trap 'rm -rf -- "$corpus"' EXIT

flags=(
  --cfg fuzzing
  -Cpasses=sancov-module
  -Cllvm-args=-sanitizer-coverage-level=4
  -Cllvm-args=-sanitizer-coverage-inline-8bit-counters
  -Cllvm-args=-sanitizer-coverage-pc-table
  -Cllvm-args=-sanitizer-coverage-trace-compares
  -Clink-dead-code
)
# With an explicit target, the flags are not for build scripts and procedural macros.
RUSTFLAGS="${flags[*]}" cargo build --locked --release --target "$host" --target-dir target --bin routes

cp -- seeds/routes/* "$corpus"
mkdir -p artifacts
"target/$host/release/routes" -max_total_time="$seconds" -rss_limit_mb=2048 -timeout=10 -max_len=4096 \
  -verbosity=0 -print_final_stats=1 -artifact_prefix=artifacts/ "$corpus"
