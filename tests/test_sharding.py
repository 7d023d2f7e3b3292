"""The mesh and its table: what fits, and what is said where something does not."""

import re

import jax
import numpy as np
import pytest
from jax.sharding import AbstractMesh, PartitionSpec

from t5jax import sharding
from t5jax.config import MeshConfig

ONE = jax.devices()[:1]


@pytest.mark.parametrize("config", [MeshConfig(), MeshConfig(data=1, tensor=-1)])
def test_a_mesh_has_the_sizes_that_are_asked_for_and_minus_one_takes_the_rest(config):
    mesh = sharding.make_mesh(config, ONE)
    assert dict(mesh.shape) == dict.fromkeys(sharding.AXES, 1)


@pytest.mark.parametrize(
    ("config", "devices", "words"),
    [
        (
            MeshConfig(data=2, fsdp=3),
            4,
            "mesh data=2, fsdp=3, tensor=1, sequence=1 does not fit 4 device(s); the sizes' "
            "product must be their number (-1 takes what is left)",
        ),
        (
            MeshConfig(data=-1, tensor=3),
            4,
            "mesh data=-1, fsdp=1, tensor=3, sequence=1 does not fit 4 device(s); the sizes' "
            "product must be their number (-1 takes what is left)",
        ),
        (
            MeshConfig(data=-1, fsdp=-1),
            4,
            "mesh data=-1, fsdp=-1, tensor=1, sequence=1: sizes are positive, and at most one is "
            "-1 (the rest)",
        ),
    ],
)
def test_a_mesh_that_does_not_fit_says_what_would(config, devices, words):
    with pytest.raises(ValueError, match=f"^{re.escape(words)}$"):
        sharding.make_mesh(config, ONE * devices)


MESH = AbstractMesh((2, 4, 4, 1), sharding.AXES)


def shaped(*shape):
    return {"mlp": {"wi": jax.ShapeDtypeStruct(shape, np.float32)}}


@pytest.mark.parametrize(
    ("shape", "axes", "words"),
    [
        (
            (8, 6),
            ("embed", "mlp"),
            "mlp=6 of mlp/wi does not divide over tensor=4; sizes that do: 1, 2, 3",
        ),
        (
            (6, 8),
            ("embed", "mlp"),
            "embed=6 of mlp/wi does not divide over fsdp=4; sizes that do: 1, 2, 3",
        ),
        (
            (12, 8),
            ("batch", "length"),
            "batch=12 of mlp/wi does not divide over data*fsdp=8; sizes that do: 1, 2, 3, 4, 6",
        ),
    ],
)
def test_a_dimension_that_does_not_divide_is_named_with_the_sizes_that_fit(shape, axes, words):
    axes = {"mlp": {"wi": PartitionSpec(*axes)}}
    with pytest.raises(ValueError, match=f"^{re.escape(words)}$"):
        sharding.check_divisible(shaped(*shape), axes, MESH)


def test_dimensions_that_divide_or_are_not_cut_pass():
    axes = {"mlp": {"wi": PartitionSpec("layers", "embed", "mlp")}}
    sharding.check_divisible(shaped(3, 8, 12), axes, MESH)


def test_a_mesh_may_lack_axes_and_be_sizes_by_axis():
    mesh = jax.make_mesh((1,), ("tensor",))
    found = sharding.mesh_of(mesh)
    assert dict(found.shape) == {"tensor": 1} and sharding.batch_parts(found) == 1
    assert sharding.sharding(found, "batch", "heads").spec == PartitionSpec(None, "tensor")
    by_size = sharding.mesh_of({"tensor": 1})
    assert dict(by_size.shape) == dict.fromkeys(sharding.AXES, 1)
    assert sharding.mesh_of(None) is None


@pytest.mark.parametrize(
    ("mesh", "error", "words"),
    [
        ({"x": 1, "data": 1}, ValueError, "mesh has axes x; its axes must be among data, fsdp, "),
        (jax.make_mesh((1,), ("model",)), ValueError, "mesh has axes model; its axes must"),
        ({"data": 3}, ValueError, "mesh data=3, fsdp=1, tensor=1, sequence=1 does not fit"),
        ({"data": "a"}, ValueError, "data='a' must be"),
        ([2, 2], TypeError, "mesh=.* must be a jax.sharding.Mesh, or sizes by axis"),
    ],
)
def test_a_mesh_that_cannot_be_is_refused_in_one_line(mesh, error, words):
    with pytest.raises(error, match=words) as caught:
        sharding.mesh_of(mesh)
    assert "\n" not in str(caught.value)
