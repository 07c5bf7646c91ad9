#!/usr/bin/env bash
# Sweeps the size of one or more compressions on one task; ends in the table and the Pareto plot.
set -euo pipefail
set -f # '*' and '[2,8,64]' in a knob are meant as they are
cd "$(dirname "${BASH_SOURCE[0]}")"

TASK=${TASK:-MRPC}
ENCODER=${ENCODER:-minilm}
DECOMP=${DECOMP:-svd tucker_4d}
KEEP=${KEEP:-0.5 0.25 0.1}
RANKS=${RANKS:-} # not RANK, which is the number of a process to PyTorch
KD=${KD:-lobert}
SEEDS=${SEEDS:-0}
EXTRA=${EXTRA:-}
OUTPUTS=${OUTPUTS:-outputs}
PYTHON=${PYTHON:-$([ -x .venv/bin/python ] && echo .venv/bin/python || echo python)}

if [ "${1:-}" = --help ] || [ "${1:-}" = -h ]; then
    cat <<EOF
DECOMP="svd tucker_4d" KEEP="0.5 0.1" ./sweep.sh    every knob is a variable; lists are separated by spaces

  TASK     $TASK
  ENCODER  $ENCODER
  DECOMP   $DECOMP
  KEEP     $KEEP    shares of the parameters that stay
  RANKS    $RANKS    exact ranks, instead of KEEP
  KD       $KD
  SEEDS    $SEEDS
  EXTRA    $EXTRA    more settings, as for train.py
  OUTPUTS  $OUTPUTS    relative to the project; runs finished there are not run again
  PYTHON   $PYTHON
EOF
    exit 0
fi
if [ $# -gt 0 ]; then
    echo "error: '$1' is not understood: settings are variables, see ./sweep.sh --help" >&2
    exit 2
fi

commas() { local items; read -ra items <<<"$1"; local IFS=,; echo "${items[*]}"; }

if [ -n "$RANKS" ]; then size="decomp.rank=$(commas "$RANKS")"; else size="decomp.keep=$(commas "$KEEP")"; fi

# shellcheck disable=SC2086 # EXTRA holds several arguments
exec "$PYTHON" train.py -m "task=$TASK" "encoder=$(commas "$ENCODER")" "kd=$(commas "$KD")" "decomp=$(commas "$DECOMP")" \
    "$size" "seed=$(commas "$SEEDS")" "output_dir=$OUTPUTS" $EXTRA
