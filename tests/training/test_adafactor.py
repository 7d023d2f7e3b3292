"""Adafactor against the published algorithm, layer by layer, on plain matrices in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import PartitionSpec as P

from t5jax.training.adafactor import adafactor_state_axes, scale_by_adafactor

L, D, N, H, F, V = 3, 8, 2, 6, 10, 16  # layers, embed, heads, kv, mlp, vocab
LEAST = 8  # min_factored: everything that may be factored is, as in the published sizes

# Each kind of parameter: its axes, its shape, and where the rows (embed) of its matrix are.
AXES = {
    "query": P("layers", "embed", "heads", "kv"),
    "out": P("layers", "heads", "kv", "embed"),
    "wi": P("layers", "embed", "mlp"),
    "wo": P("layers", "mlp", "embed"),
    "embedding": P("vocab", "embed"),
    "head": P("embed", "vocab"),
    "norms": P("layers", "embed"),
    "norm": P("embed"),
    "bias": P("heads", "relpos_buckets"),
    "biases": P("layers", "heads", "relpos_buckets"),
}
SHAPES = {
    "query": (L, D, N, H),
    "out": (L, N, H, D),
    "wi": (L, D, F),
    "wo": (L, F, D),
    "embedding": (V, D),
    "head": (D, V),
    "norms": (L, D),
    "norm": (D,),
    "bias": (N, 32),
    "biases": (L, N, 32),
}
MATRICES = {  # the matrix that one layer of each is
    "query": (D, N * H),
    "out": (N * H, D),
    "wi": (D, F),
    "wo": (F, D),
    "embedding": (V, D),
    "head": (D, V),
}


def random_tree(seed, scale=1.0, dtype=np.float32):
    """Leaves and layers of different sizes, so that pooling over them shows."""
    rng = np.random.default_rng(seed)

    def leaf(name):
        shape = SHAPES[name]
        layer_scale = np.exp(rng.normal(size=(shape[0],) + (1,) * (len(shape) - 1)))
        return (scale * layer_scale * rng.normal(size=shape)).astype(dtype)

    return {name: leaf(name) for name in SHAPES}


def pick(tree, *names):
    return {name: tree[name] for name in names}


def run(optimizer, params, gradients, rate=-0.1):
    """Updates of every step, with parameters that move by `rate` times the update."""

    @jax.jit
    def step(gradient, state, params):
        update, state = optimizer.update(gradient, state, params)
        return update, state, jax.tree.map(lambda p, u: p + rate * u, params, update)

    state, updates = jax.jit(optimizer.init)(params), []
    for gradient in gradients:
        update, state, params = step(gradient, state, params)
        updates.append(jax.device_get(update))
    return updates, jax.device_get(state)


def rms(x):
    return np.sqrt(np.mean(np.square(x)))


def published(params, gradients, matrix, rate=-0.1):
    """Algorithms 4 (`matrix`) and 5 of the paper for one parameter, in float64."""
    x = np.asarray(params, np.float64)
    row, column, full, updates = 0.0, 0.0, 0.0, []
    for t, gradient in enumerate(gradients, start=1):
        g = np.asarray(gradient, np.float64)
        beta = 1 - t**-0.8
        squares = g**2 + 1e-30
        if matrix:
            row = beta * row + (1 - beta) * squares.sum(1)
            column = beta * column + (1 - beta) * squares.sum(0)
            estimate = np.outer(row, column) / row.sum()
        else:
            estimate = full = beta * full + (1 - beta) * squares
        u = g / np.sqrt(estimate)
        update = max(1e-3, rms(x)) * u / max(1.0, rms(u))
        x = x + rate * update
        updates.append(update)
    return updates


def layers_of(name, leaf):
    """The parameters that one leaf stands for, as matrices where they are factored."""
    leaf = np.asarray(leaf)
    layers = leaf if "layers" in AXES[name] else leaf[None]
    return [x.reshape(MATRICES.get(name, x.shape)) for x in layers]


@pytest.fixture(scope="module")
def six_steps():
    """Parameters, six gradients and the updates they gave."""
    params = random_tree(0)
    # The first gradient is small and the fourth large: clipping must act, then the decay forget.
    gradients = [random_tree(10 + i, scale) for i, scale in enumerate([0.01, 1, 1, 30, 1, 0.1])]
    updates, _ = run(scale_by_adafactor(AXES, min_factored=LEAST), params, gradients)
    return params, gradients, updates


@pytest.mark.parametrize("name", AXES)
def test_updates_equal_the_published_algorithm_on_each_layer_alone(name, six_steps):
    params, gradients, updates = six_steps
    ours = [layers_of(name, update[name]) for update in updates]
    layer_gradients = [layers_of(name, gradient[name]) for gradient in gradients]
    for i, layer in enumerate(layers_of(name, params[name])):
        expected = published(layer, [g[i] for g in layer_gradients], name in MATRICES)
        for step, update in enumerate(expected):
            # 1e-5 of each entry, or of the typical one for entries that nearly cancel.
            np.testing.assert_allclose(
                ours[step][i], update, rtol=1e-5, atol=1e-6 * rms(update), err_msg=f"step {step}"
            )


def test_updates_equal_optax_on_plain_matrices(six_steps):
    names = ["wi", "embedding", "norms"]
    params, gradients, updates = six_steps
    reference = optax.chain(
        optax.scale_by_factored_rms(min_dim_size_to_factor=LEAST),
        optax.clip_by_block_rms(1.0),
        optax.scale_by_param_block_rms(1e-3),
    )

    def split(tree):
        return {name: dict(enumerate(layers_of(name, tree[name]))) for name in names}

    theirs, _ = run(reference, split(params), [split(gradient) for gradient in gradients])
    for update, expected in zip(updates, theirs, strict=True):
        for ours, other in zip(
            jax.tree.leaves(split(update)), jax.tree.leaves(expected), strict=True
        ):
            np.testing.assert_allclose(ours, other, rtol=1e-4, atol=1e-6)


def test_stacked_layers_and_layers_on_their_own_agree(six_steps):
    params, gradients, stacked = six_steps
    names = [name for name in AXES if "layers" in AXES[name]]
    axes = {name: {i: P(*AXES[name][1:]) for i in range(L)} for name in names}

    def split(tree):
        return {name: dict(enumerate(tree[name])) for name in names}

    alone, _ = run(
        scale_by_adafactor(axes, min_factored=LEAST), split(params), [split(g) for g in gradients]
    )
    for together, separate in zip(stacked, alone, strict=True):
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-6, atol=1e-7),
            split(together),
            separate,
        )


def test_the_first_second_moment_is_the_first_gradient_alone():
    params, gradient, axes = (
        pick(tree, "query", "norms") for tree in (random_tree(0), random_tree(1), AXES)
    )
    _, state = run(scale_by_adafactor(axes, min_factored=LEAST), params, [gradient])
    np.testing.assert_allclose(state.v["norms"], gradient["norms"] ** 2, rtol=1e-6)
    squares = np.asarray(gradient["query"]) ** 2
    np.testing.assert_allclose(state.v_row["query"], squares.mean((2, 3)), rtol=1e-6)
    np.testing.assert_allclose(state.v_col["query"], squares.mean(1), rtol=1e-6)
    assert state.count == 1


def test_every_layers_update_is_clipped_to_the_threshold():
    params, threshold = random_tree(0), 0.3
    gradients = [random_tree(1, 0.01), random_tree(2, 100.0)]
    optimizer = scale_by_adafactor(
        AXES, min_factored=LEAST, clip_threshold=threshold, scale_by_parameter=False
    )
    last = run(optimizer, params, gradients)[0][-1]
    for name in AXES:
        sizes = [rms(layer) for layer in layers_of(name, last[name])]
        # The jump in the gradients makes every update reach the threshold.
        np.testing.assert_allclose(sizes, threshold, rtol=1e-5, err_msg=name)


def test_a_parameter_at_zero_moves_by_the_least_scale():
    params = {"norm": np.zeros(D, np.float32)}
    optimizer = scale_by_adafactor(pick(AXES, "norm"), epsilon2=0.5)
    (update,), _ = run(optimizer, params, [pick(random_tree(1), "norm")])
    np.testing.assert_allclose(rms(update["norm"]), 0.5, rtol=1e-5)


def test_a_parameter_is_factored_from_the_least_size_on_by_its_joined_sides():
    def has_full_moment(name, least):
        init = scale_by_adafactor(AXES, min_factored=least).init
        state = jax.eval_shape(init, random_tree(0))
        return state.v[name].shape == SHAPES[name]

    # The smaller sides: embed is 8, heads * kv 12, mlp 10.
    for name in MATRICES:
        assert not has_full_moment(name, 8) and has_full_moment(name, 9), name
    for name in set(AXES) - set(MATRICES):
        assert has_full_moment(name, 1), name


def test_gradients_of_zero_leave_finite_updates():
    names = ["embedding", "wi"]
    params, gradient = pick(random_tree(0), *names), pick(random_tree(1), *names)
    gradient["embedding"][3] = gradient["embedding"][:, 2] = gradient["wi"][:] = 0
    optimizer = scale_by_adafactor(pick(AXES, *names), min_factored=LEAST)
    for update in run(optimizer, params, [gradient] * 3)[0]:
        assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(update))
        assert not update["wi"].any() and not update["embedding"][3].any()


def test_bfloat16_gradients_give_the_float32_updates_of_their_values():
    names = ["query", "norms"]
    params, rounded = pick(random_tree(0), *names), pick(random_tree(1, dtype=jnp.bfloat16), *names)
    exact = jax.tree.map(lambda x: x.astype(np.float32), rounded)
    optimizer = scale_by_adafactor(pick(AXES, *names), min_factored=LEAST)
    half, state = run(optimizer, params, [rounded, rounded])
    full, _ = run(optimizer, params, [exact, exact])
    for ours, expected in zip(jax.tree.leaves(half), jax.tree.leaves(full), strict=True):
        assert ours.dtype == jnp.float32
        np.testing.assert_array_equal(ours, expected)
    assert {leaf.dtype.name for leaf in jax.tree.leaves(state)} == {"int32", "float32"}


def test_state_axes_name_each_dimension_of_the_state():
    params = random_tree(0)
    state = jax.eval_shape(scale_by_adafactor(AXES, min_factored=LEAST).init, params)
    axes = adafactor_state_axes(AXES, params, min_factored=LEAST)
    assert jax.tree.structure(axes) == jax.tree.structure(state)
    sizes = {"layers": L, "embed": D, "heads": N, "kv": H, "mlp": F, "vocab": V}
    sizes["relpos_buckets"] = 32
    for names, leaf in zip(jax.tree.leaves(axes), jax.tree.leaves(state), strict=True):
        assert tuple(sizes[name] for name in names) == leaf.shape
    assert axes.v_row["query"] == axes.v_row["out"] == P("layers", "embed")
    assert axes.v_col["query"] == axes.v_col["out"] == P("layers", "heads", "kv")
    assert axes.v["query"] == P() and axes.v["biases"] == AXES["biases"]


def test_state_of_t5_1_1_xxl_is_below_a_tenth_of_a_gigabyte():
    layers, d, f, n, h, v = 24, 4096, 10240, 64, 64, 32128
    projection = ((layers, d, n, h), AXES["query"])
    attention = {
        **dict.fromkeys(["query", "key", "value"], projection),
        "out": ((layers, n, h, d), AXES["out"]),
    }
    norm = ((layers, d), AXES["norms"])
    wi = ((layers, d, f), AXES["wi"])
    mlp = {"wi_0": wi, "wi_1": wi, "wo": ((layers, f, d), AXES["wo"])}
    ends = {"norm": ((d,), AXES["norm"]), "bias": ((n, 32), AXES["bias"])}
    model = {
        "embedding": ((v, d), AXES["embedding"]),
        "head": ((d, v), AXES["head"]),
        "encoder": {"self": attention, "mlp": mlp, "n0": norm, "n1": norm, **ends},
        "decoder": {"self": attention, "cross": attention, "mlp": mlp, **ends}
        | {"n0": norm, "n1": norm, "n2": norm},
    }

    def is_pair(x):
        return isinstance(x, tuple)

    shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x[0], jnp.float32), model, is_leaf=is_pair)
    axes = jax.tree.map(lambda x: x[1], model, is_leaf=is_pair)
    assert 11.1e9 < sum(leaf.size for leaf in jax.tree.leaves(shapes)) < 11.2e9
    state = jax.eval_shape(scale_by_adafactor(axes).init, shapes)
    gigabytes = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(state)) / 1e9
    print(f"Adafactor's state for T5 1.1 XXL: {gigabytes:.4f} GB")
    assert gigabytes < 0.1


def test_axes_that_do_not_fit_the_shape_are_refused():
    params = {"wi": np.zeros((2, 3, 4))}
    with pytest.raises(ValueError, match=r"'embed', 'mlp'.* 3 dimensions of shape \(2, 3, 4\)"):
        scale_by_adafactor({"wi": P("embed", "mlp")}).init(params)


def test_relative_steps_without_parameters_are_refused():
    optimizer = scale_by_adafactor(AXES)
    state = jax.eval_shape(optimizer.init, random_tree(0))
    with pytest.raises(ValueError, match="scale_by_parameter"):
        optimizer.update(random_tree(1), state)
