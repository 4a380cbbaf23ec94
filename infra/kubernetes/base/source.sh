#!/bin/sh
# The repository at one revision in /srv/anyres. What runs have made there stays; a changed file of the repository stops it.
set -eu
if [ ! -d "$WORK/anyres/.git" ]; then
    git clone --quiet --no-checkout "$REPOSITORY" "$WORK/anyres"
fi
cd "$WORK/anyres"
git fetch --quiet "$REPOSITORY" "$REVISION"
git checkout --quiet --detach FETCH_HEAD
git log -1 --oneline
