# SPDX-FileCopyrightText: The Switchyard authors
# SPDX-License-Identifier: Apache-2.0
"""MoeLayer: numbers beside float64, whose memory is whose, threads, forks."""
import gc
import os
import subprocess
import sys
import threading
import time
import weakref

import cases
import numpy as np
import pytest
import switchyard
from cases import BF16, E, H, K, MODEL, SOURCE, TOLERANCE


def test_the_quick_start_of_the_readme_prints_an_error_within_the_tolerance():
    program = (SOURCE / "examples" / "python" / "quick_start.py").read_text()
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=SOURCE, check=True)
    assert 0 < float(run.stdout) <= TOLERANCE


def test_a_layer_of_arrays_is_its_definition():
    hidden = cases.rows()
    w1, w2, router = cases.expert_arrays()
    expected = cases.experts_by_definition(hidden, w1, w2, *cases.softmax_top_k(hidden, router))
    output = cases.layer().forward(hidden)
    assert output.dtype == BF16 and output.shape == hidden.shape
    assert cases.relative_error(output, expected) <= TOLERANCE
    oracle = switchyard.oracle_forward(cases.config(), cases.weights(), hidden)
    assert np.allclose(oracle.numpy(), expected, rtol=1e-12, atol=1e-12)


def test_given_routing_equals_the_gate_to_the_bit():
    layer, hidden = cases.layer(), cases.rows()
    ids, weights = layer.gate(hidden)
    assert ids.dtype == np.int32 and weights.dtype == np.float32
    assert (ids == cases.softmax_top_k(hidden, cases.expert_arrays()[2])[0]).all()
    by_function = switchyard.gate(cases.config(), cases.weights(), hidden)
    assert (ids == by_function[0]).all() and (weights == by_function[1]).all()
    chosen, given = layer.forward(hidden), layer.forward(hidden, ids=ids.astype(np.int64), weights=weights)
    assert (cases.bits(chosen) == cases.bits(given)).all()


def test_output_is_written_where_it_is_asked_for():
    layer, hidden = cases.layer(), cases.rows()
    output = np.full_like(hidden, np.nan)
    assert layer.forward(hidden, output=output) is output
    assert (cases.bits(output) == cases.bits(layer(hidden))).all()


def test_bits_of_bf16_may_be_uint16():
    hidden = cases.rows()
    output = cases.layer().forward(hidden.view(np.uint16))
    assert output.dtype == np.uint16
    assert (output == cases.bits(cases.layer().forward(hidden))).all()


def test_an_empty_batch_is_normal():
    assert cases.layer().forward(cases.rows(0)).shape == (0, H)


def test_strategies_agree_to_the_bit_and_say_their_reason():
    hidden = cases.rows()
    masked, contiguous = cases.layer(strategy="masked"), cases.layer(strategy="contiguous")
    assert masked.strategy.name == "local+masked" and "masked" in masked.strategy.reason
    assert (cases.bits(masked(hidden)) == cases.bits(contiguous(hidden))).all()
    assert masked.report.startswith("masked")


def test_rows_with_gaps_are_read_and_written_in_place():
    layer, hidden = cases.layer(strided_rows=True), cases.rows()
    wide_in, wide_out = (np.zeros((len(hidden), H + 16), BF16) for _ in range(2))
    wide_in[:, :H] = hidden
    layer.forward(wide_in[:, :H], output=wide_out[:, :H])
    assert (cases.bits(wide_out[:, :H]) == cases.bits(layer(hidden))).all()
    assert (cases.bits(wide_out[:, H:]) == 0).all()
    with pytest.raises(switchyard.Unsupported, match="forward: hidden_stride=80, rows of this layer have no gaps"):
        cases.layer().forward(wide_in[:, :H])


def test_a_layer_grows():
    layer, hidden = cases.layer(), cases.rows(40)
    with pytest.raises(switchyard.ShapeMismatch, match="forward: "):
        layer.forward(hidden)
    layer.grow(40)
    assert layer.forward(hidden).shape == hidden.shape


def test_layers_of_a_model_share_a_backend_and_a_workspace():
    backend = switchyard.make_cpu_backend(num_threads=1)
    shared = switchyard.SharedWorkspace(backend)
    layers = [cases.layer(backend=backend, shared_workspace=shared) for _ in range(3)]
    assert shared.bytes >= layers[0].workspace_bytes > 0
    hidden = cases.rows()
    for layer in layers:
        assert (cases.bits(layer(hidden)) == cases.bits(cases.layer()(hidden))).all()


def test_a_workspace_may_come_with_each_call():
    layer, hidden = cases.layer(workspace_per_call=True), cases.rows()
    expected = cases.bits(cases.layer()(hidden))
    assert (cases.bits(layer.forward(hidden)) == expected).all()
    memory = np.zeros(layer.workspace_bytes // 4 + 64, np.int32)
    memory = memory[-(memory.ctypes.data // 4) % 32 :]
    assert (cases.bits(layer.forward(hidden, workspace=memory)) == expected).all()
    assert (cases.bits(layer.forward(hidden, workspace=memory.view(np.uint8))) == expected).all()
    with pytest.raises(switchyard.ShapeMismatch, match="workspace bytes=4, need"):
        layer.forward(hidden, workspace=memory[:1])


def test_a_workspace_may_be_lent_for_the_layers_life():
    bytes_of_it = switchyard.workspace_bytes(cases.config(), max_tokens=16)
    assert bytes_of_it == cases.layer().workspace_bytes > switchyard.workspace_bytes(cases.config(), max_tokens=8)
    assert switchyard.workspace_bytes(cases.config(), 2, max_tokens=16) > bytes_of_it
    assert switchyard.workspace_bytes(cases.config(), 2, max_tokens=16, experts="f8_e4m3") != bytes_of_it
    memory = np.zeros(bytes_of_it + 128, np.uint8)
    memory = memory[-memory.ctypes.data % 128:][:bytes_of_it]
    layer, hidden = cases.layer(workspace=memory), cases.rows()
    references = sys.getrefcount(memory)
    assert (cases.bits(layer(hidden)) == cases.bits(cases.layer()(hidden))).all()
    assert memory.any()  # it is what was used
    del layer
    gc.collect()
    assert sys.getrefcount(memory) < references
    for wrong, error, text in ((memory[:-1], switchyard.ShapeMismatch, f"workspace bytes={bytes_of_it - 1}, need {bytes_of_it}"),
                               (memory[1:], switchyard.Error, "workspace"),
                               (memory[::2], switchyard.ShapeMismatch, "workspace is on cpu and has gaps"),
                               (read_only(memory), switchyard.Unsupported, "workspace is read-only")):
        with pytest.raises(error, match=text):
            cases.layer(workspace=wrong)
    with pytest.raises(switchyard.ShapeMismatch, match="given=2, at most one"):
        cases.layer(workspace=memory, workspace_per_call=True)
    with pytest.raises(switchyard.Error, match="ranks"):
        switchyard.workspace_bytes(cases.config(), 0)


# ---- whose memory is whose


def test_weights_live_as_long_as_the_layer():
    w1, w2, router = cases.expert_arrays()
    kept = switchyard.LayerWeights(w1, w2, switchyard.GateUpOrder.GateUp, router=router)
    layer = switchyard.MoeLayer(cases.config(), kept, max_tokens=16, num_threads=1)
    dead = weakref.ref(w1)
    del w1, w2, router, kept
    gc.collect()
    assert dead() is not None
    assert (cases.bits(layer(cases.rows())) == cases.bits(cases.layer()(cases.rows()))).all()
    del layer
    gc.collect()
    assert dead() is None


def test_weights_are_read_in_place():
    w1, w2, router = cases.expert_arrays()
    kept = switchyard.LayerWeights(w1, w2, switchyard.GateUpOrder.GateUp, router=router)
    layer = switchyard.MoeLayer(cases.config(), kept, max_tokens=16, num_threads=1)
    layer(cases.rows())
    w2[...] = 0
    assert (layer(cases.rows()).astype(np.float32) == 0).all()


def test_a_tensor_of_a_file_outlives_the_file():
    tensor = switchyard.TensorFile(MODEL / "moe_io.safetensors").tensor("model.layers.1.mlp.input")
    gc.collect()
    array = tensor.numpy()
    total = array.astype(np.float64).sum()
    del tensor
    gc.collect()
    assert array.astype(np.float64).sum() == total and not array.flags.writeable


def test_own_tensors_go_to_other_libraries_without_a_copy():
    output = switchyard.oracle_forward(cases.config(), cases.weights(), cases.rows())
    array = np.from_dlpack(output)
    assert array.ctypes.data == output.numpy().ctypes.data and array.dtype == np.float64
    assert output.shape == array.shape and output.dtype == "f64" and output.__dlpack_device__() == (1, 0)


# ---- threads and processes


def turns_beside(work):
    """How often this thread has the interpreter's lock while another one does `work` 20 times."""
    done, turns = threading.Event(), 0

    def loop():
        for _ in range(20):
            work()
        done.set()

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1000)  # a thread gives up the lock by itself, or not at all
    try:
        worker = threading.Thread(target=loop)
        worker.start()
        while not done.is_set():
            turns += 1
            time.sleep(0)  # gives it up
    finally:
        sys.setswitchinterval(interval)
    worker.join()
    return turns


def test_other_threads_run_while_a_layer_works():
    layer = switchyard.MoeLayer.from_pretrained(MODEL, 1, max_tokens=512, num_threads=1)
    hidden = switchyard.TensorFile(MODEL / "moe_io.safetensors").tensor("model.layers.1.mlp.input")
    assert turns_beside(lambda: sum(range(100_000))) < 20  # what holds the lock leaves no turn
    assert turns_beside(lambda: layer.forward(hidden)) >= 20


@pytest.mark.parametrize("name", ["gemm1", "gemm2"])
def test_a_configuration_of_a_gemm_is_refused_where_there_is_none(name):
    with pytest.raises(switchyard.Unsupported, match=f"{name}=64x128x64, 7 stages, cluster of 1, cpu has no configurations"):
        switchyard.MoeLayer.from_pretrained(MODEL, 1, **{name: "64x128x64, 7 stages, cluster of 1"})


def test_a_second_thread_in_the_same_layer_is_refused_and_nothing_breaks():
    layer = switchyard.MoeLayer.from_pretrained(MODEL, 1, max_tokens=512, num_threads=1)
    hidden = switchyard.TensorFile(MODEL / "moe_io.safetensors").tensor("model.layers.1.mlp.input")
    expected = cases.bits(layer.forward(hidden).numpy())
    wrong = []

    def work():
        for _ in range(20):
            try:
                if (cases.bits(layer.forward(hidden).numpy()) != expected).any():
                    wrong.append("other bits")
            except switchyard.Unsupported as error:
                if "forward" not in str(error):
                    wrong.append(str(error))

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def exit_code_of_child(work):
    """Of a forked process that does `work`; -1 where it hangs."""
    child = os.fork()
    if child == 0:
        try:
            work()
            os._exit(0)
        except BaseException as error:  # the parent reads the code
            print(error, file=sys.stderr)
            os._exit(1)
    for _ in range(3000):
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        threading.Event().wait(0.01)
    os.kill(child, 9)
    os.waitpid(child, 0)
    return -1


@pytest.mark.parametrize("num_threads", [1, 2])
def test_a_forked_process_is_told_to_make_its_own(num_threads):
    held = [cases.layer(num_threads=num_threads)]
    held[0](cases.rows())

    def child():
        with pytest.raises(switchyard.Unsupported, match="forked"):
            held[0](cases.rows())
        held.clear()  # its threads are not there: nothing may wait for them
        gc.collect()
        cases.layer(num_threads=num_threads)(cases.rows())

    assert exit_code_of_child(child) == 0
    held[0](cases.rows())  # the parent goes on


# ---- wrong arguments


LAYER = cases.layer()
HIDDEN = cases.rows()
IDS, WEIGHTS = (np.ascontiguousarray(a) for a in LAYER.gate(HIDDEN))


def misaligned(array):
    memory = np.zeros(array.nbytes + 16, np.uint8)
    start = -memory.ctypes.data % 16 + 2
    view = memory[start : start + array.nbytes].view(array.dtype).reshape(array.shape)
    view[...] = array
    return view


def read_only(array):
    array = array.copy()
    array.flags.writeable = False
    return array


WRONG = {
    "a list": (dict(hidden=[1.0]), TypeError, "forward: hidden is a builtins.list, need an array"),
    "nothing": (dict(hidden=None), TypeError, "forward"),
    "float32 rows": (dict(hidden=HIDDEN.astype(np.float32)), ValueError, "forward: hidden is not bf16 [9, 64]"),
    "int8 rows": (dict(hidden=np.zeros((9, H), np.int8)), ValueError, "forward: hidden has DLPack dtype code 0 of 8"),
    "complex rows": (dict(hidden=np.zeros((9, H), np.complex64)), ValueError, "forward: hidden has DLPack dtype code 5"),
    "other width": (dict(hidden=np.zeros((9, H + 8), BF16)), ValueError, "forward: hidden is not bf16 [9, 64]"),
    "one dimension": (dict(hidden=HIDDEN[0]), ValueError, "forward: hidden"),
    "no dimension": (dict(hidden=np.array(0, BF16)), ValueError, "forward: hidden has 0 dimensions, need 1 to 4"),
    "five dimensions": (dict(hidden=HIDDEN.reshape(1, 1, 1, 9, H)), ValueError, "has 5 dimensions, need 1 to 4"),
    "columns": (dict(hidden=np.zeros((9, 2 * H), BF16)[:, ::2]), ValueError, "forward: hidden has gaps"),
    "transposed": (dict(hidden=np.zeros((H, 9), BF16).T), ValueError, "forward: hidden has gaps"),
    "backwards": (dict(hidden=HIDDEN[::-1]), ValueError, "forward: hidden_stride=-64"),
    "off by two bytes": (dict(hidden=misaligned(HIDDEN)), ValueError, "forward: hidden address is not a multiple of 16"),
    "too many": (dict(hidden=cases.rows(17)), ValueError, "forward: "),
    "output is hidden": (dict(output=HIDDEN), ValueError, "forward: output overlaps"),
    "output read-only": (dict(output=read_only(HIDDEN)), ValueError, "forward: output is read-only"),
    "output of other rows": (dict(output=cases.rows(3)), ValueError, "forward: output is not bf16 [9, 64]"),
    "output float32": (dict(output=np.zeros((9, H), np.float32)), ValueError, "forward: output is not bf16 [9, 64]"),
    "ids alone": (dict(ids=IDS), ValueError, "forward: "),
    "weights alone": (dict(weights=WEIGHTS), ValueError, "forward: "),
    "ids of floats": (dict(ids=WEIGHTS, weights=WEIGHTS), ValueError, "forward: ids"),
    "ids transposed": (dict(ids=np.zeros((K, 9), np.int32).T, weights=WEIGHTS), ValueError, "forward: ids has gaps"),
    "ids out of range": (dict(ids=IDS + E, weights=WEIGHTS), RuntimeError, "forward: expert id=6 on rank 0, ids are -1"),
    "weights float64": (dict(ids=IDS, weights=WEIGHTS.astype(np.float64)), ValueError, "forward: weights"),
    "map too short": (dict(ids=IDS, weights=WEIGHTS, expert_map=np.zeros(2, np.int32)), ValueError,
                      "forward: expert_map is not i32"),
    "token ids": (dict(token_ids=np.zeros(9, np.int32)), ValueError, "forward: token_ids"),
    "max_tokens": (dict(max_tokens=3), ValueError, "forward: "),
    "max_tokens of text": (dict(max_tokens="3"), TypeError, "forward"),
    "workspace unasked": (dict(workspace=np.zeros(4, np.int32)), ValueError, "forward: workspace"),
}


@pytest.mark.parametrize("arguments, kind, text", WRONG.values(), ids=WRONG)
def test_a_wrong_argument_is_an_exception_with_the_text_of_cpp(arguments, kind, text):
    with pytest.raises(kind) as raised:
        LAYER.forward(**{"hidden": HIDDEN, **arguments})
    assert text in str(raised.value)
    assert kind is TypeError or isinstance(raised.value, switchyard.Error)
    assert LAYER.forward(HIDDEN).shape == HIDDEN.shape  # and the layer goes on


def wrong_weights(**changes):
    w1, w2, router = cases.expert_arrays()
    return switchyard.LayerWeights(**{"w1": w1, "w2": w2, "order": switchyard.GateUpOrder.GateUp, "router": router,
                                      **changes})


WRONG_LAYERS = {
    "no config": (lambda: switchyard.MoeLayer(switchyard.MoeConfig(), cases.weights()), "config: "),
    "no order": (lambda: switchyard.MoeLayer(cases.config(), wrong_weights(order=switchyard.GateUpOrder.Unset)), "order"),
    "w1 swapped": (lambda: switchyard.MoeLayer(cases.config(), wrong_weights(w1=cases.expert_arrays()[1])), "w1"),
    "w1 float32": (lambda: switchyard.MoeLayer(cases.config(), wrong_weights(w1=cases.expert_arrays()[0].astype("f4"))), "w1"),
    "w1 misaligned": (lambda: switchyard.MoeLayer(cases.config(), wrong_weights(w1=misaligned(cases.expert_arrays()[0]))), "w1"),
    "w1 with gaps": (lambda: wrong_weights(w1=cases.expert_arrays()[0][:, ::2]), "LayerWeights: w1 has gaps"),
    "a strategy": (lambda: cases.layer(strategy="fastest"), "strategy"),
    "a capacity": (lambda: cases.layer(max_tokens=-1), "max_tokens=-1"),
    "threads": (lambda: cases.layer(num_threads=-3), "num_threads=-3"),
    "an activation": (lambda: switchyard.Activation("sigmoid"), "activation"),
    "a workspace limit": (lambda: cases.layer(workspace_limit_bytes=10), "workspace"),
}


@pytest.mark.parametrize("make, text", WRONG_LAYERS.values(), ids=WRONG_LAYERS)
def test_a_wrong_layer_is_an_exception_with_the_text_of_cpp(make, text):
    with pytest.raises(ValueError, match=text) as raised:
        make()
    assert isinstance(raised.value, switchyard.Error)


def test_an_option_that_does_not_exist_is_named():
    with pytest.raises(TypeError, match="max_token: int"):
        cases.layer(max_token=4)


def test_files_that_are_missing_are_os_errors():
    with pytest.raises(OSError, match="config.json") as raised:
        switchyard.MoeLayer.from_pretrained(SOURCE / "no such folder", 1)
    assert isinstance(raised.value, switchyard.BadFile)
    with pytest.raises(switchyard.BadFile, match="layer=99"):
        switchyard.MoeLayer.from_pretrained(MODEL, 99)
    with pytest.raises(switchyard.BadFile, match="nearest|no tensor"):
        switchyard.TensorFile(MODEL / "moe_io.safetensors").tensor("model.layers.1.mlp.inputs")


def test_a_gpu_that_is_not_there_is_said():
    try:
        switchyard.make_cuda_backend()
    except switchyard.Unsupported as error:
        assert "cuda" in str(error).lower()
        with pytest.raises(switchyard.Unsupported):
            switchyard.MoeLayer.from_pretrained(MODEL, 1, device="cuda")
    else:
        pytest.skip("this machine has a GPU")
    with pytest.raises(TypeError):
        cases.layer(device="tpu")
