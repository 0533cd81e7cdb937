#!/usr/bin/env bash
# Makes every card and board of results/published, and the tables of the README, from nothing but this checkout.
#   bash scripts/results.sh            # nano: all methods, three seeds; smol: a few, one seed; two one-thread workers
#   bash scripts/results.sh nano       # that task alone
#   bash scripts/results.sh nano_sentiment nano_rule   # the tasks with a known reward: eight rows, one seed
#   bash scripts/results.sh second     # nano again, a few methods, to results/second: what another machine changes
# Only the cards of these commands are published. After a stop, run it again: what the store holds is not done twice.
set -euo pipefail
cd "$(dirname "$0")/.."
export OMP_WAIT_POLICY=PASSIVE
fresh=results/local/fresh
run() { .venv/bin/isoalign run "$@" threads=1 results=$fresh; }
sweep() { run -m "$@" hydra/launcher=joblib hydra.launcher.n_jobs=2; }

feedback=sft_chosen,dpo,ipo,cdpo,robust_dpo,simpo,orpo,kto
online=ppo,ppo_lora,ppo_critic,reinforce,rloo,grpo,rft,best_of_n,iterative_dpo,rlhf_then_dpo,rlaif,online_dpo
trl=trl_dpo,trl_kto,trl_simpo,trl_orpo,trl_cpo,trl_grpo,trl_rloo,trl_online_dpo

nano() {
    run task=nano algorithm=sft
    sweep task=nano algorithm=$feedback,$online,$trl seed=0,1,2
    sweep task=nano algorithm=cai task.constitution.file=kindness seed=0,1,2
}
second() {
    run task=nano algorithm=sft
    sweep task=nano algorithm=trl_online_dpo,online_dpo,trl_dpo,dpo,ppo,kto seed=0,1,2
}
known() { # a task with a known reward
    run task="$1" algorithm=sft
    sweep task="$1" algorithm=ppo,rlaif,rloo,grpo,kto,dpo,sft_chosen seed=0
}
nano_sentiment() { known nano_sentiment; }
nano_rule() { known nano_rule; }
smol() {
    run task=smol algorithm=sft
    sweep task=smol algorithm=sft_chosen,ppo,dpo,kto,rlaif seed=0
}

[ $# -gt 0 ] || set -- nano smol
for what in "$@"; do
    task=${what/second/nano} results=results
    [ "$what" != second ] || results=results/second
    rm -rf "$fresh/$task"
    $what
    rm -f $results/published/"$task"/*.json # superseded ones would stand beside these on the board; git has them
    .venv/bin/isoalign publish "$fresh/$task"/*.json --results $results
done
.venv/bin/python scripts/board_to_readme.py
