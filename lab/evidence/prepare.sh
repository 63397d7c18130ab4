#!/usr/bin/env bash
# Import the real Amazon data (../shared/data/amazon) into runs/evidence/data; what is there is kept.
set -euo pipefail
cd "$(dirname "$0")/../.."
DATA=${DATA:-../shared/data/amazon}
OUT=runs/evidence/data
mkdir -p "$OUT"
for d in electronics sports tools toys; do
  [ -d "$OUT/$d" ] || .venv/bin/xcrossrec data import --domain "$d" --items "$DATA/$d/items.csv.gz" \
    --train "$DATA/$d/train.csv.gz" --validation "$DATA/$d/validation.csv.gz" --out "$OUT/$d"
done
