#!/usr/bin/env bash
# Train with one process per GPU, on one machine or several.
set -euo pipefail

if [ $# -lt 2 ]; then
    echo "usage: [NNODES=1 NODE_RANK=0 MASTER_ADDR=127.0.0.1 PORT=29500] $0 CONFIG GPUS [arguments of train.py]" >&2
    exit 2
fi

CONFIG=$1
GPUS=$2
shift 2
TOOLS=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
NNODES=${NNODES:-1}

if [ "$NNODES" -eq 1 ] && [ -z "${PORT:-}" ]; then
    MEET=(--standalone)  # a free port, so that two jobs on a machine do not collide
else
    MEET=(--nnodes="$NNODES" --node_rank="${NODE_RANK:-0}"
          --master_addr="${MASTER_ADDR:-127.0.0.1}" --master_port="${PORT:-29500}")
fi

export PYTHONPATH="$(dirname "$TOOLS")${PYTHONPATH:+:$PYTHONPATH}"
exec python -m torch.distributed.run "${MEET[@]}" --nproc_per_node="$GPUS" \
    "$TOOLS/train.py" "$CONFIG" --launcher pytorch "$@"
