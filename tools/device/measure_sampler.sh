#!/bin/sh
# The one call on a machine with a GPU, from the root of the repository: tools/device/measure_sampler.sh [flags].
# Results go into $OUT, by default device_out. Wheels that the machine lacks are taken from device_in/wheels.
set -e
out="${OUT:-device_out}"
mkdir -p "$out"
if ls device_in/wheels/*.whl >/dev/null 2>&1; then
    site=$(mktemp -d)
    python3 -m pip install -q --no-index --no-deps --no-compile --target "$site" device_in/wheels/*.whl \
        || echo "measure_sampler: the wheels COULD NOT BE INSTALLED; torch and blackjax will not run"
    export PYTHONPATH="$site"
fi
# TensorFlow is not there. The networks of tools/bench are Keras's.
export PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}" PYTHONUNBUFFERED=1 TF_CPP_MIN_LOG_LEVEL=2
nvidia-smi --query-gpu=name,driver_version,clocks.sm,clocks.max.sm,power.limit --format=csv || echo "no nvidia-smi"
python3 -m tools.device.measure_sampler --out="$out" "$@"
