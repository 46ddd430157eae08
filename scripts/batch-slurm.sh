#!/usr/bin/env bash
# A batch as a Slurm job array, a shard for each task:
#
#   job=$(sbatch --parsable --array=1-8 scripts/batch-slurm.sh 8 MODEL IN.jsonl OUT.jsonl [FLAGS...])
#   sbatch --dependency=afterok:$job --wrap "spillway batch merge OUT.jsonl OUT.jsonl.*-of-8"
#
# The first argument is the number of shards, and the array's indices are theirs; --array=3,5 alone runs these again.
# Answers go to OUT.jsonl.I-of-8. A task that is preempted, or whose time is over, is put back into the queue and goes on
# from its journal. SPILLWAY names the program (default: the one in PATH). Resources are sbatch's: --gpus-per-task=1,
# --cpus-per-task=8 --mem=64G. Where tasks share a node and memory is no constrained resource (task/cgroup with
# ConstrainRAMSpace=yes), give --device-mem and --host-mem too: each would take most of what is free.
#SBATCH --job-name=spillway-batch
#SBATCH --output=spillway-batch-%A_%a.log
#SBATCH --open-mode=append
#SBATCH --requeue
#SBATCH --signal=B:USR1@60
set -euo pipefail

if (($# < 4)) || [[ -z ${SLURM_ARRAY_TASK_ID:-} ]]; then
  echo "usage: sbatch --array=1-N $0 N MODEL IN.jsonl OUT.jsonl [FLAGS...]" >&2
  exit 2
fi
shards=$1 model=$2 input=$3 output=$4
shift 4
# SLURM_CPUS_PER_TASK is set where sbatch was told; else Spillway takes a thread for each core that it may use.
export SPILLWAY_THREADS=${SPILLWAY_THREADS:-${SLURM_CPUS_PER_TASK:-0}}

# A signal to this script, and not to the program, so that it can ask for the queue again. The answers under way are
# given up; those that are written stay.
requeue() {
  echo "shard $SLURM_ARRAY_TASK_ID/$shards: time is over; back into the queue" >&2
  kill -INT "$program" 2>/dev/null || true
  wait "$program" || true
  scontrol requeue "$SLURM_JOB_ID"
}
trap requeue USR1

"${SPILLWAY:-spillway}" batch -m "$model" -i "$input" -o "$output.$SLURM_ARRAY_TASK_ID-of-$shards" \
  --shard "$SLURM_ARRAY_TASK_ID/$shards" "$@" &
program=$!
wait "$program"
