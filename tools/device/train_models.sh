#!/bin/bash
# Trains a generator and the classifier for it, in one call on a machine with a GPU that has JAX and no network.
#
#   bash tools/device/train_models.sh INPUTS WHEELS OUT FLAGS_OF_THE_GENERATOR FLAGS_OF_THE_CLASSIFIER
#   bash tools/device/train_models.sh INPUTS WHEELS OUT time [FLAGS_OF_THE_GENERATOR]
#
# The second form only compiles one recipe and trains it for a few seconds; it prints images a second. Run it first.
#
# Make INPUTS with `python -m tools.device.packed`, and WHEELS with
# `pip download --no-deps -d WHEELS keras optree namex fire termcolor`. OUT gets a few small files, refreshed while it runs.
set -u
inputs=$1 wheels=$2 out=$3 of_generator=$4 of_classifier=${5:-}
python3 -m pip install -q --no-index --no-deps --find-links="$wheels" keras optree namex fire termcolor
export KERAS_BACKEND=jax PYTHONUNBUFFERED=1 TF_CPP_MIN_LOG_LEVEL=2 XLA_PYTHON_CLIENT_PREALLOCATE=false
export JAX_COMPILATION_CACHE_DIR=/tmp/jax_cache JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS=0
# On an H100, with XLA's default flags, one training program (batch 256, bfloat16) was not compiled after 200 s: XLA tries many
# convolution algorithms, and nothing else runs on the GPU meanwhile. With --xla_gpu_autotune_level=0 three programs compiled
# within 60 s, but a step took 1 s, as no algorithm was chosen. A few candidates may be the way between; jaxlib 0.11.2 has these
# flags, but they have NOT been tried on a GPU.
default_flags="--xla_gpu_autotune_level=1 --xla_gpu_autotune_max_solutions=3 --xla_gpu_enable_triton_gemm=false"
export XLA_FLAGS="${XLA_FLAGS-$default_flags}"
work=$(mktemp -d)
mkdir -p "$work/generator" "$work/classifier" "$out"

if [ "$of_generator" = time ]; then
    python3 -m tools.device.train_generator --inputs="$inputs" --out="$work/generator" --time_only=True $of_classifier \
        2>&1 | tee "$out/time.log"
    exit "${PIPESTATUS[0]}"
fi

publish() {
    (cd "$work" && tar czf sheets.tar.gz $(find . -name '*.png') 2>/dev/null)
    for file in sheets.tar.gz generator/best.npz generator/best.json generator/log.csv classifier/student.npz \
        classifier/figures.json classifier.log; do
        [ -f "$work/$file" ] && cp "$work/$file" "$work/.part" && mv "$work/.part" "$out/$(basename $file)"
    done
}

(while sleep 30; do publish; done) &
refresh=$!
python3 -m tools.device.train_student --inputs="$inputs" --generator="$work/generator" --out="$work/classifier" \
    $of_classifier >"$work/classifier.log" 2>&1 &
student=$!
if python3 -m tools.device.train_generator --inputs="$inputs" --out="$work/generator" $of_generator; then
    wait $student
else
    kill $student
fi
kill $refresh
publish
grep -v "^[WIE][0-9]" "$work/classifier.log" | tail -30
ls -la "$out"
