#!/usr/bin/env bash
# Makes every card and board of results/published, and the tables of the README, from nothing but this checkout.
#   bash scripts/results.sh            # nano with three seeds, smol with one; two one-thread workers
# Only the cards of these commands are published. After a stop, run it again: what the store holds is not done twice.
set -euo pipefail
cd "$(dirname "$0")/.."
export OMP_WAIT_POLICY=PASSIVE
fresh=results/local/fresh
methods=sft_chosen,ppo,dpo,kto,rlaif
sweep=(threads=1 hydra/launcher=joblib hydra.launcher.n_jobs=2)
run() { .venv/bin/isoalign run "$@" results=$fresh; }

rm -rf $fresh
run task=nano algorithm=sft threads=1
run -m task=nano algorithm=$methods seed=0,1,2 "${sweep[@]}"
run task=smol algorithm=sft threads=1
run -m task=smol algorithm=$methods seed=0 "${sweep[@]}"
for task in nano smol; do
    rm -f results/published/$task/*.json # superseded ones would stand beside these on the board; git has them
    .venv/bin/isoalign publish $fresh/$task/*.json
done
.venv/bin/python scripts/board_to_readme.py
