#!/usr/bin/env bash
# X-Cross on Toys with 1,000 users, beside its rivals, on ../shared/data/amazon; all by the command line.
# Made before vectors were centered and before integration in the last layers was the default: both are spelled out here.
# Usage: lab/real_input/run.sh [RUNS_DIR]     (finished steps are kept, so it can be run again after a stop)
set -euo pipefail
cd "$(dirname "$0")/../.."
X=.venv/bin/xcrossrec
DATA=../shared/data/amazon
R=${1:-runs/real_input}
AS_THEN=lab/real_input/without_center.toml
SOURCE_BUDGET=6000 TARGET_BUDGET=1000 SEED=0
mkdir -p "$R"/{data,adapters,models,results}

for d in electronics sports toys; do
  [ -d "$R/data/$d" ] || $X data import --domain $d --items $DATA/$d/items.csv.gz \
    --train $DATA/$d/train.csv.gz --validation $DATA/$d/validation.csv.gz --out "$R/data/$d"
done

# Sources: one LoRA (r=8 on query and value) each.
for d in electronics sports; do
  [ -d "$R/adapters/$d" ] || $X train source "$R/data/$d" --out "$R/adapters/$d" --config $AS_THEN --budget $SOURCE_BUDGET --epochs 2 --seed $SEED
done

# The target: X-Cross in both forms, LoRA at the same budget, and both without the head's projection.
SOURCES=(--source "$R/adapters/electronics" --source "$R/adapters/sports")
TARGET=(--budget $TARGET_BUDGET --seed $SEED)
NO_HEAD=lab/real_input/no_head.toml
[ -d "$R/models/toys-paper" ] || $X train target "$R/data/toys" "${SOURCES[@]}" --integrator paper --top-layers 6 \
  --learning-rate 1e-4 --config $AS_THEN --out "$R/models/toys-paper" "${TARGET[@]}"
[ -d "$R/models/toys-pairwise" ] || $X train target "$R/data/toys" "${SOURCES[@]}" --integrator pairwise \
  --top-layers 6 --learning-rate 5e-3 --config $AS_THEN --out "$R/models/toys-pairwise" "${TARGET[@]}"
[ -d "$R/models/toys-lora" ] || $X train lora "$R/data/toys" --epochs 12 --learning-rate 5e-4 --config $AS_THEN --out "$R/models/toys-lora" "${TARGET[@]}"
[ -d "$R/models/toys-paper-nohead" ] || $X train target "$R/data/toys" "${SOURCES[@]}" --integrator paper --top-layers 6 --config $NO_HEAD \
  --learning-rate 2e-4 --epochs 5 --out "$R/models/toys-paper-nohead" "${TARGET[@]}"
# Integrators that cannot learn: the head alone, on the mean of the sources' states.
[ -d "$R/models/toys-head-only" ] || $X train target "$R/data/toys" "${SOURCES[@]}" --integrator paper --top-layers 6 --learning-rate 1e-12 \
  --config $AS_THEN --out "$R/models/toys-head-only" "${TARGET[@]}"
[ -d "$R/models/toys-lora-nohead" ] || $X train lora "$R/data/toys" --config $NO_HEAD --learning-rate 5e-4 --epochs 15 --out "$R/models/toys-lora-nohead" "${TARGET[@]}"

measure() { # MODEL_OR_BASELINE DOMAIN NAME [OPTIONS]
  local out="$R/results/$2-$3.parquet"
  [ -f "$out" ] || $X evaluate "$1" "$R/data/$2" --split validation --negatives uniform,popularity,full \
    --seed $SEED --name "$3" --out "$out" "${@:4}"
}
for d in electronics sports; do
  measure baseline:untrained $d untrained-late --pooling late
  measure "$R/adapters/$d" $d source-$d
done
measure baseline:popularity toys popularity
measure baseline:tfidf toys tfidf
measure baseline:untrained toys untrained-prompt --pooling prompt
measure baseline:untrained toys untrained-late --pooling late
measure "$R/adapters/electronics" toys source-electronics
measure "$R/adapters/sports" toys source-sports
measure "$R/adapters/electronics+$R/adapters/sports" toys mean-of-sources
measure "$R/models/toys-lora-nohead" toys lora-nohead
measure "$R/models/toys-paper-nohead" toys xcross-paper-nohead
measure "$R/models/toys-head-only" toys head-only
measure "$R/models/toys-lora" toys lora
measure "$R/models/toys-pairwise" toys xcross-pairwise
measure "$R/models/toys-paper" toys xcross-paper

.venv/bin/python -m xcrossrec_lab.real_input "$R" --out lab/results/real_input
