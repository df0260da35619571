import json

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ecc.core.errors import InputError, UnavailableError
from ecc.solvers.checkpoints import FileCheckpoint

SCALARS = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5)
STATES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4) | st.integers(), inner)
)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(value=STATES)
def test_what_was_saved_is_loaded(tmp_path, value):
    checkpoint = FileCheckpoint(tmp_path / "state")
    checkpoint.save({"value": value, "pair": (1, 2.5)})
    assert checkpoint.load() == {"value": value, "pair": (1, 2.5)}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64, torch.int64, torch.bool, torch.uint8])
def test_tensors_keep_dtype_shape_and_bits(tmp_path, dtype):
    checkpoint = FileCheckpoint(tmp_path / "state")
    tensor = (torch.randn(3, 4) * 10).to(dtype)
    checkpoint.save(
        {"a": tensor, "b": [tensor, tensor[0].t(), torch.zeros(0, dtype=dtype), torch.ones((), dtype=dtype)]}
    )
    state = checkpoint.load()
    assert torch.equal(state["a"], tensor)
    assert state["a"].dtype == dtype
    assert state["b"][3].shape == ()


def test_no_file_means_no_state(tmp_path):
    assert FileCheckpoint(tmp_path / "none").load() is None


def test_a_cleared_state_is_gone(tmp_path):
    checkpoint = FileCheckpoint(tmp_path / "new" / "state")
    checkpoint.save({})
    checkpoint.clear()
    checkpoint.clear()
    assert checkpoint.load() is None


@pytest.mark.parametrize("cut", [0, 1, 7, 8, 60, -1])
def test_a_truncated_file_is_refused_with_its_name_and_the_mend(tmp_path, cut):
    checkpoint = FileCheckpoint(tmp_path / "state")
    checkpoint.save({"a": torch.arange(5)})
    checkpoint.path.write_bytes(checkpoint.path.read_bytes()[:cut])
    with pytest.raises(InputError, match=r"checkpoint .*state cannot be read .*delete it to start anew"):
        checkpoint.load()


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(garbage=st.binary(max_size=200))
def test_garbage_is_refused(tmp_path, garbage):
    checkpoint = FileCheckpoint(tmp_path / "state")
    checkpoint.path.write_bytes(garbage)
    with pytest.raises(InputError, match="delete it to start anew"):
        checkpoint.load()


@pytest.mark.parametrize(
    "state",
    ["[" * 5000, "[]", "3", '{"dict": [[{"dict": []}, 1]]}', '{"tensor": "7"}', '{"dict": 3}', '{"dict": [[1]]}', "{}"],
)
def test_a_hostile_state_is_refused(tmp_path, state):
    import safetensors.torch

    path = tmp_path / "state"
    path.write_bytes(safetensors.torch.save({}, {"schema": "ecc-checkpoint-1", "state": state}))
    with pytest.raises(InputError, match="delete it to start anew"):
        FileCheckpoint(path).load()


def test_another_schema_is_refused(tmp_path):
    import safetensors.torch

    path = tmp_path / "state"
    path.write_bytes(safetensors.torch.save({}, {"schema": "other", "state": json.dumps({"dict": []})}))
    with pytest.raises(InputError, match="another schema"):
        FileCheckpoint(path).load()


def test_a_folder_that_cannot_be_made_is_one_sentence(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UnavailableError, match="cannot be written"):
        FileCheckpoint(tmp_path / "file" / "state").save({})


def test_a_failed_save_keeps_the_old_state(tmp_path):
    checkpoint = FileCheckpoint(tmp_path / "state")
    checkpoint.save({"a": 1})
    with pytest.raises(TypeError, match="cannot hold a object"):
        checkpoint.save({"a": object()})
    assert checkpoint.load() == {"a": 1}
    assert [path.name for path in tmp_path.iterdir()] == ["state"]
