#!/bin/sh
# Last step, node 0 alone: the ordinary pipeline. It finds the last checkpoint of this training, so its stage `train` ends at once,
# and goes on to evaluate, export and register.
set -eu
if [ "$JOB_COMPLETION_INDEX" -ne 0 ]; then exit 0; fi
touch "$WORK/jobs/$JOB_UID/trained"
cd "$WORK/anyres"
exec python -m pipelines.flow
