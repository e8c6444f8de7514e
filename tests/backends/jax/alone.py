"""A convolution and a dense layer learn by a module's rule for a few steps; run as a program, without ruledsl."""

from __future__ import annotations

import importlib.abc
import inspect
import sys
from typing import Any

FORBIDDEN = ("ruledsl", "ruledsl_jax", "ruledsl_torch", "lark", "pydantic", "jinja2", "torch", "flax")
CLASSES, BATCH = 3, 4
KINDS = (
    "kolen_pollack",
    "weight_mirror",
    "direct_feedback_alignment",
    "dense_feedback_alignment",
    "activation_alignment",
)
"""One rule of each kind: what all rules are asked for takes minutes."""


class Absent(importlib.abc.MetaPathFinder):
    """Lets nothing of the project be imported."""

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> None:
        """Raises ImportError for what is to be absent."""
        if name.partition(".")[0] in FORBIDDEN:
            raise ImportError(f"{name} is not here")


def network(module: Any) -> tuple[Any, Any, Any]:
    """init(key), loss(params, state, x, labels) and step(params, state, key), of a module's rule."""
    import jax
    from jax import numpy as jnp

    if hasattr(module, "Convolution"):
        Dense, Convolution = module.Dense, module.Convolution
    else:
        from ruledsl_jax.linear import Convolution, Dense
    layers = [Convolution(2, 3, (3, 3), (5, 4)), Dense(18, 5), Dense(5, CLASSES)]
    shapes = [(5, 4, 2), (18,), (5,)]
    told = {"classes": CLASSES, "phi": jnp.tanh, "batch_size": BATCH}
    told |= {"step": 1.0, "epoch": 0.0, "progress": 0.1, "lr": 0.1}

    def call(function: Any, *given: Any, **more: Any) -> Any:
        names, known = list(inspect.signature(function).parameters)[len(given) :], {**told, **more}
        return function(*given, **{name: known[name] for name in names if name in known})

    def init(key: Any) -> Any:
        keys = jax.random.split(key, len(layers))
        made = [
            call(module.init, layer, keys[i], downstream=layers[i + 1 :], sends=i > 0) for i, layer in enumerate(layers)
        ]
        return [params for params, _ in made], [state for _, state in made]

    def loss(params: Any, state: Any, x: Any, labels: Any) -> Any:
        zeros: Any = module.perturbations(layers, x) if hasattr(module, "perturbations") else None
        target, u, extra = jax.nn.one_hot(labels, CLASSES), x, 0.0
        for index, layer in enumerate(layers):
            v = u.reshape(len(x), *shapes[index])
            v = jnp.tanh(v) if index else v
            result = call(module.apply, layer, params[index], state[index], v, zeros=zeros, target=target)
            u, *more = result if isinstance(result, tuple) else (result,)
            if zeros is not None:
                zeros = more[-1]
            elif more:
                extra = extra + more[0]
        return -jax.nn.log_softmax(u + extra)[jnp.arange(len(x)), labels].mean()

    def step(params: Any, state: Any, key: Any, x: Any, labels: Any) -> Any:
        keys = jax.random.split(key, len(layers))
        gradients, changes = jax.grad(loss, (0, 1))(params, state, x, labels)
        params, state = jax.tree.map(lambda p, g: p - 0.1 * g, params, gradients), list(state)
        for i, layer in enumerate(layers[1:], 1):
            if hasattr(module, "advance"):
                given = {"changes": changes[i], "key": keys[i]}
                params[i], state[i] = call(module.advance, layer, params[i], state[i], **given)
            for phase in [name for name in ("align", "mirror") if hasattr(module, name)]:
                v = jax.random.normal(keys[i], (BATCH, *shapes[i]))
                result = call(getattr(module, phase), layer, params[i], state[i], key=keys[i], x=v)
                for part in result if type(result) is tuple else (result,):
                    if isinstance(part, module.State):
                        state[i] = part
                    elif isinstance(part, module.Params):
                        params[i] = params[i]._replace(B=params[i].B - 0.1 * part.B)
        return params, state

    return init, loss, step


def batch(seed: int = 0) -> tuple[Any, Any]:
    """x and labels."""
    import jax

    return jax.random.normal(jax.random.key(seed), (BATCH, 5, 4, 2)), jax.numpy.arange(BATCH) % CLASSES


def learn(module: Any) -> list[Any]:
    """All weights and states after three steps of all phases."""
    import jax

    init, _, step = network(module)
    params, state = init(jax.random.key(1))
    step = jax.jit(step)
    for index in range(3):
        params, state = step(params, state, jax.random.key(index), *batch())
    return list(jax.tree.leaves((params, state)))


if __name__ == "__main__":
    sys.meta_path.insert(0, Absent())
    import numpy as np

    folder, *names = sys.argv[1:]
    sys.path.insert(0, folder)
    learned = {name: learn(__import__(name)) for name in names}
    assert not any(name.partition(".")[0] in FORBIDDEN for name in sys.modules)
    np.savez(f"{folder}/learned.npz", **{f"{n} {i}": v for n, values in learned.items() for i, v in enumerate(values)})
