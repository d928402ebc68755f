#!/usr/bin/env bash
# Make a Python environment from the pins; nothing to do when it was made from them already.
#
# usage: scripts/env.sh VENV KIND
#   KIND: cpu, gpu, or keep (the kind that VENV is; cpu when there is none)
# PYTHON: version or path of the interpreter, 3.11 when not set.
#
# The environment's state stands in VENV/slim-pins: kind, digest of the pins and place, or the word `unfinished`
# from before the first change until after the last one, so that a half-made environment is never taken for a whole one.
set -euo pipefail
venv=$(realpath -m "$1")
kind=$2
python=${PYTHON:-3.11}
cd "$(dirname "${BASH_SOURCE[0]}")/.."
# Two makes at once would build into one directory.
exec 9<scripts/env.sh
flock 9

fail() {
  echo "error: $1" >&2
  exit 1
}

stamp=$venv/slim-pins
read -r old_kind old_digest old_place 2>/dev/null <"$stamp" || true
if [[ $kind == keep ]]; then
  kind=${old_kind:-cpu}
fi
[[ $kind == cpu || $kind == gpu ]] || fail "unknown kind of environment '$kind'; allowed: cpu, gpu, keep"
pins=(requirements/"$kind".txt requirements/dev.txt)
digest=$(cat "${pins[@]}" | sha256sum | cut -c1-16)

runs() { "$venv/bin/python" -c '' 2>/dev/null; }
if [[ "${old_kind:-} ${old_digest:-} ${old_place:-}" == "$kind $digest $venv" ]] && runs; then
  exit 0
fi

[[ $(uname -sm) == "Linux x86_64" ]] || fail "the pins are for Linux on x86_64; this is $(uname -sm) (docs/environments.md)"
started=$SECONDS
# An environment that was made elsewhere, for the other kind, or not to the end is of no use; one that somebody else
# made is not ours to delete.
if [[ -e $stamp && ( $old_kind != "$kind" || ${old_digest:-} == unfinished || ${old_place:-} != "$venv" ) ]] || { [[ -e $stamp ]] && ! runs; }; then
  rm -rf "$venv"
elif [[ -e $venv ]] && ! runs; then
  [[ -z $(ls -A "$venv") ]] || fail "$venv is no working Python environment; remove it, or choose another with VENV="
fi
if ! runs; then
  mkdir -p "$venv"
  scripts/uv venv --quiet --clear --python "$python" "$venv" ||
    fail "no environment with Python $python; install it (uv python install $python, or the system's packages), or name one with PYTHON="
fi
echo "$kind unfinished $venv" >"$stamp"

version=$("$venv/bin/python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
case $kind-$version in
  cpu-3.11 | gpu-3.11 | gpu-3.12) ;;
  *)
    rm "$stamp"
    fail "$venv has Python $version; the $kind pins are for 3.11$([[ $kind == cpu ]] || echo ' and 3.12'). Remove it, or choose another with VENV="
    ;;
esac

size_gb=4
[[ $kind == cpu ]] || size_gb=10
echo "Making $venv from ${pins[*]} ($size_gb GB; a few minutes when nothing is cached)"
# Bytecode is made once, here: torch, transformers and vLLM take half a minute to compile, and every worker imports them.
install=(scripts/uv pip install --compile-bytecode --python "$venv/bin/python" --no-deps "${pins[@]/#/--requirements=}")
export TORCH_BUILD=$kind
if [[ -t 2 ]]; then
  "${install[@]}"
else
  # A log needs no line for each of some 250 packages.
  { "${install[@]}" 2>&1 >&3 | { grep -v '^ [+~-] ' >&2 || true; }; } 3>&1
fi
echo "$kind $digest $venv" >"$stamp"
echo "Made $venv in $((SECONDS - started)) s"
