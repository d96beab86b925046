#!/usr/bin/env bash
# Opens an issue called $TITLE that points to the run $RUN, or adds the run to the one that is open already.
set -euo pipefail

body="$RUN (its last step prints the versions)"
open=$(gh issue list --state open --search "in:title \"$TITLE\"" --json number --jq '.[0].number')
if [ -n "$open" ]; then
  gh issue comment "$open" --body "$body"
else
  gh issue create --title "$TITLE" --label bug --body "$body"
fi
