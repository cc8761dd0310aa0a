"""Training on a GPU with JAX: many steps a call, with the data in the device's memory."""

import time
from typing import Any

import jax
import jax.numpy as jnp
import keras


def pure(fn, variables):
    """Return `fn` as a function (values of `variables`, *arguments) without side effects."""

    def run(values, *args):
        with keras.StatelessScope(state_mapping=list(zip(variables, values, strict=True))):
            return fn(*args)

    return run


def values_of(variables):
    """Return the arrays of variables."""
    return [variable.value for variable in variables]


class Scanned:
    """Trains a Keras model that returns its loss, alone or under "loss" in a dictionary.

    A call of `run` makes `steps` steps in one compiled loop. `batch_fn(key, data)` draws a batch on the device. `data` may be
    shapes (`jax.ShapeDtypeStruct`) at first, so that the loop is compiled while the data is not there yet.

    Attributes:
      state: Values of the trainable variables, of the others, and of the optimizer.
    """

    def __init__(self, model, optimizer, batch_fn, data, steps=50, seed=0):
        self.model, self.optimizer, self.data, self.steps = model, optimizer, data, steps
        self.key, self.num_steps = jax.random.key(seed), 0
        self.trainable, self.fixed = list(model.trainable_variables), list(model.non_trainable_variables)
        optimizer.build(self.trainable)
        self.state: Any = ()
        self.refresh()

        def loss_fn(trainable, fixed, batch):
            outputs, fixed = model.stateless_call(trainable, fixed, batch, training=True)
            outputs = outputs if isinstance(outputs, dict) else {"loss": outputs}
            return outputs["loss"], (fixed, outputs)

        def step(carried, key):
            (trainable, fixed, of_optimizer), data = carried
            batch = batch_fn(key, data)
            grads, (fixed, outputs) = jax.grad(loss_fn, has_aux=True)(trainable, fixed, batch)
            trainable, of_optimizer = optimizer.stateless_apply(of_optimizer, grads, trainable)
            return ((trainable, fixed, of_optimizer), data), outputs

        def run(state, key, data):
            (state, _), outputs = jax.lax.scan(step, (state, data), jax.random.split(key, steps))
            return state, jax.tree.map(lambda x: jnp.mean(x[-10:]), outputs)

        self.lowered = jax.jit(run, donate_argnums=0).lower(self.state, self.key, data)
        self.compiled: Any = None

    def refresh(self):
        """Take the values of all variables."""
        groups = (self.trainable, self.fixed, self.optimizer.variables)
        self.state = tuple([jnp.array(value) for value in values_of(group)] for group in groups)  # copies: `run` donates them

    def compile(self):
        """Compile the loop; other threads can run meanwhile."""
        self.compiled = self.lowered.compile()
        return self

    def learn(self, seconds, rate_fn):
        """Train for `seconds`; `rate_fn(share of the time)` is the learning rate. Returns the last outputs, {name: float}."""
        start = time.monotonic()
        outputs: dict[str, float] = {}
        while (spent := time.monotonic() - start) < seconds or not outputs:
            self.set_rate(rate_fn(min(1.0, spent / max(seconds, 1e-6))))
            outputs = {name: float(value) for name, value in self.run().items()}  # waits for the device
        return outputs

    def set_rate(self, rate):
        """Set the learning rate of the next steps."""
        at = next(k for k, variable in enumerate(self.optimizer.variables) if "learning_rate" in variable.path)
        self.state[2][at] = jnp.asarray(rate, self.state[2][at].dtype)

    def run(self):
        """Make `steps` steps; returns the outputs of the model, means over the last of them."""
        if self.compiled is None:
            self.compile()
        self.state, outputs = self.compiled(self.state, jax.random.fold_in(self.key, self.num_steps), self.data)
        self.num_steps += self.steps
        return outputs

    def averages(self):
        """Return the averaged values of the trainable variables, as the optimizer keeps them."""
        places = {id(variable): k for k, variable in enumerate(self.optimizer.variables)}
        return [self.state[2][places[id(average)]] for average in self.optimizer._model_variables_moving_average]

    def assign(self, averaged=True):
        """Write the values into the variables of the model, those trained averaged by default."""
        for variable, value in zip(self.trainable, self.averages() if averaged else self.state[0], strict=True):
            variable.assign(value)
        for variable, value in zip(self.fixed, self.state[1], strict=True):
            variable.assign(value)
