#!/usr/bin/env bash
# Runs all tests. As root, on Debian: installs the packages that they need where they are missing.
set -euo pipefail
cd "$(dirname "$0")"

((EUID == 0)) || {
    echo 'the tests make network namespaces, which takes root' >&2
    exit 1
}
bash .ci/install
# Outside the checkout, so that a fresh clone builds upon what an earlier one has built.
export CARGO_TARGET_DIR=${CARGO_TARGET_DIR:-${XDG_CACHE_HOME:-${HOME:-/root}/.cache}/tunnel-rs/target}
cargo test --profile ci --locked --workspace --all-features "$@"
# With the programs that this has built.
if ((! $#)); then
    tests/install/run
    tests/systemd/run
    tests/containers/run
    tests/documents/run
fi
