"""Models as users write them: fed by tests, never imported by autofash itself."""

import keras
import keras_tuner
from keras import layers


def build_model(hp):
    """KerasTuner's getting-started example, for 10 classes."""
    model = keras.Sequential()
    model.add(layers.Flatten())
    for i in range(hp.Int("num_layers", 1, 3)):
        model.add(
            layers.Dense(
                units=hp.Int(f"units_{i}", min_value=32, max_value=512, step=32),
                activation=hp.Choice("activation", ["relu", "tanh"]),
            )
        )
    if hp.Boolean("dropout"):
        model.add(layers.Dropout(rate=0.25))
    model.add(layers.Dense(10, activation="softmax"))
    learning_rate = hp.Float("lr", min_value=1e-4, max_value=1e-2, sampling="log")
    model.compile(
        optimizer=keras.optimizers.Adam(learning_rate=learning_rate),
        loss="categorical_crossentropy",
        metrics=["accuracy"],
    )
    return model


class Network(keras_tuner.HyperModel):
    """Conditional scopes, logits, labels as numbers, and a fit of its own that stops early."""

    def build(self, hp):
        kind = hp.Choice("kind", ["mlp", "cnn"])
        inputs = x = keras.Input((8, 8, 1))
        with hp.conditional_scope("kind", ["cnn"]):
            filters = hp.Int("filters", 8, 32, step=8)
            assert (filters is None) == (kind != "cnn")
            if kind == "cnn":
                x = layers.Conv2D(filters, 3, activation="relu")(x)
        x = layers.Flatten()(x)
        with hp.conditional_scope("kind", ["mlp"]), hp.name_scope("dense"):
            if kind == "mlp":
                x = layers.Dense(hp.Int("units", 16, 64, sampling="log"), activation="relu")(x)
        model = keras.Model(inputs, layers.Dense(10)(x))
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        model.compile("adam", loss, metrics=["accuracy"])
        return model

    def fit(self, hp, model, x, y, **kwargs):
        print("validated" if "validation_data" in kwargs else "not validated", x.dtype, x.shape, y.dtype)
        kwargs["callbacks"] = [*kwargs["callbacks"], keras.callbacks.TerminateOnNaN()]
        return model.fit(x, y, batch_size=hp.Choice("batch_size", [64, 128]), **kwargs)


class TwoPhases(keras_tuner.HyperModel):
    """First the head alone, then everything: two calls of model.fit."""

    def build(self, hp):
        model = keras.Sequential([keras.Input((8, 8)), layers.Flatten(), layers.Dense(16, name="base")])
        model.add(layers.Dense(10, activation="softmax"))
        model.compile(
            keras.optimizers.Adam(hp.Fixed("rate", 0.01)), "sparse_categorical_crossentropy", metrics=["accuracy"]
        )
        return model

    def fit(self, hp, model, *args, **kwargs):
        model.fit(*args, epochs=2, **kwargs)
        return model.fit(*args, epochs=9, **kwargs)


class OwnLoop(keras_tuner.HyperModel):
    """A training loop that never calls model.fit."""

    def build(self, hp):
        model = keras.Sequential([keras.Input((8, 8, 1)), layers.Flatten(), layers.Dense(10, activation="softmax")])
        model.compile("adam", "sparse_categorical_crossentropy")
        return model

    def fit(self, hp, model, x, y, **kwargs):
        for start in range(0, len(x), 64):
            model.train_on_batch(x[start : start + 64], y[start : start + 64])
        return {"val_accuracy": 0.1}


def define(trial):
    """As in an Optuna script: not compiled, and fed with flat images."""
    model = keras.Sequential([keras.Input((64,))])
    for i in range(trial.suggest_int("depth", 1, 2)):
        width = trial.suggest_int(f"width_{i}", 8, 64, log=True)
        model.add(layers.Dense(width, activation=trial.suggest_categorical("act", ["relu", None])))
    trial.set_user_attr("depth", trial.params["depth"])
    model.add(layers.Dense(10))
    return model


def broken(hp):
    return {}[hp.Choice("key", ["nothing"])]


def five_classes(hp):
    return keras.Sequential([keras.Input((8, 8, 1)), layers.Flatten(), layers.Dense(5)])


def forgetful(hp):
    keras.Sequential([keras.Input((8, 8, 1))])


NOTHING = 3


class Guide(keras_tuner.HyperModel):
    """A fit as KerasTuner's guides have it: every argument by its name, and what it returns read from the history."""

    build = TwoPhases.build

    def fit(self, hp, model, x, y, validation_data, epochs=1, callbacks=None):
        told = model.fit(x, y, validation_data=validation_data, epochs=epochs, callbacks=callbacks)
        told = model.fit(x, y, validation_data=validation_data, epochs=epochs, callbacks=callbacks)
        return max(told.history["val_accuracy"])


class Holding(keras.Model):
    """A model that holds a weight in no layer of its own."""

    def __init__(self):
        super().__init__()
        self.flatten, self.head = layers.Flatten(), layers.Dense(10, activation="softmax")
        self.steps = self.add_weight(shape=(), initializer="zeros", trainable=False, name="steps")

    def call(self, images, training=False):
        if training:
            self.steps.assign_add(1.0)
        return self.head(self.flatten(images))


def holding(hp):
    model = Holding()
    model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
    return model


def listed(hp):
    model = keras.Sequential([keras.Input((8, 8)), layers.Flatten(), layers.Dense(10)])
    model.compile("adam", [keras.losses.SparseCategoricalCrossentropy(from_logits=True)], metrics=["accuracy"])
    return model


def leaves(hp):
    raise SystemExit("no arguments were given")
