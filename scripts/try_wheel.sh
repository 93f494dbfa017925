#!/usr/bin/env bash
# Build the wheel and use it as a stranger would: from an empty folder, beside files that could
# shadow its own. First in a base installation without torch, then with what ENVIRONMENT has.
# usage: scripts/try_wheel.sh ENVIRONMENT
set -euo pipefail
cd "$(dirname "$0")/.."
environment=$(cd "$1" && pwd)
checkout=$PWD
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
pip=("$environment/bin/python" -m pip --disable-pip-version-check -qq)

git archive HEAD | tar -x -C "$work" --one-top-level=source # what is committed and nothing else
"${pip[@]}" wheel --no-deps --wheel-dir "$work/dist" "$work/source"
wheel=$(echo "$work"/dist/*.whl)

mkdir "$work/empty" "$work/empty/datasets"
echo 'raise SystemExit("a stranger'"'"'s methods.py was imported")' > "$work/empty/methods.py"
echo 'version = = 1' > "$work/empty/datasets/hostile.toml"
cd "$work/empty"

try() { # every command must end well; its output is shown when it does not
  echo "+ ${*#"$work"/}"
  "$@" > "$work/out" 2> "$work/err" || { cat "$work/out" "$work/err"; exit 1; }
}

"$environment/bin/python" -m venv "$work/base"
"$work/base/bin/python" -m pip --disable-pip-version-check -qq install -c "$checkout/constraints.txt" "$wheel"
base=$work/base/bin
if "$base/python" -c 'import torch' 2> /dev/null; then echo "torch is part of the base installation"; exit 1; fi
reference=$checkout/results/reference
try "$base/vsrbench" --help
try "$base/python" -m vsrbench list methods
try "$base/vsrbench" list datasets
try "$base/vsrbench" list metrics
try "$base/vsrbench" table --published dove-2025
try "$base/vsrbench" table --results "$reference"
try "$base/vsrbench" figure scatter --results "$reference" -o scatter.png
try "$base/vsrbench" report --results "$reference" -o report.html
try "$base/vsrbench" compare "$reference" "$reference"
"$base/vsrbench" --methods bicubic > "$work/out" 2> "$work/err" && { echo "a run without torch ended well"; exit 1; }
grep -q 'vsrbench\[run\]' "$work/err" || { cat "$work/err"; echo "the extra to install is not named"; exit 1; }

# The rest of the dependencies come from ENVIRONMENT, vsrbench itself from the wheel alone.
"$environment/bin/python" -m venv "$work/full"
"$work/full/bin/python" -m pip --disable-pip-version-check -qq install --no-deps "$wheel"
"$environment/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))' \
  > "$("$work/full/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/rest.pth"
try "$work/full/bin/vsrbench" --methods bicubic --metrics psnr --no-cost
test -s results/local/records.jsonl || { echo "no results in the working directory"; exit 1; }
try "$work/full/bin/vsrbench" check --methods instavsr
where=$("$work/full/bin/python" -c 'import vsrbench; print(vsrbench.__file__)')
case $where in "$work"/full/*) ;; *) echo "vsrbench was found at $where"; exit 1 ;; esac
test -z "$(find "$work/full/lib" -name records.jsonl)" || { echo "results went into site-packages"; exit 1; }
echo "the wheel works"
