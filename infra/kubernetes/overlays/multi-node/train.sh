#!/bin/sh
# Second step on every node: its part of the training. accelerate expands no variables in its file, and what differs from node to
# node overrides the file on the command line. A pod that comes back after the training has ended has nothing to do.
set -eu
if [ -e "$WORK/jobs/$JOB_UID/trained" ]; then exit 0; fi
cd "$WORK/anyres"
exec python -m accelerate.commands.launch \
    --config_file infra/accelerate/nodes.yaml \
    --num_machines "$NODES" \
    --num_processes "$((NODES * GPUS_PER_NODE))" \
    --machine_rank "$JOB_COMPLETION_INDEX" \
    --main_process_ip "$MAIN_ADDRESS" \
    --main_process_port "$MAIN_PORT" \
    -m anyres train --params params.yaml --store data/store --out out/train --runs out/runs
