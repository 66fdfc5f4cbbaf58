#!/usr/bin/env bash
# Train on a Slurm cluster with one process per GPU.
set -euo pipefail

if [ $# -lt 3 ]; then
    echo "usage: [GPUS=8 GPUS_PER_NODE=8 CPUS_PER_TASK=5 SRUN_ARGS=''] $0 PARTITION JOB_NAME CONFIG [arguments of train.py]" >&2
    exit 2
fi

PARTITION=$1
JOB_NAME=$2
CONFIG=$3
shift 3
TOOLS=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
GPUS=${GPUS:-8}
GPUS_PER_NODE=${GPUS_PER_NODE:-$((GPUS < 8 ? GPUS : 8))}
read -ra MORE <<< "${SRUN_ARGS:-}"

export MASTER_PORT=${MASTER_PORT:-$((12000 + RANDOM % 20000))}
export PYTHONPATH="$(dirname "$TOOLS")${PYTHONPATH:+:$PYTHONPATH}"
exec srun --partition="$PARTITION" --job-name="$JOB_NAME" \
    --gres="gpu:$GPUS_PER_NODE" --ntasks="$GPUS" --ntasks-per-node="$GPUS_PER_NODE" \
    --cpus-per-task="${CPUS_PER_TASK:-5}" --kill-on-bad-exit=1 ${MORE[@]+"${MORE[@]}"} \
    python -u "$TOOLS/train.py" "$CONFIG" --launcher slurm "$@"
