import functools
import gc
import os
import subprocess
import sys
import tempfile
import weakref
from contextlib import nullcontext
from types import SimpleNamespace

import pytest
import torch
from profiler_toy import INPUTS, Host, Timed, Watch, toy_graph
from torch import nn

from ecc.api.ruler import Ruler
from ecc.core.errors import InputError, UnavailableError
from ecc.core.table import Provenance
from ecc.profiler.design import sample
from ecc.profiler.devices import current_device
from ecc.profiler.protocol import profile
from ecc.profiler.runtimes import RUNTIMES, compiled, cuda_graph, exporting, runtime_named
from ecc.profiler.runtimes import onnxruntime as onnxruntime_file
from ecc.profiler.runtimes import openvino as openvino_file
from ecc.profiler.runtimes.calling import Call
from ecc.profiler.window import Window
from ecc.zoo.networks import NETWORKS

EXPORTED = ("onnxruntime", "openvino")
ZOO = ("digits-resnet", "lenet5", "lstm-acoustic", "text-cnn", "text-bow-match")
needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device is visible")


def here(name, device="cpu", **options):
    try:
        return runtime_named(name, device, **options)
    except UnavailableError as error:
        pytest.skip(str(error))


def zoo(name):
    torch.manual_seed(0)
    entry = NETWORKS[name]
    shape = (2, *entry.input_shape)
    inputs = torch.randint(0, entry.vocabulary, shape) if entry.vocabulary else torch.randn(shape)
    return entry.factory().eval(), inputs


class Small(nn.Module):
    """Keyword and nested inputs, nested outputs, whole numbers among both."""

    def __init__(self, width=4):
        super().__init__()
        self.first, self.second = nn.Linear(3, width), nn.Linear(width, 2)

    def forward(self, pair, index, scale=1.0):
        hidden = torch.relu(self.first(pair[0] + pair[1]))
        return {"logits": self.second(hidden)[index] * scale, "rest": (hidden, index + 1)}


SMALL_INPUTS = {"pair": (torch.randn(4, 3), torch.randn(4, 3)), "index": torch.tensor([2, 0]), "scale": 2.0}


def plain(width=4):
    return nn.Sequential(nn.Linear(3, width), nn.ReLU(), nn.Linear(width, 2))


@pytest.fixture
def seen(monkeypatch):
    """Outputs of the runtimes, as they are compared with eager."""
    found = []
    for module in (exporting, compiled):
        check = module.demand_agreement

        def spy(name, network, expected, outputs, check=check):
            found.append(exporting.tensors_in(outputs))
            check(name, network, expected, outputs)

        monkeypatch.setattr(module, "demand_agreement", spy)
    return found


@pytest.fixture
def traced_only(monkeypatch):
    """torch.compile without the C++ compiler, which takes seconds a network."""
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend="eager"))


def agree(outputs, expected):
    for found, wanted in zip(outputs, expected, strict=True):
        torch.testing.assert_close(found.cpu(), wanted.cpu(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("network", ZOO)
@pytest.mark.parametrize("runtime", EXPORTED)
def test_an_exported_network_gives_the_outputs_of_eager(runtime, network, seen):
    module, inputs = zoo(network)
    here(runtime).prepare(module, inputs)(2)
    with torch.inference_mode():
        agree(seen[-1], [module(inputs)])


@pytest.mark.parametrize("runtime", EXPORTED)
def test_nested_keyword_and_whole_number_inputs_and_nested_outputs(runtime, seen):
    module = Small().eval()
    here(runtime).prepare(module, SMALL_INPUTS)(1)
    with torch.inference_mode():
        wanted = module(**SMALL_INPUTS)
    agree(seen[-1], [wanted["logits"], *wanted["rest"]])


@pytest.mark.slow
def test_a_compiled_network_gives_the_outputs_of_eager(seen, tmp_path, monkeypatch):
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    runtime, module, inputs = here("compile"), plain().eval(), torch.randn(2, 3)
    runtime.prepare(module, inputs)(2)
    with torch.inference_mode():
        agree(seen[-1], [module(inputs)])


def test_a_compiled_network_keeps_the_nesting_of_inputs_and_outputs(seen, traced_only):
    runtime, module = here("compile"), Small().eval()
    runtime.prepare(module, SMALL_INPUTS)(2)
    with torch.inference_mode():
        wanted = module(**SMALL_INPUTS)
    agree(seen[-1], [wanted["logits"], *wanted["rest"]])


def test_many_networks_of_one_class_are_compiled_once_each_and_stay_compiled(traced_only):
    from torch._dynamo.utils import counters

    runtime = here("compile")
    reference = runtime.prepare(plain(), torch.randn(2, 3))
    for width in range(1, 21):
        before = counters["stats"]["unique_graphs"]
        run = runtime.prepare(plain(width), torch.randn(2, 3))
        for _ in range(2):
            reference(1)
            run(1)
        assert counters["stats"]["unique_graphs"] == before + 1


def test_a_network_of_several_graphs_is_compiled_too_and_never_left_to_eager(traced_only):
    from torch._dynamo.utils import counters

    class Broken(nn.Module):
        def __init__(self, width):
            super().__init__()
            self.first, self.second = nn.Linear(3, width), nn.Linear(width, 2)

        def forward(self, x):
            hidden = self.first(x)
            torch._dynamo.graph_break()
            return self.second(hidden)

    runtime = here("compile")
    for width in range(1, 13):  # beyond the eight that PyTorch allows
        before = counters["stats"]["unique_graphs"]
        run = runtime.prepare(Broken(width), torch.randn(2, 3))
        run(2)
        assert counters["stats"]["unique_graphs"] == before + 2


def test_what_was_compiled_goes_with_its_network(traced_only):
    module = plain()
    run = here("compile").prepare(module, torch.randn(2, 3))
    run(1)
    gone = weakref.ref(module)
    del module, run
    gc.collect()
    assert gone() is None


def test_what_cannot_be_compiled_is_refused_in_a_sentence(monkeypatch):
    runtime = here("compile")

    def failing(function, dynamic):
        def call(*args, **kwargs):
            raise RuntimeError("\nno kernel of that kind\nat line 3")

        return call

    with pytest.raises(InputError, match=r"^torch.compile finds nothing to compile in the network; measure it with"):
        runtime.prepare(nn.Identity(), torch.randn(2, 3))
    monkeypatch.setattr(torch, "compile", failing)
    match = r"^torch.compile cannot compile the network \(no kernel of that kind\); measure it with --runtime eager$"
    with pytest.raises(InputError, match=match):
        runtime.prepare(plain(), torch.randn(2, 3))


def test_compile_without_a_compiler_says_what_to_install():
    from torch._inductor import config

    missing = config.patch({"cpp.cxx": ("no-such-compiler",)})
    with missing, pytest.raises(UnavailableError, match=r"^runtime compile needs a C\+\+ compiler on a CPU"):
        runtime_named("compile")


def wrong(export):
    def exported(network, call):
        with torch.no_grad():
            for parameter in network.parameters():
                parameter.mul_(1.01)
        try:
            return export(network, call)
        finally:
            with torch.no_grad():
                for parameter in network.parameters():
                    parameter.div_(1.01)

    return exported


@pytest.mark.parametrize("runtime", EXPORTED)
def test_an_exporter_that_gets_it_wrong_is_refused(runtime, monkeypatch):
    subject = here(runtime)
    for exporter in ("_by_script", "_by_graph"):
        monkeypatch.setattr(exporting, exporter, wrong(exporting._by_script))
    match = (
        rf"^{runtime} computes something else than eager: the outputs differ by 0\.\d+ of the largest one, and 0.001"
    )
    with pytest.raises(UnavailableError, match=match):  # exit code 3: nothing is wrong with the network
        subject.prepare(plain().eval(), torch.randn(2, 3))


def test_a_compiler_that_gets_it_wrong_is_refused(monkeypatch):
    subject = here("compile")
    monkeypatch.setattr(compiled, "_compiled", lambda network, call: (network, torch.zeros(2, 2)))
    with pytest.raises(
        UnavailableError, match=r"^compile computes something else than eager: the outputs differ by 1 of"
    ):
        subject.prepare(plain().eval(), torch.randn(2, 3))


def test_the_second_exporter_does_what_the_first_gets_wrong(monkeypatch, seen):
    subject, module, inputs = here("onnxruntime"), plain().eval(), torch.randn(2, 3)
    monkeypatch.setattr(exporting, "_by_script", wrong(exporting._by_script))
    subject.prepare(module, inputs)(1)
    with torch.inference_mode():
        agree(seen[-1], [module(inputs)])


@pytest.mark.parametrize("runtime", EXPORTED)
def test_what_cannot_be_exported_is_refused_in_a_sentence(runtime):
    class Odd(nn.Module):
        def forward(self, x):
            return torch.linalg.qr(x)[1]

    match = rf"^the network cannot be exported to {runtime} \(.+\); measure it with --runtime eager$"
    with pytest.raises(InputError, match=match):
        here(runtime).prepare(Odd(), torch.randn(3, 3))


def test_what_an_exporter_prints_is_not_on_standard_output_but_in_the_log(capfd, caplog):
    """Where the first exporter fails, C++ code of PyTorch prints the graph to descriptor 1."""
    network = nn.TransformerEncoder(nn.TransformerEncoderLayer(16, 2, 32, batch_first=True), 1).eval()
    call = Call.of(torch.randn(1, 4, 16), "cpu")
    with caplog.at_level("DEBUG", "ecc"):
        print("before", flush=True)
        with pytest.raises(torch.onnx.errors.UnsupportedOperatorError):
            exporting._by_script(network, call)
        print("after")
    assert capfd.readouterr().out == "before\nafter\n"
    assert "an exporter printed: Torch IR graph at exception: graph(" in caplog.text


@pytest.mark.parametrize("runtime", EXPORTED)
def test_what_fails_in_eager_fails_as_it_does_there(runtime):
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        here(runtime).prepare(plain(), torch.randn(2, 4))


@pytest.mark.parametrize("runtime", EXPORTED)
def test_inputs_that_numpy_does_not_know_are_refused(runtime):
    with pytest.raises(InputError, match=rf"^{runtime} takes no inputs of bfloat16; give float32"):
        here(runtime).prepare(plain().bfloat16(), torch.randn(2, 3, dtype=torch.bfloat16))


@pytest.mark.parametrize(
    ("runtime", "library", "extra"),
    [
        ("onnxruntime", "onnxruntime", "onnx"),
        ("onnxruntime", "onnx", "onnx"),
        ("onnxruntime", "onnxscript", "onnx"),
        ("openvino", "openvino", "openvino"),
        ("openvino", "onnx", "openvino"),
    ],
)
def test_a_missing_library_is_a_sentence_that_names_the_extra(runtime, library, extra, monkeypatch):
    here(runtime)
    monkeypatch.setitem(sys.modules, library, None)
    match = rf"^runtime {runtime} .*{library}.* is not installed; pip install 'ecc-compress\[{extra}\]'$"
    with pytest.raises(UnavailableError, match=match):
        runtime_named(runtime)


@pytest.mark.skipif(not os.path.isdir("/proc/self/task"), reason="threads are counted in /proc")
def test_onnxruntime_has_the_threads_that_were_asked_for():
    module, inputs = zoo("lenet5")
    here("onnxruntime").prepare(module, inputs)  # whatever starts threads of its own has started them
    counts = []
    for threads in (1, 3):
        before = len(os.listdir("/proc/self/task"))
        run = runtime_named("onnxruntime", threads=threads).prepare(module, inputs)
        counts.append(len(os.listdir("/proc/self/task")) - before)
        del run
        gc.collect()
    assert counts == [0, 2]  # the caller is one of them


@pytest.mark.parametrize(("asked", "used"), [(None, 2), (3, 3)])
@pytest.mark.parametrize("runtime", EXPORTED)
def test_threads_are_those_asked_for_or_those_of_pytorch(runtime, asked, used, monkeypatch):
    given = []
    subject = here(runtime, threads=asked)
    file, name = {"onnxruntime": (onnxruntime_file, "_Session"), "openvino": (openvino_file, "_Request")}[runtime]
    engine = getattr(file, name)
    monkeypatch.setattr(file, name, lambda *args: given.append(args[-1]) or engine(*args))
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        subject.prepare(plain(), torch.randn(2, 3))
    finally:
        torch.set_num_threads(before)
    assert [each if runtime == "onnxruntime" else each["INFERENCE_NUM_THREADS"] for each in given] == [used]


def test_openvino_computes_in_float32_with_the_threads_that_were_asked_for():
    import_ov = here("openvino", threads=1)
    module, call = plain().eval(), exporting.Call.of(torch.randn(2, 3), "cpu")
    settings = openvino_file._settings(1, exact=True)
    request = openvino_file._Request(exporting._by_script(module, call), call, settings)._request
    model = request.get_compiled_model()
    assert model.get_property("INFERENCE_NUM_THREADS") == import_ov.threads == 1
    assert str(model.get_property("INFERENCE_PRECISION_HINT")) == "<Type: 'float32'>"


@pytest.mark.parametrize("runtime", EXPORTED)
def test_no_files_are_left_behind(runtime, tmp_path, monkeypatch):
    subject = here(runtime)
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", None)
    monkeypatch.chdir(tmp_path)
    subject.prepare(plain(), torch.randn(2, 3))(1)
    assert list(tmp_path.rglob("*")) == []


@pytest.mark.parametrize("runtime", ["eager", *EXPORTED])
def test_preparing_leaves_weights_and_inputs_as_they_are(runtime):
    class InPlace(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(3, 3)

        def forward(self, x):
            return self.linear(torch.nn.functional.relu(x) + 1)

    module, inputs = InPlace().train(), torch.randn(2, 3)
    state, before = {name: value.clone() for name, value in module.state_dict().items()}, inputs.clone()
    here(runtime).prepare(module, inputs)(2)
    assert all(torch.equal(state[name], value) for name, value in module.state_dict().items())
    assert torch.equal(inputs, before)
    assert not module.training


def test_cuda_runtimes_without_cuda_say_so():
    with pytest.raises(UnavailableError, match=r"^runtime cudagraph needs a CUDA device; measure with --device cuda$"):
        runtime_named("cudagraph", "cpu")


@needs_cuda
def test_openvino_refuses_a_gpu():
    with pytest.raises(UnavailableError, match=r"^runtime openvino measures CPUs only; measure with --device cpu$"):
        runtime_named("openvino", "cuda")


def test_every_runtime_tells_its_name_and_what_it_depends_on():
    for name in RUNTIMES:
        if name != "cudagraph":
            runtime = here(name)
            assert (runtime.name, runtime.device) == (name, "cpu")
            assert all(isinstance(value, str) and value for value in runtime.environment.values())
    assert here("onnxruntime").environment["onnxruntime"]


def test_what_a_runtime_depends_on_is_in_the_provenance():
    graph, host = toy_graph(), Host(environment={"engine": "7.1"})
    window = Window(device_warm_up_s=0.0, warm_up_s=0.0, warm_up_runs=1, blocks=1, pairs=4, max_blocks=1)
    result = profile(
        Timed(1.0), graph, INPUTS, sample(graph.space, 4), [Watch(host)], window=window, runtime=host, build=host.build
    )
    assert result.table.provenance.environment["engine"] == "7.1"


def cost_of(runtime, threads):
    cpu = current_device("cpu")
    provenance = Provenance("toy", "f", (1, 3), cpu.name, cpu.fingerprint, runtime, threads)
    return SimpleNamespace(metric="latency", exact=False, provenance=provenance)


@pytest.mark.parametrize("runtime", EXPORTED)
def test_a_budget_is_verified_by_the_runtime_that_its_cost_was_measured_with(runtime):
    here(runtime)
    ruler = Ruler.of(plain(), torch.randn(2, 3), [cost_of(runtime, 1)])
    assert isinstance(ruler, Ruler)
    assert (ruler.runtime.name, ruler.runtime.threads) == (runtime, 1)
    (found,) = ruler.measure([plain(2)], seconds=0.1)
    assert found["latency"].ratio > 0


def test_a_budget_is_not_verified_where_its_runtime_is_missing(monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    reason = Ruler.of(plain(), torch.randn(2, 3), [cost_of("onnxruntime", 1)])
    assert isinstance(reason, str)
    assert "pip install 'ecc-compress[onnx]'" in reason


@pytest.mark.gpu
@needs_cuda
@pytest.mark.parametrize("runtime", ["compile", "cudagraph", "onnxruntime"])
def test_a_runtime_on_a_gpu_agrees_with_eager(runtime):
    subject = here(runtime, "cuda")
    for name in ("digits-resnet", "text-cnn"):
        run = subject.prepare(*zoo(name))
        run(3)
        subject.synchronise()


@pytest.mark.gpu
@needs_cuda
def test_replays_of_a_cuda_graph_do_the_work_of_the_network():
    module = plain().cuda()
    calls = []
    module.register_forward_hook(lambda *_: calls.append(1))
    run = runtime_named("cudagraph", "cuda").prepare(module, torch.randn(2, 3))
    recorded = len(calls)
    run(5)
    torch.cuda.synchronize()
    assert len(calls) == recorded


@pytest.mark.gpu
@needs_cuda
def test_a_network_that_waits_for_the_gpu_cannot_be_recorded():
    class Waiting(nn.Module):
        def forward(self, x):
            return x + x.sum().item()

    with pytest.raises(InputError, match=r"^the network cannot be recorded as a CUDA graph \(.+\); measure it with"):
        runtime_named("cudagraph", "cuda").prepare(Waiting(), torch.randn(2, 3))


def test_a_cuda_graph_is_recorded_once_and_then_only_replayed(monkeypatch):
    replays, forwards = [], []
    graph = SimpleNamespace(replay=lambda: replays.append(1))
    stream = SimpleNamespace(wait_stream=lambda other: None)
    for name, value in {
        "CUDAGraph": lambda: graph,
        "Stream": lambda device: stream,
        "current_stream": lambda device: stream,
        "device": lambda device: nullcontext(),
        "stream": lambda stream: nullcontext(),
        "graph": lambda graph, stream, capture_error_mode: nullcontext(),
        "synchronize": lambda device: None,
    }.items():
        monkeypatch.setattr(torch.cuda, name, value)
    monkeypatch.setattr(cuda_graph, "current_device", lambda name: SimpleNamespace(kind="cuda"))
    module = Small().eval()
    module.register_forward_hook(lambda *_: forwards.append(torch.is_inference_mode_enabled()))
    run = cuda_graph.CudaGraph("cpu").prepare(module, SMALL_INPUTS)
    prepared = len(forwards)
    run(5)
    assert (len(forwards), len(replays)) == (prepared, 6)  # one replay is for the comparison with eager
    assert all(forwards)


def test_ctrl_c_is_safe_once_openvino_has_run_and_gone() -> None:
    here("openvino")
    program = (
        "import gc, os, signal, torch\n"
        "from ecc.profiler.runtimes.openvino import OpenVino\n"
        "run = OpenVino().prepare(torch.nn.Conv2d(3, 64, 3).eval(), torch.randn(1, 3, 32, 32))\n"
        "run(2)\n"
        "del run\n"
        "gc.collect()\n"
        "signal.signal(signal.SIGINT, lambda *_: print('heard'))\n"
        "os.kill(os.getpid(), signal.SIGINT)\n"
    )
    ended = subprocess.run([sys.executable, "-X", "faulthandler", "-c", program], capture_output=True, text=True)
    assert (ended.returncode, ended.stdout.strip()) == (0, "heard"), ended.stderr
