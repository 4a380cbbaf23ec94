#!/bin/sh
# First step, on every node: node 0 checks out the revision and prepares the store; the others wait for it. Each Job has its own
# marker files, so that no node mistakes an earlier Job's store for this Job's.
set -eu
markers="$WORK/jobs/$JOB_UID"
if [ "$JOB_COMPLETION_INDEX" -ne 0 ]; then
    until [ -e "$markers/prepared" ]; do sleep 1; done
    exit 0
fi
if [ ! -e "$markers/prepared" ]; then
    sh /etc/anyres-source/source.sh
    cd "$WORK/anyres"
    dvc repro prepare
    mkdir -p "$markers"
    touch "$markers/prepared"
fi
