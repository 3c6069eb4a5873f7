#!/usr/bin/env bash
# Ten minutes of load on three gateways, while limits change, gateways are restarted and killed, and the database is restarted.
# Prints its figures, and fails where a limit was exceeded, a unit was lost, or memory has grown. SOAK_SECONDS says for how
# long instead.
set -euo pipefail
cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.."

cargo build --locked --release --all-features --bin quotactl
QUOTACTL=$(realpath -- "${CARGO_TARGET_DIR:-target}")/release/quotactl
export QUOTACTL
cargo bench --locked --package tower-quota-benches --bench soak
