#!/usr/bin/env bash
# Import ../shared/data/amazon-text into runs/evidence/text-data, each category three times: as titles of eight words, whole
# titles, and title, brand and category. The users of Tools are those of ../shared/data/amazon. What is there is kept.
set -euo pipefail
cd "$(dirname "$0")/../.."
SHARED=${SHARED:-../shared/data}
OUT=runs/evidence/text-data
mkdir -p "$OUT"
declare -A TEXT=([words]='{title:8}' [title]='{title}' [fields]='{title}; {brand}; {category}')
for text in words title fields; do
  for d in beauty sports toys; do
    [ -d "$OUT/$d-$text" ] || .venv/bin/xcrossrec data import --domain "$d-$text" --text "${TEXT[$text]}" \
      --items "$SHARED/amazon-text/$d/items.csv.gz" --interactions "$SHARED/amazon-text/$d/interactions.csv.gz" \
      --out "$OUT/$d-$text"
  done
  [ -d "$OUT/tools-$text" ] || .venv/bin/xcrossrec data import --domain "tools-$text" --text "${TEXT[$text]}" \
    --items "$SHARED/amazon-text/tools/items.csv.gz" --train "$SHARED/amazon/tools/train.csv.gz" \
    --validation "$SHARED/amazon/tools/validation.csv.gz" --out "$OUT/tools-$text"
done
