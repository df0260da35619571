"""Streams give what the whole clip gives, and skipped frames what their group's middle gives."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from ecc.core.errors import InputError
from ecc.stages.execution.frames import ClipMean, RecurrentFrames, WindowFrames
from ecc.zoo.acoustic import gru_acoustic, lstm_acoustic, mlp_acoustic

FEATURES = 3


def recurrent(every, kind=nn.GRU):
    torch.manual_seed(0)
    layers = [kind(FEATURES, 4, batch_first=True), kind(4, 5, batch_first=True)]
    return RecurrentFrames(layers, nn.Linear(5, 2), every=every).double()


def windowed(every, before, after):
    torch.manual_seed(0)
    network = nn.Sequential(nn.Flatten(), nn.Linear((before + 1 + after) * FEATURES, 2))
    return WindowFrames(network, before, after, every=every).double()


def clip(time, batch=2):
    return torch.randn(batch, time, FEATURES, dtype=torch.float64, generator=torch.Generator().manual_seed(time))


MODELS = st.one_of(
    st.builds(recurrent, st.integers(1, 5), st.sampled_from([nn.GRU, nn.LSTM])),
    st.builds(windowed, st.integers(1, 5), st.integers(0, 4), st.integers(0, 4)),
)


@given(model=MODELS, cuts=st.lists(st.integers(0, 7), min_size=1, max_size=8).filter(any))
@settings(max_examples=60, deadline=None)
def test_a_stream_gives_what_the_clip_gives_and_no_output_before_its_frame(model, cuts):
    frames = clip(sum(cuts))
    stream, found = model.stream(), []
    for part in torch.split(frames, cuts, 1):
        found += stream.push(part)
        late = model.after + (model.every - 1) // 2
        assert stream.seen - late - (model.every - 1) <= len(found) == stream.given <= stream.seen
    found += stream.finish()
    with torch.no_grad():
        torch.testing.assert_close(torch.stack(found, 1), model(frames))


def plain(model, frames):
    """Every frame with its window by a loop; the definition."""
    found, time = [], frames.shape[1]
    for t in range(time):
        around = [min(max(t + shift, 0), time - 1) for shift in range(-model.before, model.after + 1)]
        found.append(model.network(frames[:, around]))
    return torch.stack(found, 1)


@given(time=st.integers(1, 12), before=st.integers(0, 3), after=st.integers(0, 3), every=st.integers(1, 4))
@settings(max_examples=40, deadline=None)
def test_a_group_has_the_output_of_its_middle_frame(time, before, after, every):
    model, frames = windowed(every, before, after), clip(time)
    wanted = plain(model, frames)
    middles = [min(t // every * every + (every - 1) // 2, time - 1) for t in range(time)]
    torch.testing.assert_close(model(frames), wanted[:, middles])


@pytest.mark.parametrize("kind", [nn.GRU, nn.LSTM])
def test_a_recurrent_state_goes_from_one_middle_to_the_next(kind):
    model, frames = recurrent(3, kind), clip(8)
    x = frames[:, [1, 4, 7]]
    for layer in model.layers:
        x, _ = layer(x)
    torch.testing.assert_close(model(frames), model.head(x)[:, [0, 0, 0, 1, 1, 1, 2, 2]])


@pytest.mark.parametrize("make", [gru_acoustic, lstm_acoustic])
def test_the_mean_over_frames_is_the_network_of_the_zoo(make):
    torch.manual_seed(0)
    model, frames = make(width=8), torch.randn(2, 12, 40)
    found = ClipMean(RecurrentFrames(model.layers, model.head))
    torch.testing.assert_close(found(frames), model(frames))


def test_a_feed_forward_network_of_the_zoo_slides_over_a_clip():
    torch.manual_seed(0)
    model, frames = mlp_acoustic(frames=5, width=8, layers=1), torch.randn(2, 9, 40)
    found = WindowFrames(model, 2, 2)(frames)
    assert found.shape == (2, 9, 10)
    torch.testing.assert_close(found[:, 4], model(frames[:, 2:7]))


def test_skipped_frames_are_not_evaluated():
    model = windowed(3, 1, 1)
    seen = []
    model.network.register_forward_pre_hook(lambda _, given: seen.append(len(given[0])))
    model(clip(10))
    stream = model.stream()
    for frame in clip(10).split(1, 1):
        stream.push(frame)
    stream.finish()
    assert seen == [8, 2, 2, 2, 2]  # four windows of each of two clips, at once and one after the other


def test_training_goes_through_skipping():
    model = ClipMean(recurrent(2))
    model(clip(5)).sum().backward()
    assert all(each.grad is not None and each.grad.abs().sum() > 0 for each in model.parameters())


def test_a_stream_keeps_no_more_than_its_window():
    stream = windowed(2, 2, 1).stream()
    for frame in clip(50).split(1, 1):
        stream.push(frame)
    assert stream._frames.shape[1] <= 2 + 2 + 2


def test_misuse_is_refused():
    stream = recurrent(1).stream()
    stream.push(clip(3))
    with pytest.raises(InputError, match=r"frames \(3, 2, 3\) do not go on those before, \(2, 1, 3\)"):
        stream.push(clip(2, batch=3))
    stream.finish()
    for step in (lambda: stream.push(clip(2)), stream.finish):
        with pytest.raises(InputError, match="the stream is over; begin another"):
            step()
    with pytest.raises(InputError, match=r"with a frame at least, got shape \(2, 0, 3\)"):
        recurrent(1)(clip(0))
    with pytest.raises(InputError, match="every of at least 1, got 0, 0 and 0"):
        recurrent(0)
    for layer in (nn.GRU(3, 4), nn.GRU(3, 4, batch_first=True, bidirectional=True)):
        with pytest.raises(InputError, match="layers with batch_first in one direction"):
            RecurrentFrames([layer])


def test_a_buffer_that_is_used_again_changes_nothing():
    model = WindowFrames(nn.Sequential(nn.Flatten(), nn.Linear(12, 5)), 1, 1).eval()
    clip, buffer = torch.randn(1, 6, 4), torch.empty(1, 1, 4)
    with torch.no_grad():
        stream, found = model.stream(), []
        for at in range(6):
            buffer.copy_(clip[:, at : at + 1])
            found += stream.push(buffer)
        found += stream.finish()
        torch.testing.assert_close(torch.stack(found, 1), model(clip))


@pytest.mark.parametrize("number", [1.5, "2", None, True])
def test_numbers_that_are_not_whole_are_refused(number):
    with pytest.raises(InputError, match="a frame model takes whole numbers"):
        RecurrentFrames([nn.GRU(3, 4, batch_first=True)], every=number)
    for before, after in ((number, 1), (1, number)):
        with pytest.raises(InputError, match="a frame model takes whole numbers"):
            WindowFrames(nn.Flatten(), before, after)


def test_what_are_no_recurrent_layers_is_refused_when_the_model_is_made():
    gru = nn.GRU(3, 4, batch_first=True)
    with pytest.raises(InputError, match=r"takes a list of layers, as \[nn.GRU\(...\)\], got GRU"):
        RecurrentFrames(gru)
    with pytest.raises(InputError, match="takes layers of frames and a state, as torch's LSTM and GRU, not Linear"):
        RecurrentFrames([gru, nn.Linear(4, 4)])
    for layers in (nn.ModuleList([gru]), nn.Sequential(gru), (each for each in [gru])):
        assert len(RecurrentFrames(layers).layers) == 1


def test_frames_of_another_form_are_refused_by_a_sentence():
    stream = recurrent(1).stream()
    with pytest.raises(InputError, match=r"must be a tensor of shape \(batch, time, features\), got list"):
        stream.push([1.0] * 3)
    for shape in ((3,), (2, 3)):
        with pytest.raises(InputError, match=r"got shape .*; a single frame is frame\[None, None\]"):
            stream.push(torch.ones(shape))
    assert len(stream.push(torch.ones(3, dtype=torch.float64)[None, None])) == 1
