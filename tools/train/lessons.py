"""Common parts of training classifiers: epochs that can be resumed, and a model whose output is its loss."""

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
