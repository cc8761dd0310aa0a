"""Training of the generator of clips: the autoencoder, the flow to its codes, and a critic that makes it sharp."""

import keras
import numpy as np
import tensorflow as tf
from scipy.optimize import linear_sum_assignment

from tools.train import clips
from tools.train.clip_generator import CODE, LATENT
from tools.train.clip_training import Course, rate
from tools.train.clips import folded

BATCH = 16
DRAWN = 6  # frames of a clip that a step draws: three times two neighbours
NATS = 1e-4  # weight of the divergence between posterior and prior of the codes
EMA, EMA_SHARPENING = 0.998, 0.985
PAIRED = 256  # codes of a step of the flow
SHARPNESS = 0.7  # length of the critic's gradient relative to that of the distance
PENALTY, PENALTY_EVERY = 2.0, 8  # of the critic's gradient at real frames (Mescheder et al. 2018)


def distance(true, drawn, weight):
    """Return the mean absolute error of pixels (weighted), of changes between neighbours in time, and of edges.

    Frames come in pairs of neighbours. Edges wrap around, as a roll is many times faster than the gradient of slices.
    """
    error = drawn - true
    first, second = tf.unstack(tf.reshape(error * weight, [-1, 2, *error.shape[2:]]), axis=1)
    images = folded(error)
    across = sum(tf.reduce_mean(tf.abs(images - tf.roll(images, 1, axis))) for axis in (1, 2))
    return tf.reduce_mean(tf.abs(error) * weight) + tf.reduce_mean(tf.abs(second - first)) + across


def importance(true, clip):
    """Return the weight of each pixel of the frames `true` of a clip: large where something moves."""
    moving = tf.abs(true - tf.reduce_mean(clip, 1, keepdims=True))
    return 1.0 + 8.0 * tf.minimum(2.0 * tf.reduce_max(moving, -1, keepdims=True), 1.0)


def some_times(pairs):
    """Return the numbers [2 pairs] of random frames, each with its successor."""
    first = tf.random.shuffle(tf.range(clips.FRAMES - 1))[:pairs]
    return tf.reshape(tf.stack([first, first + 1], 1), [-1])


def slightly_varied(clip):
    """Change the colours of real clips a little, so that a generator sees more of them; the strips hold their mirror images."""
    return clips.recoloured(clip, 0.06)


def autoencoder_lesson(encoder, decoder, averages, optimizer):
    """Return a compiled step of the autoencoder: uint8 clips -> (distance, divergence in nats)."""
    variables = encoder.trainable_variables + decoder.trainable_variables

    @tf.function
    def step(pixels):
        clip = slightly_varied(clips.as_clip(pixels))
        times = some_times(DRAWN // 2)
        true = tf.gather(clip, times, axis=1)
        weight = importance(true, clip)
        with tf.GradientTape() as tape:
            mean, log_deviation = encoder(clip)
            code = mean + tf.exp(log_deviation) * tf.random.normal(tf.shape(mean))
            error = distance(true, decoder(code, times), weight)
            nats = 0.5 * tf.reduce_mean(tf.reduce_sum(mean**2 + tf.exp(2 * log_deviation) - 2 * log_deviation - 1.0, 1))
            loss = error + NATS * nats
        optimizer.apply(tape.gradient(loss, variables), variables)
        for average, variable in zip(averages, variables, strict=True):
            average.assign(EMA * average + (1 - EMA) * variable)
        return error, nats

    return step


def copies(variables):
    """Return new variables with the same values."""
    return [tf.Variable(tf.convert_to_tensor(variable), trainable=False) for variable in variables]


def train_autoencoder(encoder, decoder, strips, work, steps, watch=None):
    """Train encoder and decoder, and leave the averages of their weights in them; resumes in `work`."""
    tf.random.set_seed(3)
    decoder(encoder(tf.zeros([1, clips.FRAMES, clips.SIZE, clips.SIZE, 3]))[0])
    variables = encoder.trainable_variables + decoder.trainable_variables
    optimizer = keras.optimizers.Adam(rate(1.5e-3, steps), beta_2=0.99, global_clipnorm=1.0)
    optimizer.build(variables)
    averages = copies(variables)
    course = Course(work, "autoencoder", [*variables, *averages, *optimizer.variables], every=250)
    windows, step = clips.Windows(strips, speeds=(0.97, 1.03)), autoencoder_lesson(encoder, decoder, averages, optimizer)

    def run(number):
        return dict(zip(("distance", "nats"), step(windows.batch(BATCH, 3, number)[0]), strict=True))

    course.run(steps, run, watch)
    for variable, average in zip(variables, averages, strict=True):
        variable.assign(average)


def codes(encoder, strips, count, seed=5):
    """Return (means, standard deviations) [N, CODE] of the codes of `count` windows of real clips."""
    encode = tf.function(lambda pixels: encoder(slightly_varied(clips.as_clip(pixels))), reduce_retracing=True)
    windows = clips.Windows(strips, speeds=(0.97, 1.03))
    found = [encode(windows.batch(64, seed, number)[0]) for number in range(-(-count // 64))]
    means, log_deviations = (np.concatenate(parts) for parts in zip(*found, strict=True))
    return means, np.exp(log_deviations)


def train_flow(flow, means, deviations, work, steps):
    """Train the flow to map normal numbers to codes; resumes in `work`. Numbers and codes of a batch are paired optimally."""
    flow(tf.zeros([1, CODE]), tf.zeros([1, 1]))
    centre, scale = means.mean(0), np.sqrt(means.var(0) + (deviations**2).mean(0))
    flow.centre.assign(centre)
    flow.scale.assign(scale)
    optimizer = keras.optimizers.Adam(rate(2e-3, steps), global_clipnorm=1.0)
    optimizer.build(flow.trainable_variables)
    averages = copies(flow.trainable_variables)
    course = Course(work, "flow", [*flow.variables, *averages, *optimizer.variables], every=2000)

    @tf.function
    def lesson(start, end, time):
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean((flow(start + time * (end - start), time) - (end - start)) ** 2)
        optimizer.apply(tape.gradient(loss, flow.trainable_variables), flow.trainable_variables)
        for average, variable in zip(averages, flow.trainable_variables, strict=True):
            average.assign(EMA * average + (1 - EMA) * variable)
        return loss

    def run(number):
        rng = np.random.default_rng((6, number))
        rows = rng.integers(len(means), size=PAIRED)
        end = (means[rows] + deviations[rows] * rng.standard_normal((PAIRED, CODE)) - centre) / scale
        start = rng.standard_normal((PAIRED, CODE))
        costs = (start**2).sum(1)[:, None] + (end**2).sum(1)[None] - 2 * start @ end.T
        end = end[linear_sum_assignment(costs)[1]]
        time = rng.uniform(size=(PAIRED, 1))
        return {"loss": lesson(*(x.astype("float32") for x in (start, end, time)))}

    course.run(steps, run)
    for variable, average in zip(flow.trainable_variables, averages, strict=True):
        variable.assign(average)


def as_pairs(frames):
    """Return what the critic sees of frames [B, 2 P, H, W, C]: [B P, H, W, 2 C]."""
    first, second = tf.unstack(tf.reshape(frames, [-1, 2, *frames.shape[2:]]), axis=1)
    return tf.concat([first, 4.0 * (second - first)], -1)


def sharpening_lesson(encoder, generator, averages, critic, optimizers):
    """Return a compiled step: (uint8 clips, z, whether to penalize) -> (distance, critic's opinion of real and drawn ones)."""
    decoder = generator.decoder
    variables = decoder.trainable_variables

    @tf.function
    def step(pixels, z, penalize):
        clip = slightly_varied(clips.as_clip(pixels))
        times = some_times(DRAWN // 3)
        true = tf.gather(clip, times, axis=1)
        weight = importance(true, clip)
        mean, log_deviation = encoder(clip)
        code = tf.concat([mean + tf.exp(log_deviation) * tf.random.normal(tf.shape(mean)), generator.code(z)], 0)
        with tf.GradientTape() as tape:
            drawn = decoder(code, times)
        half = tf.shape(clip)[0]
        with tf.GradientTape(persistent=True) as image_tape:
            image_tape.watch(drawn)
            error = distance(true, drawn[:half], weight)
            praise = tf.reduce_mean(critic(as_pairs(drawn)))
        towards, sharper = image_tape.gradient(error, drawn), image_tape.gradient(praise, drawn)
        ratio = tf.norm(towards) / (tf.norm(sharper[:half]) + 1e-12)
        gradient = towards - SHARPNESS * ratio * sharper
        optimizers[0].apply(tape.gradient(drawn, variables, output_gradients=gradient), variables)
        for average, variable in zip(averages, variables, strict=True):
            average.assign(EMA_SHARPENING * average + (1 - EMA_SHARPENING) * variable)
        real, fake = as_pairs(true), as_pairs(drawn)
        with tf.GradientTape() as tape:
            with tf.GradientTape() as inner:
                inner.watch(real)
                of_real = critic(real)
                whole = tf.reduce_sum(of_real)
            of_fake = critic(fake)
            loss = tf.reduce_mean(tf.nn.relu(1.0 - of_real)) + tf.reduce_mean(tf.nn.relu(1.0 + of_fake))
            if penalize:
                slope = inner.gradient(whole, real) / tf.cast(tf.shape(of_real)[1], tf.float32)
                loss += PENALTY * PENALTY_EVERY * tf.reduce_mean(tf.reduce_sum(slope**2, [1, 2, 3]))
        found = tape.gradient(loss, critic.trainable_variables)
        optimizers[1].apply(found, critic.trainable_variables)
        return error, tf.reduce_mean(of_real), tf.reduce_mean(of_fake)

    return step


def sharpen(encoder, generator, critic, strips, work, steps, watch=None):
    """Train the decoder on against a critic, with the distance as an anchor; resumes in `work`."""
    tf.random.set_seed(7)
    generator(tf.zeros([1, LATENT]))
    critic(tf.zeros([1, clips.SIZE, clips.SIZE, 6]))
    both = (generator.decoder.trainable_variables, critic.trainable_variables)
    optimizers = [keras.optimizers.Adam(rate(peak, steps), beta_1=0.0, beta_2=0.99) for peak in (7e-4, 4e-4)]
    for optimizer, variables in zip(optimizers, both, strict=True):
        optimizer.build(variables)
    averages = copies(both[0])
    course = Course(
        work, "sharpening", [*both[0], *both[1], *averages, *optimizers[0].variables, *optimizers[1].variables], 100
    )
    step = sharpening_lesson(encoder, generator, averages, critic, optimizers)
    windows = clips.Windows(strips, speeds=(0.97, 1.03))

    def run(number):
        z = np.random.default_rng((8, number)).standard_normal((BATCH, LATENT)).astype("float32")
        found = step(windows.batch(BATCH, 7, number)[0], z, number % PENALTY_EVERY == 0)
        return dict(zip(("distance", "of_real", "of_drawn"), found, strict=True))

    course.run(steps, run, watch)
    for variable, average in zip(both[0], averages, strict=True):
        variable.assign(average)
