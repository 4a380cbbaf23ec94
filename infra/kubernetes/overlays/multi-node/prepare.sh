#!/bin/sh
# First step on every node: node 0 gets the revision and prepares the store, the others wait for it. Marks are kept by Job, so
# that nobody takes an earlier Job's store for this one's.
set -eu
marks="$WORK/jobs/$JOB_UID"
if [ "$JOB_COMPLETION_INDEX" -ne 0 ]; then
    until [ -e "$marks/prepared" ]; do sleep 1; done
    exit 0
fi
if [ ! -e "$marks/prepared" ]; then
    sh /etc/anyres-source/source.sh
    cd "$WORK/anyres"
    dvc repro prepare
    mkdir -p "$marks"
    touch "$marks/prepared"
fi
