#!/usr/bin/env bash
# Make the environment of the SASRec rival, apart from the project's: RecTools asks for older numpy and pandas.
# Run from the repository's root: lab/evidence/sasrec/setup.sh [FOLDER]
set -euo pipefail
cd "$(dirname "$0")/../../.."
place="${1:-runs/evidence/envs/sasrec}"
beside="$place.new"

if [ -x "$place/bin/python" ]; then
    echo "$place is there already: remove it to make it again" >&2
    exit 0
fi
rm -rf "$beside"
mkdir -p "$(dirname "$place")"
"${PYTHON:-python3}" -m venv "$beside"
"$beside/bin/python" -m pip install --quiet --disable-pip-version-check -r lab/evidence/sasrec/requirements.txt
"$beside/bin/python" -c "import rectools.models, pytorch_lightning"
mv "$beside" "$place" # packages do not mind the move; scripts in bin/ are not used
