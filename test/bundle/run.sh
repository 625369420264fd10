#!/bin/sh
# Runs kfacc's bench and conformance on this machine's GPU, with nothing from outside this folder but a Vulkan driver.
#
#   ./run.sh                 conformance of the fixtures, then the bench's table; both also written to results/
#   ./run.sh --only WORD     flags of the bench: --only, --quick, --processes N, --json FILE, --compare FILE
#   ./run.sh kfacc …         the kfacc command (devices, compile, train, profile, help …)
set -eu
here=$(cd "$(dirname "$0")" && pwd)
if [ "${1:-}" = kfacc ]; then
  shift
  exec "$here/node" "$here/app/src/cli.js" "$@"
fi
mkdir -p "$here/results"
cd "$here/app"
"$here/node" src/cli.js devices
echo
status=0
# without a pipe, so that a failure is not lost
"$here/node" test/conformance/kfac.js "$here/fixtures" > "$here/results/conformance.txt" 2>&1 || status=1
grep -v '^passed' "$here/results/conformance.txt" || true
echo
case " $* " in *" --json "*) ;; *) set -- "$@" --json "$here/results/bench.json" ;; esac
"$here/node" test/bench/main.js "$@" || status=1
echo
echo "written: $here/results"
exit $status
