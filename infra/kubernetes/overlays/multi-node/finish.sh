#!/bin/sh
# Last step, only on node 0: the ordinary pipeline. Its stage `train` resumes from the last checkpoint of this training and ends at
# once. Then it evaluates, exports and registers.
set -eu
if [ "$JOB_COMPLETION_INDEX" -ne 0 ]; then exit 0; fi
touch "$WORK/jobs/$JOB_UID/trained"
cd "$WORK/anyres"
exec python -m pipelines.flow
