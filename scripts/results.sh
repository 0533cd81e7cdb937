#!/usr/bin/env bash
# Makes the settings, cards and boards that the README shows, from nothing but this checkout: some six hours on two fast cores.
#   bash scripts/results.sh tuning          # nano: equally many trials of every method; writes conf/tuned and results/tuning
#   git commit -am "Tuned settings"         # so that all cards are of one commit
#   bash scripts/results.sh                 # all boards and findings, in the order of this list
#   bash scripts/results.sh nano            # nano: all methods and controls for drift, three seeds; the main ones, five
#   bash scripts/results.sh nano_sentiment nano_rule   # the tasks with a known reward
#   bash scripts/results.sh smol            # a larger model: the main methods, three seeds
#   bash scripts/results.sh findings        # claims of the literature, beside the board of nano: same processor, same commit
#   bash scripts/results.sh ladder          # nano at three budgets, to results/ladder: crossings
#   bash scripts/results.sh bases           # nano on three SFT bases, to results/bases: what the base's chance adds
#   bash scripts/results.sh trl_ppo         # PPO beside that of TRL 1.12, to results/findings/trl_ppo.json
# Beside the list: tuning_main, tuning_pairs, tuning_answers, tuning_reward, tuning_judge and tuning_rest are the parts of tuning; second
# makes a few methods of nano again, to results/second, for another machine. Only the cards of these commands are published. After
# a stop, run it again: what the store holds is not done twice.
set -euo pipefail
cd "$(dirname "$0")/.."
export OMP_WAIT_POLICY=PASSIVE
fresh=results/local/fresh
run() { .venv/bin/isoalign run "$@" threads=1 results=$fresh; }
sweep() { run -m "$@" hydra/launcher=joblib hydra.launcher.n_jobs=2; }
pool() { xargs -P 2 -L 1 .venv/bin/isoalign run threads=1 results=$fresh; } # runs of a line each, two at a time

main=dpo,ipo,kto,rloo,ppo,grpo,simpo,orpo,rlaif,online_dpo,iterative_dpo,trl_dpo # of which README tells
beside=sft_chosen,best_of_n,ppo_lora                                             # imitation, choice, and what a finding needs
pairs=cdpo,robust_dpo,slic,rpo,dpop,tdpo,beta_dpo,exo,nca,apo_zero,apo_down,sppo_hard,tr_dpo,dice
answers=bco,rso,rft
reward=ppo_critic,reinforce,reinforce_pp,remax,dr_grpo,dapo,gspo,cispo,apa,qrpo
judge=semi_online_dpo,rlhf_then_dpo,xpo,sppo,nash_md
twins=trl_kto,trl_simpo,trl_orpo,trl_grpo,trl_rloo,trl_online_dpo # with trl_dpo: they take the settings of ours

tune() { .venv/bin/isoalign tune nano ${1//,/ } "${@:2}"; }
tuning_main() {
    tune ${main/,trl_dpo/},$beside
    .venv/bin/python scripts/tuned_trl.py nano
}
tuning_rest() {
    tune trl_cpo
    tune cai task.constitution.file=kindness
}
tuning() { for part in main pairs answers reward judge rest; do tuning_part $part; done; }
tuning_part() {
    case "$1" in
        main|rest) tuning_$1 ;;
        *) tune "${!1}" ;;
    esac
}
nano() {
    run task=nano algorithm=sft
    sweep task=nano algorithm=$main seed=0,1,2,3,4
    sweep task=nano algorithm=$beside,$pairs,$answers,$reward,$judge,$twins,trl_cpo seed=0,1,2
    sweep task=nano algorithm=cai task.constitution.file=kindness seed=0,1,2
    sweep task=nano algorithm=drift_rloo algorithm.reward_seed="$(seq -s, 0 14)"
    sweep task=nano algorithm=drift_dpo algorithm.verdict_seed="$(seq -s, 0 15)"
}
second() {
    run task=nano algorithm=sft
    sweep task=nano algorithm=trl_online_dpo,online_dpo,trl_dpo,dpo,ppo,kto seed=0,1,2
}
bases() { # two seeds on each
    printf "task=nano algorithm=sft task.bases=3 seed=%s\n" 0 1 2 | pool
    sweep task=nano algorithm=dpo,kto,ppo,rloo task.bases=3 seed=0,1,2,3,4,5
    sweep task=nano algorithm=drift_rloo algorithm.reward_seed=0,1,2 task.bases=3 seed=0,1,2
}
ladder() { # six of the main methods, two seeds; small is there already, in the store
    run task=nano algorithm=sft
    sweep task=nano algorithm=dpo,kto,ppo,rloo,rlaif,simpo seed=0,1 budget=tiny,small,large
}
known() { # a task with a known reward, of nano's base; with the settings that were chosen on nano (rule 16)
    run task="$1" algorithm=sft
    {
        for method in ppo rlaif rloo grpo kto dpo sft_chosen; do
            printf "task=$1 algorithm=$method tuned=nano_$method seed=%s\n" 0 1 2
        done
        printf "task=$1 algorithm=drift_rloo algorithm.reward_seed=%s\n" 0 1 2 3 4 5 # some do not come to the KL of the methods
        printf "task=$1 algorithm=drift_dpo algorithm.verdict_seed=%s\n" 0 1 2
    } | pool
}
nano_sentiment() { known nano_sentiment; }
nano_rule() { known nano_rule; }
smol() {
    run task=smol algorithm=sft
    sweep task=smol algorithm=ppo,dpo,kto,rlaif,rloo,sft_chosen seed=0,1,2
    sweep task=smol algorithm=drift_rloo algorithm.lr=0.003 algorithm.reward_seed=0,1,2 # of RLOO here; with nano's it stays at the base
}

[ $# -gt 0 ] || set -- nano nano_sentiment nano_rule smol findings ladder bases trl_ppo
for what in "$@"; do
    case "$what" in
        tuning) tuning; continue ;;
        tuning_*) tuning_part "${what#tuning_}"; continue ;;
        findings) .venv/bin/python -m scripts.findings; continue ;;
        trl_ppo) .venv/bin/python scripts/benchmarks/trl_ppo.py --seeds 3; continue ;;
        second|ladder|bases) task=nano results=results/$what ;;
        *) task=$what results=results ;;
    esac
    rm -rf "$fresh/$task"
    $what
    rm -f $results/published/"$task"/{*.json,values.jsonl.xz} # superseded ones would stand beside these on the board; git has them
    .venv/bin/isoalign publish "$fresh/$task"/*.json --results $results
    if [ "$what" = ladder ]; then # its page is along the budget
        rm -f $results/published/nano/{leaderboard.*,frontier*.svg,curves*.svg,reliability*.svg}
        .venv/bin/isoalign board nano --along budget.flops --results $results/published
    fi
done
.venv/bin/python scripts/board_to_readme.py
