# Shared by the scripts beside it: finds the root of the project and installs what is missing.
# shellcheck shell=bash
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cd "$root"

# as_root COMMAND...: runs it as root, by sudo where this is an ordinary user.
as_root() {
  if [ "$(id -u)" = 0 ]; then "$@"; else sudo "$@"; fi
}

# need COMMAND PACKAGE...: installs Debian packages when COMMAND does not exist.
need() {
  local command=$1
  shift
  command -v "$command" >/dev/null 2>&1 && return
  if ! command -v apt-get >/dev/null 2>&1; then
    echo "$command is missing and there is no apt-get to install $* with" >&2
    exit 1
  fi
  echo "installing $* (for $command)" >&2
  as_root apt-get update -qq >&2
  as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$@" >&2
}

# Rust: cargo from rustup, also where the login shell has not been restarted since.
need_rust() {
  [ -n "${HOME:-}" ] && [ -d "$HOME/.cargo/bin" ] && PATH="$HOME/.cargo/bin:$PATH"
  if ! command -v cargo >/dev/null 2>&1; then
    echo "cargo is missing: install Rust with rustup (https://rustup.rs)" >&2
    exit 1
  fi
  need cc gcc libc6-dev
  need c++ g++ # compiles the CUDA kernels for the emulator
}

# python_with_pip: prints a Python that can install packages, after making one where there is none.
python_with_pip() {
  local python
  for python in python3 "$root/.cache/clients/bin/python" "$root/.venv/bin/python"; do
    if "$python" -m pip --version >/dev/null 2>&1; then
      echo "$python"
      return
    fi
  done
  need python3 python3 python3-venv
  python3 -m venv "$root/.cache/clients" >/dev/null 2>&1 || {
    as_root apt-get install -y -qq --no-install-recommends python3-venv >&2
    python3 -m venv "$root/.cache/clients" >&2
  }
  echo "$root/.cache/clients/bin/python"
}

# fetch_packages DIRECTORY REQUIREMENTS: leaves the Python packages of the file, which names their
# hashes, in the directory. Does nothing when they are there; two at once wait for each other.
fetch_packages() (
  directory=$1 requirements=$2
  wanted=$(sha256sum <"$requirements")
  mkdir -p "$(dirname "$directory")"
  exec 9>"$directory.lock"
  flock 9
  [ "$(cat "$directory/.complete" 2>/dev/null)" = "$wanted" ] && exit
  echo "fetching $(grep -c == "$requirements") packages of $requirements into $directory" >&2
  python=$(python_with_pip)
  work=$(mktemp -d "$directory.XXXXXX")
  trap 'rm -rf "$work"' EXIT
  PIP_ROOT_USER_ACTION=ignore "$python" -m pip install --quiet --disable-pip-version-check \
    --no-deps --no-compile --only-binary :all: --require-hashes --target "$work" \
    -r "$requirements" >&2
  echo "$wanted" >"$work/.complete"
  chmod 755 "$work"
  rm -rf "$directory"
  mv "$work" "$directory"
)

# need_libclang: what bindgen parses C with, in .cache/libclang, named by LIBCLANG_PATH.
need_libclang() {
  fetch_packages "$root/.cache/libclang" scripts/libclang.txt
  export LIBCLANG_PATH=$root/.cache/libclang/clang/native
}
