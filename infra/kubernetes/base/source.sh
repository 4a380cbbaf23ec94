#!/bin/sh
# Checks out one revision of the repository in /srv/anyres. Outputs of runs stay; it fails if a tracked file was changed.
set -eu
if [ ! -d "$WORK/anyres/.git" ]; then
    git clone --quiet --no-checkout "$REPOSITORY" "$WORK/anyres"
fi
cd "$WORK/anyres"
git fetch --quiet "$REPOSITORY" "$REVISION"
git checkout --quiet --detach FETCH_HEAD
git log -1 --oneline
