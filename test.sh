#!/usr/bin/env bash
# Installs what the tests need and runs all of them. The last line says `N passed, M failed`.
#
# It needs Rust. What else is missing it installs with apt where it runs as root, and names otherwise.
set -euo pipefail
cd -- "$(dirname -- "${BASH_SOURCE[0]}")"

# What belongs to the caller's own service is no business of the tests.
unset QUOTA_ENFORCEMENT_MODE QUOTA_ROUTES QUOTA_ADMIN_TOKEN QUOTA_MEMBER_TOKENS LISTEN_ADDR DATABASE_URL
unset "${!PG@}"
export CARGO_TERM_COLOR=never

scratch=$(mktemp -d)
log=$scratch/log
: >"$log"
group=
broken=()

# Ends what `run` has started, and all that this has started in turn.
stop() {
  if [[ -n $group ]]; then
    kill -- "-$group" 2>/dev/null || true
    group=
  fi
}
trap 'stop; rm -rf -- "$scratch"' EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP

# Runs a command in a process group of its own, shows what it prints and keeps it in the log.
run() {
  local copy shown status=0
  printf '\n==> %s\n' "$*"
  exec {copy}> >(tee -a -- "$log")
  shown=$!
  set -m
  "$@" </dev/null >&"$copy" 2>&1 {copy}>&- &
  group=$!
  set +m
  exec {copy}>&-
  wait "$group" || status=$?
  stop
  wait "$shown"
  if ((status != 0)); then
    broken+=("$* (exit code $status)")
  fi
}

# How many tests have passed, or failed, by the summaries of cargo and node (`# pass 5`).
total() {
  sed -nE -e "s/^test result: .* ([0-9]+) $1;.*/\1/p" -e "s/^# ${1%ed} ([0-9]+)$/\1/p" "$log" |
    awk '{ sum += $1 } END { print sum + 0 }'
}

packages=()
# The Debian packages that have a command, unless it is there.
need() {
  command -v "$1" >/dev/null || packages+=("${@:2}")
}

need cc gcc libc6-dev # compiles the SQLite that sqlx brings along
need curl curl
# Debian keeps a server's programs out of the path. The tests start servers of their own.
if [[ -z ${TEST_POSTGRES_BIN-} ]] && ! compgen -G '/usr/lib/postgresql/*/bin/initdb' >/dev/null; then
  need initdb postgresql
fi
need pgbouncer pgbouncer
# A module has no command. Debian's interpreter has it, even where another one comes first in the path.
if [[ -z ${TEST_PYTHON-} ]] && ! python3 -c 'import aiosmtpd' 2>/dev/null &&
  ! /usr/bin/python3 -c 'import aiosmtpd' 2>/dev/null; then
  packages+=(python3-aiosmtpd)
fi
# The dashboard is looked at in a browser.
need node nodejs
need npm npm
need chromium chromium fonts-dejavu-core
need python3 python3
if ((${#packages[@]} > 0)); then
  if ((EUID != 0)) || ! command -v apt-get >/dev/null; then
    printf 'The tests need these packages (as Debian names them), which are missing: %s\n' "${packages[*]}" >&2
    exit 1
  fi
  apt-get update </dev/null
  DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends "${packages[@]}" </dev/null
fi

if ! command -v cargo >/dev/null && [[ -x ${CARGO_HOME:-$HOME/.cargo}/bin/cargo ]]; then
  PATH=${CARGO_HOME:-$HOME/.cargo}/bin:$PATH
fi
if ! command -v cargo >/dev/null; then
  echo 'The tests need Rust, which is missing: see https://rustup.rs' >&2
  exit 1
fi

# Unit tests, integration tests and doctests; it builds the examples too.
run cargo test --locked --workspace --exclude tower-quota-checks --all-features --no-fail-fast
# The interleavings of the ledger's concurrent core.
run cargo test --locked --package tower-quota-checks --no-fail-fast

# The dashboard in a browser, on the quickstart that was built with the tests.
export QUICKSTART=$(realpath -- "${CARGO_TARGET_DIR:-target}")/debug/examples/quickstart
run npm --prefix tests/dashboard ci
run npm --prefix tests/dashboard test

passed=$(total passed)
failed=$(total failed)
if ((failed > 0)); then
  printf '\nFailed:\n'
  grep -E '^(test .* \.\.\. FAILED|not ok )' "$log" || true
fi
if ((${#broken[@]} > 0)); then
  printf '\nDid not succeed:\n'
  printf '  %s\n' "${broken[@]}"
fi
printf '\n%d passed, %d failed\n' "$passed" "$failed"
((failed == 0 && ${#broken[@]} == 0))
