#!/usr/bin/env bash
# Gets the labs ready in a JupyterLab space of SageMaker Studio: a lifecycle configuration, or run by hand.
#
# Studio waits five minutes for it. So it leaves at once, and what takes longer (clone, environment, kernel) goes on
# behind it and is told in ~/llm-course-labs.log, which ends in "ready". All of it lands below the home folder, which
# survives a restart: the next start finds it and does nothing, an interrupted one goes on.
set -euo pipefail

: "${HOME:=/home/sagemaker-user}"
REPOSITORY="${LABS_REPOSITORY:-}" # where git clones the labs from; not needed where they are in the home folder
LABS="${LABS_FOLDER:-$HOME/llm-course-labs}"
ENVIRONMENT="$HOME/.conda/envs/llm-course-labs"
LOG="$HOME/llm-course-labs.log"
export HF_HOME="${HF_HOME:-$HOME/.cache/huggingface}" # the hub's cache, for profiles with network = true
PATH="$PATH:/opt/conda/bin"

prepare() {
  if [ ! -d "$LABS" ]; then
    [ -n "$REPOSITORY" ] || { echo "no labs in $LABS: clone them there, or set LABS_REPOSITORY"; return 1; }
    git clone --quiet --depth 1 "$REPOSITORY" "$LABS.part"
    mv "$LABS.part" "$LABS"
  fi
  cd "$LABS"
  if [ "$ENVIRONMENT/.ready" -nt pyproject.toml ] && [ "$ENVIRONMENT/.ready" -nt constraints.txt ]; then
    echo "ready"
    return
  fi
  export PIP_USER=0  # else pip may install elsewhere
  if "$ENVIRONMENT/bin/python" -m pip --version > /dev/null 2>&1; then
    "$ENVIRONMENT/bin/python" -m pip install --quiet --constraint constraints.txt --editable .
  else
    rm -rf "$ENVIRONMENT"
    conda env create --quiet --file environment.yml --prefix "$ENVIRONMENT"
  fi
  "$ENVIRONMENT/bin/python" -m ipykernel install --user --name llm-course-labs --display-name "LLM Course Labs" \
    --env HF_HOME "$HF_HOME"
  touch "$ENVIRONMENT/.ready"
  echo "ready"
}

(
  trap '' HUP # go on when the script's own shell ends
  flock --nonblock 9 || exit 0 # an earlier start is still at it
  trap '[ $? = 0 ] || echo "FAILED: put right what the lines above say, then run this script again"' EXIT
  rm -rf "$LABS.part"
  echo "$(date '+%F %T') getting the labs ready"
  prepare
) >> "$LOG" 2>&1 < /dev/null 9> "$LOG.lock" &
