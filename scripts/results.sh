#!/usr/bin/env bash
# Makes every card and board of results/published, and the tables of the README, from nothing but this checkout.
#   bash scripts/results.sh            # nano with three seeds, smol with one; two one-thread workers
set -euo pipefail
export OMP_WAIT_POLICY=PASSIVE
methods=sft_chosen,ppo,dpo,kto,rlaif
sweep=(threads=1 hydra/launcher=joblib hydra.launcher.n_jobs=2)

isoalign run task=nano algorithm=sft
isoalign run -m task=nano algorithm=$methods seed=0,1,2 "${sweep[@]}"
isoalign run task=smol algorithm=sft
isoalign run -m task=smol algorithm=$methods seed=0 "${sweep[@]}"
for task in nano smol; do isoalign publish results/local/$task/*.json; done
python scripts/board_to_readme.py
