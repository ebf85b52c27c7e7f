#!/usr/bin/env bash
# SPDX-FileCopyrightText: The Switchyard authors
# SPDX-License-Identifier: Apache-2.0
# Are vLLM, SGLang and the peers of the benchmark what the plugins, the benchmark and their tests take them for?
# Downloads the releases of tests/python/engines.txt (500 MB), unpacks their Python sources, which are parsed and never
# run, and compares them with the stubs of the tests.
#
#   scripts/engine_contracts.sh FOLDER PYTHON
#
# FOLDER keeps downloads and sources. PYTHON has what tests/python/test_vllm.py needs, torch among it.
set -euo pipefail
cd "$(dirname "$0")/.."
folder=${1:?say the folder}
python=${2:?say the Python}
mkdir -p "$folder"

grep -v '^#' tests/python/engines.txt | while read -r release; do
  wheels=$folder/$release
  [ -d "$wheels" ] || "$python" -m pip download --quiet --disable-pip-version-check --no-deps --only-binary=:all: --dest "$wheels" "$release"
  "$python" - "$wheels" "$folder/sources" <<'END'
import pathlib, sys, zipfile
(wheel,) = pathlib.Path(sys.argv[1]).glob("*.whl")
with zipfile.ZipFile(wheel) as files:
    files.extractall(sys.argv[2], [name for name in files.namelist() if name.endswith(".py")])
END
done

for name in vllm sglang peers; do
  SWITCHYARD_ENGINE_SOURCES=$folder/sources "$python" -m pytest -q -rs -p no:cacheprovider \
    "tests/python/test_$name.py" -k 'the_stub_is_what or function_has_the_arguments or read_out_of_its_file'
done
