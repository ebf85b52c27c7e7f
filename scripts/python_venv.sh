#!/usr/bin/env bash
# SPDX-FileCopyrightText: The Switchyard authors
# SPDX-License-Identifier: Apache-2.0
# An environment with what building and testing the Python package needs: tests/python/requirements.txt.
#
#   scripts/python_venv.sh build/venv
#
# Does nothing where it is there for the same requirements, or with SKIP_DEPS=1. torch is in others: torch_venvs.sh.
set -euo pipefail
cd "$(dirname "$0")/.."
folder=${1:?say the folder}
wanted=$(cat tests/python/requirements.txt)

[ "${SKIP_DEPS:-0}" != 1 ] || exit 0
[ "$(cat "$folder/requirements" 2>/dev/null)" != "$wanted" ] || exit 0
# Debian's first: its headers are installed with it.
python=$(command -v /usr/bin/python3 || command -v python3)
echo "Making $folder"
"$python" -m venv --clear "$folder"
"$folder/bin/pip" install --quiet --disable-pip-version-check -r <(echo "$wanted")
echo "$wanted" > "$folder/requirements"
