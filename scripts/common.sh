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
}
