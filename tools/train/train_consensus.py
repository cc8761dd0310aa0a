"""Trains a classifier on the consensus of two others, in stages that resume after an interruption.

    python -m tools.train.train_consensus run --work=DIR --data=PHOTOGRAPHS --others=PHOTOGRAPHS --teacher=MODEL
        [--draws=200000] [--rounds=2]

`run` starts from the shipped generator, the photographs and the teacher (see train_classifier.py), and EfficientNet-Lite1's
ImageNet weights (extra `train`). The target of a draw is p(class) by the teacher times p(class) by Lite1 at 112 pixels, and the
rest goes to "other"; the target of a photograph is its label.

The stages are a head on a frozen Lite1 with an input of `--size` pixels (`head_early` on a tenth of the draws, `head` on all);
fine-tuning of its later blocks (`tune`); rounds (`tune_round1`...), each with fresh prior draws that the student of the
previous round keeps and the teachers label; and the last of these made softer, with equally frequent classes (`..._balanced`).
DIR keeps the draws, the features, the weights of each stage as .npz, and figures.csv with the results of `measure` after each
stage. `export` writes a SavedModel and its card, to saved_models/classifier by default.
"""

from tools.command import run as run_command


def run(work, data, others, teacher, draws=200_000, rounds=2, size=96, models=None, head_steps=4000, tune_steps=3000):
    """Run all stages. The first head, on a tenth of the draws, is an early estimate. A round takes `tune_steps` / 2."""
    from tools.train.consensus_stages import BALANCED_STAGE, Studio, balance, label_round, say, train_head, tune
    from tools.train.label_draws import CHUNK, claim, label_all
    from tools.train.measure_consensus import is_measured, measure_stage

    studio = Studio(work, data, others, teacher, size, models)
    claim(studio.draws, studio.models / "generator", studio.teacher)
    label = lambda kind, count: label_all(studio.draws, kind, count, lambda: studio.teachers, say=say)  # noqa: E731

    def finish(stage, is_new=False):
        if is_new or not is_measured(studio, stage):
            measure_stage(studio, stage, say)

    label("prior", max(draws // 10, 2 * CHUNK))
    finish("teachers")
    finish("teacher")
    train_head(studio, "head_early", head_steps)
    finish("head_early")
    label("prior", draws)
    label("near", draws // 10)
    finish("teachers")
    finish("teacher")
    train_head(studio, "head", head_steps)
    finish("head")
    tune(studio, "tune", "head", tune_steps)
    finish("tune")
    before = "tune"
    for k in range(1, rounds + 1):
        label_round(studio, f"round{k}", before, draws // 10)
        tune(studio, f"tune_round{k}", before, tune_steps // 2, rate=1e-4)
        before = f"tune_round{k}"
        finish(before)
    last = before + BALANCED_STAGE
    finish(last, is_new=balance(studio, last, before))
    say(f"done: {studio.weights(last)}; figures in {studio.work}/figures.csv")


def measure(work, data, others, teacher, stage, size=96, models=None):
    """Measure one stage again, or `teacher` or `teachers`, and print the results."""
    from tools.train.consensus_stages import Studio, say
    from tools.train.label_draws import claim
    from tools.train.measure_consensus import measure_stage

    studio = Studio(work, data, others, teacher, size, models)
    claim(studio.draws, studio.models / "generator", studio.teacher)
    measure_stage(studio, stage, say)


def export(work, data, others, teacher, stage, out="saved_models/classifier", size=96, models=None, licence=None):
    """Write the student of `stage` to the folder `out`, with large kernels in 16 bits."""
    from tools.train.consensus_stages import Studio, say, write_model

    write_model(Studio(work, data, others, teacher, size, models), stage, out, licence)
    say(f"exported {stage} to {out}")


if __name__ == "__main__":
    run_command({fn.__name__: fn for fn in (run, measure, export)})
