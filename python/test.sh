#!/usr/bin/env bash
# Builds the wheel, installs it into an environment of its own and runs its tests; those of tiepack.torch where torch is.
# PYTHON is the interpreter, VENV the environment; TORCH=1 installs torch too (2 GB).
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
export CARGO_TARGET_DIR="${CARGO_TARGET_DIR:-$PWD/../target}"
venv="${VENV:-$CARGO_TARGET_DIR/python}"
[ -x "$venv/bin/python" ] || "${PYTHON:-python3}" -m venv "$venv"
"$venv/bin/python" -m pip install --quiet --disable-pip-version-check "maturin>=1.8,<2" numpy zstandard pytest ${TORCH:+torch safetensors}
"$venv/bin/maturin" build --quiet --release --out "$venv/wheels" --interpreter "$venv/bin/python"
"$venv/bin/python" -m pip install --quiet --disable-pip-version-check --force-reinstall --no-deps "$venv"/wheels/tiepack-*.whl
# Not `python -m`: that would look for the package here, where it is not built.
exec "$venv/bin/pytest" --quiet -p no:cacheprovider tests "$@"
