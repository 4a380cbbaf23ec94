#!/bin/sh
# Second step, on every node: the training. accelerate expands no variables in its file, so the values of a node are on the command
# line, which overrides the file. A pod that restarts after the end of the training does nothing.
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
