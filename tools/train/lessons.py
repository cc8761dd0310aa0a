"""Common parts of training classifiers: epochs that can be resumed, a model whose output is its loss, and its training."""

import keras


class Epochs(keras.utils.PyDataset):
    """Epochs of `steps` batches. `num_seen_fn` returns the number of batches so far, including earlier processes."""

    def __init__(self, steps, **kwargs):
        super().__init__(**kwargs)
        self.steps, self.epoch = steps, 0
        self.num_seen_fn = lambda: 0

    def __len__(self):
        return self.steps

    def on_epoch_begin(self):
        self.epoch = self.num_seen_fn() // self.steps  # also correct right after a resume


class LossModel(keras.Model):
    """A model for `fit` whose output is the loss of the batch, which `call` of a subclass returns."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.tracker = keras.metrics.Mean(name="cross_entropy")

    @property
    def metrics(self):
        return [self.tracker]

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        return y_pred

    def compute_metrics(self, x, y, y_pred, sample_weight=None):
        self.tracker.update_state(y_pred)
        return self.get_metrics_result()


def fit_averaged(lesson, batches, epochs, folder, rate, watch=(), num_norm_batches=120, weight_decay=0.05, momentum=0.995):
    """Fit `lesson` on `batches` (`Epochs`) for `epochs` in total, resuming from `folder`; leaves averaged weights in the model.

    AdamW with a warm-up to `rate`, a cosine schedule and averaged weights (EMA); then the statistics of batch normalization
    are computed for them.

    Args:
      lesson: A `LossModel`.
      batches: The batches of an epoch.
      epochs: Number of epochs.
      folder: For the checkpoint and the log.
      rate: The largest learning rate.
      watch: Further callbacks.
      num_norm_batches: Number of batches for those statistics.
      weight_decay: Weight decay of AdamW.
      momentum: Momentum of the averages.
    """
    batches.num_seen_fn = lambda: int(lesson.optimizer.iterations.numpy())
    steps = epochs * len(batches)
    warmup = min(200, steps // 10)
    schedule = keras.optimizers.schedules.CosineDecay(0.0, steps - warmup, warmup_target=rate, warmup_steps=warmup)
    lesson.compile(
        optimizer=keras.optimizers.AdamW(
            schedule, weight_decay=weight_decay, beta_2=0.99, global_clipnorm=3.0, use_ema=True, ema_momentum=momentum
        ),
        jit_compile=keras.backend.backend() == "jax",
    )
    lesson.optimizer.build(lesson.trainable_variables)
    lesson.fit(
        batches,
        epochs=epochs,
        verbose=2,
        callbacks=[
            keras.callbacks.BackupAndRestore(folder / "backup", double_checkpoint=True, delete_checkpoint=False),
            keras.callbacks.CSVLogger(folder / "log.csv", append=True),
            keras.callbacks.SwapEMAWeights(swap_on_epoch=True),
            *watch,
        ],
    )
    for k in range(num_norm_batches):
        lesson(batches[k % len(batches)][0], training=True)
