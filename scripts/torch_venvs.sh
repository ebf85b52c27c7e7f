#!/usr/bin/env bash
# SPDX-FileCopyrightText: The Switchyard authors
# SPDX-License-Identifier: Apache-2.0
# Environments in which the Python package meets torch on a CPU: FOLDER/newest, with the newest torch and transformers,
# and FOLDER/oldest, with the oldest transformers that is supported. Both see the packages of VENV.
#
#   scripts/torch_venvs.sh build/torch build/venv
#
# Does nothing where they are there for the same requirements. Downloads 1.4 GB where the machine has a CUDA toolkit
# (scripts/install_torch.py). Exit code 77, with a line that says so: there are none, and the package registry is not
# reached, or SKIP_DEPS=1 forbids to ask it.
set -euo pipefail
cd "$(dirname "$0")/.."
folder=${1:?say the folder}
venv=${2:?say the environment with the other packages}
torch='torch>=2.11'
oldest=transformers==5.17.0
wanted="$torch $oldest $(cat "$venv/requirements" 2>/dev/null)"

skip() {
  echo "skipped: $1, so there is no torch, and its tests do not run"
  exit 77
}

if [ "${SKIP_DEPS:-0}" = 1 ]; then
  [ -x "$folder/oldest/bin/python" ] || skip "SKIP_DEPS=1 installs nothing"
  exit 0
fi
[ "$(cat "$folder/requirements" 2>/dev/null)" != "$wanted" ] || exit 0
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
"$venv/bin/pip" download --quiet --disable-pip-version-check --no-deps --dest "$place" packaging 2>/dev/null ||
  skip "no package registry is reached"

packages_of() { "$1/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))'; }

make_venv() {  # environment, others whose packages it sees
  local environment=$1
  shift
  "$venv/bin/python" -m venv --clear --without-pip "$environment"
  for other in "$@"; do packages_of "$other"; done > "$(packages_of "$environment")/others.pth"
}

pip_install() {  # environment, arguments
  local environment=$1
  shift
  "$environment/bin/python" -m pip install --quiet --disable-pip-version-check "$@"
}

echo "Making $folder"
rm -rf "$folder"
make_venv "$folder/newest" "$venv"
"$folder/newest/bin/python" scripts/install_torch.py "$torch"
pip_install "$folder/newest" transformers psutil
pip_install "$folder/newest" --no-deps accelerate  # it needs torch: pip would bring all that torch asks for
make_venv "$folder/oldest" "$folder/newest" "$venv"
pip_install "$folder/oldest" "$oldest"
for environment in newest oldest; do
  "$folder/$environment/bin/python" -c "import torch, transformers; print('$environment: torch', torch.__version__, 'transformers', transformers.__version__)"
done
echo "$wanted" > "$folder/requirements"
