# SPDX-FileCopyrightText: The Switchyard authors
# SPDX-License-Identifier: Apache-2.0
"""The command line as scripts see it: exit codes, one line on stderr, JSON keys, files.

    cli_test.py path/to/switchyard path/to/source
"""

import fcntl
import json
import math
import os
import random
import pty
import re
import resource
import shutil
import signal
import socket
import stat
import struct
import subprocess
import sys
import tempfile
import termios
import time
import unittest
from pathlib import Path

PROGRAM = Path(sys.argv.pop(1)).resolve()
SOURCE = Path(sys.argv.pop(1)).resolve()
MODEL = SOURCE / "data/tiny-code-moe"
IO = MODEL / "moe_io.safetensors"
SANITIZED = b"__asan_init" in PROGRAM.read_bytes()
COUNTED = b"__gcov_" in PROGRAM.read_bytes()
# Each test says these itself.
for _variable in ("NO_COLOR", "COLUMNS", "MOE_STRATEGY", "MASKED_MAX_TOKEN_NUM", "SWITCHYARD_SECRET", "RANK",
                  "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT", "TORCHELASTIC_RUN_ID",
                  "PMI_SIZE", "SLURM_STEP_NUM_TASKS"):
    os.environ.pop(_variable, None)
RUN_KEYS = {"strategy", "reason", "layout", "ranks", "tokens", "experts", "time_us", "rel_error", "max_abs_error",
            "expert_counts", "device"}


def switchyard(*arguments, env=None, memory=None, stdin=None):
    """`memory`: bytes that it may write to, the most it may allocate at once under a sanitizer. `stdin`: text."""
    limits = {}
    if memory and SANITIZED:  # which maps terabytes by itself
        env = {**(env or {}), "ASAN_OPTIONS": f"max_allocation_size_mb={memory >> 20}"}
    elif memory:
        limits["preexec_fn"] = lambda: resource.setrlimit(resource.RLIMIT_DATA, (memory, memory))
    return subprocess.run([PROGRAM, *map(str, arguments)], capture_output=True, text=True, timeout=300, check=False,
                          env={**os.environ, **(env or {})}, input=stdin, **limits)


# Open MPI keeps what it allocates until the process ends.
NO_LEAKS = {"ASAN_OPTIONS": "detect_leaks=0"}


def own_network_address():
    """Of this machine, as others see it; none without a network."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 1))  # sends nothing
        except OSError:
            return None
        return probe.getsockname()[0]


def wait_until(holds, seconds=60):
    end = time.monotonic() + seconds
    while not holds():
        if time.monotonic() > end:
            raise TimeoutError(f"not within {seconds} s")
        time.sleep(0.01)


def cpu_seconds(program):
    fields = Path(f"/proc/{program.pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def handles(program, signal_number):
    caught = re.search(r"SigCgt:\s*(\w+)", Path(f"/proc/{program.pid}/status").read_text())[1]
    return int(caught, 16) >> (signal_number - 1) & 1


def on_terminal(columns, *arguments, env=None):
    """What it shows on a terminal of this width: (exit code, text)."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    program = subprocess.Popen([PROGRAM, *map(str, arguments)], stdin=theirs, stdout=theirs, stderr=theirs,
                               env={**os.environ, "TERM": "xterm", **(env or {})})
    os.close(theirs)
    text = b""
    try:
        while part := os.read(ours, 65536):
            text += part
    except OSError:  # EIO: the program has ended
        pass
    os.close(ours)
    return program.wait(timeout=300), text.decode().replace("\r\n", "\n")


def launched(arguments_of_ranks, kill=None, address="127.0.0.1", transport=("--transport", "processes"), **variables):
    """Starts one process per rank, as torchrun names them: [(exit code, stdout, stderr)]. Rank `kill` is killed
    when all have surely met."""
    with socket.socket() as probe:
        probe.bind((address, 0))
        port = probe.getsockname()[1] - 1  # rank 0 listens at the next one
    size = len(arguments_of_ranks)
    ranks = []
    for rank, arguments in enumerate(arguments_of_ranks):
        env = {**os.environ, "RANK": str(rank), "WORLD_SIZE": str(size), "MASTER_ADDR": address,
               "MASTER_PORT": str(port), **variables}
        ranks.append(subprocess.Popen([PROGRAM, *map(str, arguments), *transport], env=env, text=True,
                                      stdout=subprocess.PIPE, stderr=subprocess.PIPE))
    if kill is not None:  # ranks that wait for others burn nothing
        wait_until(lambda: all(cpu_seconds(rank) > 1 for rank in ranks))
        ranks[kill].kill()
    done = [rank.communicate(timeout=120) for rank in ranks]
    return [(rank.returncode, *texts) for rank, texts in zip(ranks, done)]


def under_mpirun(num_ranks, arguments):
    """As root and on fewer cores than ranks, as containers have it."""
    return subprocess.run(["mpirun", "--allow-run-as-root", "--oversubscribe", "-n", str(num_ranks), PROGRAM,
                           *map(str, arguments)], capture_output=True, text=True, timeout=300, check=False,
                          env={**os.environ, **NO_LEAKS})


def real(layer=1, *more, model=MODEL):
    """Arguments that run a checkpoint's layer on its captured input."""
    io = model / "moe_io.safetensors"
    return ["run", "--model", model, "--layer", layer, "--input", io, "--expect", io, *more]


def read_tensors(path):
    content = Path(path).read_bytes()
    size = struct.unpack("<Q", content[:8])[0]
    header = json.loads(content[8:8 + size])
    data = content[8 + size:]
    return {name: (t["dtype"], t["shape"], data[slice(*t["data_offsets"])])
            for name, t in header.items() if name != "__metadata__"}


def write_tensors(path, tensors):
    """`tensors`: dtype, shape and bytes of each name."""
    header, data = {}, b""
    for name, (dtype, shape, content) in tensors.items():
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [len(data), len(data) + len(content)]}
        data += content
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    Path(path).write_bytes(struct.pack("<Q", len(text)) + text + data)


def write_tensor(path, name, dtype, shape, data):
    write_tensors(path, {name: (dtype, shape, data)})


def floats_of_bf16(data):
    return [struct.unpack("<f", b"\0\0" + data[i:i + 2])[0] for i in range(0, len(data), 2)]


class CommandLine(unittest.TestCase):
    def setUp(self):
        self.folder = Path(self.enterContext(tempfile.TemporaryDirectory()))

    def good(self, *arguments, code=0, **options):
        done = switchyard(*arguments, **options)
        self.assertEqual(done.returncode, code, done.stderr)
        return done

    def run_json(self, *arguments, code=0, **options):
        return json.loads(self.good(*arguments, "--json", code=code, **options).stdout)

    def expect_shown(self, page, count):
        """A page of the guide has `count` blocks of commands and shows what they print."""
        blocks = re.findall(r"<!-- output of [^\n]* -->\n```\n((?:\$ [^\n]*\n)+)(.*?)```", (SOURCE / page).read_text(), re.S)
        self.assertEqual(len(blocks), count)
        (self.folder / "data").symlink_to(SOURCE / "data")
        (self.folder / "switchyard").symlink_to(PROGRAM)
        for commands, shown in blocks:
            done = subprocess.run(["sh", "-ec", commands.replace("$ ", "")], cwd=self.folder, capture_output=True,
                                  text=True, timeout=300, check=True, env={**os.environ, "PATH": f"{self.folder}:{os.environ['PATH']}"})
            self.assertEqual(done.stdout, shown)

    def refused(self, *arguments, code=2, says="", **options):
        """Ends with `code` and one line on stderr that names the problem, which it returns; nothing on stdout."""
        done = switchyard(*arguments, **options)
        self.assertEqual(done.returncode, code, done.stdout + done.stderr)
        self.assertRegex(done.stderr, r"\Aswitchyard: [^\n]+\n\Z")
        self.assertIn(says, done.stderr)
        self.assertEqual(done.stdout, "")
        return done.stderr


class Run(CommandLine):
    def test_real_layer_over_ranks_meets_its_oracle(self):
        for ranks in 1, 2, 4:
            r = self.run_json(*real(), "--ranks", ranks)
            self.assertLessEqual(RUN_KEYS, r.keys())
            self.assertLess(r["rel_error"], 4e-3)
            self.assertLess(r["max_row_error"], 2e-2)
            self.assertEqual((r["ranks"], r["experts"], r["device"]), (ranks, 32, "cpu"))
            self.assertEqual(len(r["expert_counts"]), 32)
            self.assertEqual(sum(r["expert_counts"]), r["tokens"] * 4)
            self.assertGreater(r["time_us"], 0)
            self.assertTrue(r["strategy"].startswith("local+" if ranks == 1 else "normal+"))
            self.assertIn("auto", r["reason"])

    def test_every_family_of_the_test_data(self):
        for folder in sorted((SOURCE / "tests/data").iterdir()):
            if not (folder / "config.json").exists():
                continue
            layers = self.run_json("models", "--model", folder)["moe_layers"]
            self.assertTrue(layers)
            for layer in layers:
                r = self.run_json(*real(layer["layer"], "--ranks", 2, model=folder))
                self.assertLess(r["rel_error"], 4e-3, folder.name)

    def test_text_shows_what_was_done(self):
        text = self.good(*real(), "--ranks", 4).stdout
        for part in "strategy", "normal+contiguous", "layout", "tokens per expert", "time", "error", "good":
            self.assertIn(part, text)

    def test_tensors_may_be_named(self):
        r = self.run_json("run", "--model", MODEL, "--layer", 1, "--input", IO, "--input-tensor",
                          "model.layers.1.mlp.input", "--expect", IO, "--expect-tensor",
                          "model.layers.1.mlp.output_fp64")
        self.assertLess(r["rel_error"], 4e-3)

    def test_a_mismatch_ends_with_1_and_says_so(self):
        r = self.run_json("run", "--model", MODEL, "--layer", 1, "--input", IO, "--expect", IO, "--expect-tensor",
                          "model.layers.2.mlp.output_fp64", code=1)
        self.assertGreater(r["rel_error"], 0.5)
        self.good(*real(), "--tolerance", "1e-6", code=1)
        self.good(*real(), "--tolerance", "1e-2")

    def test_output_holds_the_rows_and_both_dtypes_agree(self):
        for dtype in "bf16", "f32":
            self.good(*real(), "--output", self.folder / dtype, "--output-dtype", dtype)
        narrow, wide = (read_tensors(self.folder / d) for d in ("bf16", "f32"))
        self.assertEqual(list(narrow), ["output"])
        self.assertEqual(narrow["output"][:2], ("BF16", read_tensors(IO)["model.layers.1.mlp.input"][1]))
        self.assertEqual(wide["output"][0], "F32")
        values = floats_of_bf16(narrow["output"][2])
        self.assertEqual(values, list(struct.unpack(f"<{len(values)}f", wide["output"][2])))
        expected = read_tensors(IO)["model.layers.1.mlp.output_fp64"][2]
        expected = struct.unpack(f"<{len(values)}d", expected)
        error = math.dist(values, expected) / math.hypot(*expected)
        self.assertLess(error, 4e-3)
        self.assertEqual(sorted(p.name for p in self.folder.iterdir()), ["bf16", "f32"])

    def test_output_is_the_same_for_layouts_and_repeats(self):
        files = []
        for strategy in "contiguous", "masked", "hybrid", "hybrid":
            files.append(self.folder / f"{strategy}{len(files)}")
            self.good(*real(), "--ranks", 2, "--strategy", strategy, "--output", files[-1])
        self.assertEqual(len({f.read_bytes() for f in files}), 1)

    def test_low_latency_gives_the_bits_of_normal_or_of_one_rank(self):
        def output(*more):
            path = self.folder / f"o{random.random()}"
            self.good(*real(), "--output", path, *more)
            return path.read_bytes()
        one, normal = output(), output("--ranks", 2)
        low_latency = "--ranks", 2, "--strategy", "no_quant_ep_low_latency"
        self.assertEqual(output(*low_latency), normal)
        self.assertEqual(output(*low_latency, "--sums-at-source"), one)
        self.assertNotEqual(one, normal)

    def test_ranks_need_not_divide_the_experts(self):
        for ranks in 3, 5, 33:
            self.good(*real(), "--ranks", ranks)

    def test_a_failed_run_leaves_the_old_output(self):
        out = self.folder / "out"
        out.write_text("precious")
        self.refused(*real(), "--strategy", "low_latency+masked", "--output", out, says="more than one rank")
        self.refused(*real(), "--output", self.folder / "no" / "out", says="folder")
        self.assertEqual(out.read_text(), "precious")

    def test_random_rows_depend_on_the_seed_only(self):
        def output(*more):
            path = self.folder / f"o{random.random()}"
            self.good("run", "--preset", "olmoe-1b-7b", "--ep-size", 8, "--tokens", 20, "--repeat", 1, "--output",
                      path, *more)
            return path.read_bytes()

        self.assertEqual(output("--seed", 3), output("--seed", 3, "--threads", 1))
        self.assertNotEqual(output("--seed", 3), output("--seed", 4))
        self.assertNotEqual(output("--seed", 3), output("--seed", 3, "--ep-rank", 1))

    def test_no_tokens_are_fine(self):
        r = self.run_json("run", "--model", MODEL, "--layer", 0, "--tokens", 0, "--ranks", 2)
        self.assertEqual((r["tokens"], sum(r["expert_counts"]), r["rel_error"]), (0, 0, None))

    def test_fewer_tokens_than_ranks(self):
        self.assertEqual(sum(self.run_json("run", "--model", MODEL, "--layer", 0, "--tokens", 1, "--ranks",
                                           4)["expert_counts"]), 4)

    def test_f32_input_is_taken(self):
        values = [random.Random(1).uniform(-1, 1) for _ in range(3 * 192)]
        write_tensor(self.folder / "x", "x", "F32", [3, 192], struct.pack(f"<{len(values)}f", *values))
        r = self.run_json("run", "--model", MODEL, "--layer", 1, "--input", self.folder / "x", "--input-tensor", "x")
        self.assertEqual(r["tokens"], 3)

    def test_strategies_by_every_kind_of_name(self):
        for name, ranks, means in (("no_quant_cpp", 1, "local+contiguous"), ("no_quant_dp_normal", 2,
                                                                              "normal+contiguous"),
                                   ("no_quant_dp_normal_deepgemm", 2, "normal+hybrid"),
                                   ("no_auant_dp_normal", 2, "normal+contiguous"),
                                   ("all_gather+masked", 2, "all_gather+masked")):
            r = self.run_json(*real(), "--ranks", ranks, "--strategy", name)
            self.assertEqual(r["strategy"], means)
            self.assertLess(r["rel_error"], 4e-3)
        r = self.run_json(*real(), "--ranks", 2, env={"MOE_STRATEGY": "normal+masked"})
        self.assertEqual((r["strategy"], r["layout"]), ("normal+masked", "masked"))

    def test_tensor_parallel_ranks_share_tokens(self):
        r = self.run_json(*real(), "--ranks", 4, "--tp-size", 2)
        self.assertLess(r["rel_error"], 4e-3)
        self.assertEqual(sum(r["expert_counts"]), r["tokens"] * 4)
        replicated = [*real(), "--ranks", 4, "--tp-size", 4]
        self.assertTrue(self.run_json(*replicated)["strategy"].startswith("local+"))
        self.assertTrue(self.run_json(*replicated, "--use-all-gather", "false")["strategy"].startswith("normal+"))


class Processes(CommandLine):
    def test_ranks_of_a_network_without_a_secret_are_a_warning_of_rank_0(self):
        address = own_network_address()
        if address is None:
            self.skipTest("no network")
        warning = f"switchyard: ranks meet at MASTER_ADDR={address} and SWITCHYARD_SECRET is not set"
        for variables, warns in ({}, True), ({"SWITCHYARD_SECRET": "of this test"}, False):
            done = launched([real(1, "--output", self.folder / "o")] * 2, address=address, **variables)
            for rank, (code, _, stderr) in enumerate(done):
                self.assertEqual(code, 0, stderr)
                self.assertEqual(stderr.count(warning), int(warns and rank == 0), stderr)
        self.assertEqual(launched([real(1)] * 2)[0][2], "")  # of this machine alone

    def test_processes_give_the_bits_of_threads_and_rank_0_speaks(self):
        for ranks, more in (2, ()), (4, ("--tp-size", 2)):
            self.good(*real(), "--ranks", ranks, "--output", self.folder / "threads", *more)
            done = launched([real(1, *more, "--output", self.folder / "processes")] * ranks)
            for code, out, err in done:
                self.assertEqual((code, err), (0, ""))
            self.assertIn(f"ranks     {ranks} on cpu, processes", done[0][1])
            self.assertEqual([out for _, out, _ in done[1:]], [""] * (ranks - 1))
            self.assertEqual((self.folder / "threads").read_bytes(), (self.folder / "processes").read_bytes())

    def test_rank_0_says_what_went_wrong_on_another(self):
        good = real(1, "--output", self.folder / "output")
        done = launched([good, [str(a).replace("moe_io", "gone") for a in good]])
        self.assertEqual([code for code, _, _ in done], [1, 2])
        self.assertRegex(done[0][2], r"\Aswitchyard: rank 1: safetensors: [^\n]+gone[^\n]+\n\Z")
        self.assertEqual((done[0][1], done[1][1], done[1][2]), ("", "", ""))
        self.assertFalse((self.folder / "output").exists())

    def test_the_launchers_ranks_are_taken_without_a_word(self):
        done = launched([real()] * 2, transport=())
        self.assertEqual([code for code, _, _ in done], [0, 0], done)
        self.assertIn("ranks     2 on cpu, processes", done[0][1])
        self.assertEqual(done[1][1], "")
        alone = {"WORLD_SIZE": "2", "RANK": "0"}
        self.refused(*real(), env=alone, code=1, says="--transport threads runs it alone")
        self.good(*real(), "--transport", "threads", env=alone)
        self.good(*real(), "--ranks", 2, env={"WORLD_SIZE": "1", "RANK": "0"})
        bench = ["bench", "--model", MODEL, "--layer", 1, "--tokens", 1, "--repeat", 1]
        self.refused(*bench, env=alone, says="one of several")
        self.good(*bench, "--transport", "threads", env=alone)  # a pod's words, of another program
        self.refused(*bench, "--transport", "mpi", says="--transport=mpi")
        self.refused(*real(), env={"OMPI_COMM_WORLD_SIZE": "x", "WORLD_SIZE": "2", "RANK": "x"}, code=1, says="RANK")

    def test_ranks_that_srun_started_do_not_run_as_copies(self):
        step = {"SLURM_STEP_NUM_TASKS": "2", "SLURM_PROCID": "0", **NO_LEAKS}
        self.refused(*real(), env=step, says="--transport threads runs")  # without its plugin for MPI
        self.good(*real(), "--transport", "threads", env=step)
        self.good(*real(), "--ranks", 2, env={**step, "SLURM_STEP_NUM_TASKS": "1", "SLURM_NTASKS": "2"})  # a batch script
        # torchrun under srun, one on each node.
        done = launched([real()] * 2, transport=(), PMI_SIZE="2", SLURM_STEP_NUM_TASKS="2", TORCHELASTIC_RUN_ID="job")
        self.assertEqual([code for code, _, _ in done], [0, 0], done)
        self.assertIn("ranks     2 on cpu, processes", done[0][1])

    def test_a_killed_rank_is_named(self):
        done = launched([real(1, "--repeat", 1000000)] * 2, kill=1)
        self.assertEqual(done[0][0], 1)
        self.assertRegex(done[0][2], r"\Aswitchyard: [a-z_]+: rank 1 left[^\n]+\n\Z")
        self.assertEqual(done[0][1], "")

    def test_check_over_processes_says_what_threads_say(self):
        threads = self.run_json("check", "--ranks", 2)
        done = launched([["check", "--json"]] * 2)
        self.assertEqual([(code, err) for code, _, err in done], [(0, ""), (0, "")])
        self.assertEqual(json.loads(done[0][1]), threads)
        self.assertEqual(done[1][1], "")
        done = launched([["check", "--ranks", 3]] * 2)
        self.assertEqual([code for code, _, _ in done], [2, 2])
        self.assertEqual(done[0][2], "switchyard: --ranks=3, the launcher started 2\n")

    def test_ranks_and_launcher_must_agree(self):
        done = launched([real(1, "--ranks", 3)] * 2)
        self.assertEqual([code for code, _, _ in done], [2, 2])
        self.assertEqual(done[0][2], "switchyard: --ranks=3, the launcher started 2\n")
        self.refused(*real(), "--transport", "pigeons", says="--transport=pigeons")

    def test_mpi_gives_the_bits_of_threads_and_rank_0_speaks(self):
        probe = switchyard(*real(), "--transport", "mpi", env=NO_LEAKS)
        if "this build has no MPI" in probe.stderr:
            self.skipTest("built without MPI")
        self.assertEqual(probe.returncode, 0, probe.stderr)
        for ranks in 2, 4:
            self.good(*real(), "--ranks", ranks, "--output", self.folder / "threads")
            arguments = [*real(), "--transport", "mpi", "--output", self.folder / "mpi"]
            done = under_mpirun(ranks, arguments)
            self.assertEqual(done.returncode, 0, done.stderr)
            self.assertEqual(done.stdout.count("layout    "), 1)
            self.assertIn(f"ranks     {ranks} on cpu, mpi", done.stdout)
            self.assertEqual((self.folder / "threads").read_bytes(), (self.folder / "mpi").read_bytes())
        done = under_mpirun(2, real())
        self.assertEqual((done.returncode, done.stdout.count("ranks     2 on cpu, mpi")), (0, 1), done.stderr)
        done = under_mpirun(2, ["run", "--model", self.folder, "--layer", 0, "--transport", "mpi"])
        self.assertEqual((done.returncode, done.stdout, done.stderr.count("switchyard: ")), (2, "", 1))


class BadInput(CommandLine):
    def test_usage(self):
        self.refused(says="")
        self.refused("walk", says="walk")
        self.refused("run", says="--model DIR or --preset NAME")
        self.refused("run", "--model", MODEL, says="--layer is missing")
        self.refused("run", "--model", MODEL, "--layer", "one", says="--layer")
        self.refused("run", "--model", MODEL, "--layer", 7, says="MoE layers are 0, 1, 2")
        self.refused("run", "--model", MODEL, "--layer", 1, "--preset", "olmoe-1b-7b", says="either")
        self.refused("run", "--model", MODEL, "--layer", 1, "--wat", says="--wat")
        self.refused(*real(), "--ranks", 0, says="--ranks=0")
        self.refused(*real(), "--ranks", 3, "--tp-size", 2, says="--tp-size=2")
        self.refused(*real(), "--tolerance", "nan", says="--tolerance")
        self.refused(*real(), "--device", "tpu", says="--device=tpu")
        self.refused(*real(), "--output", self.folder / "o", "--output-dtype", "f8", says="f8")
        self.refused(*real(), "--strategy", "normal+maskd", says="Did you mean")
        self.refused(*real(), "--strategy", "fp8_per_block_no_dp", says="f8_e4m3 (saw bf16)")
        self.refused(*real(), "--strategy", "fp4_ep_low_latency", says="not provided yet")
        self.refused(*real(), "--ranks", 2, "--strategy", "normal+masked", "--sums-at-source", says="by low_latency")
        self.refused(*real(), "--ranks", 2, "--strategy", "local+masked", says="P=2")
        self.refused("run", "--model", MODEL, "--layer", 1, "--tokens", -1, says="--tokens=-1")

    def test_files(self):
        self.refused("run", "--model", self.folder, "--layer", 1, says="config.json")
        self.refused("run", "--model", self.folder / "no", "--layer", 1, says="is no folder")
        self.refused("run", "--model", MODEL, "--layer", 1, "--input", self.folder / "no", says="no")
        self.refused("run", "--model", MODEL, "--layer", 1, "--input", IO, "--input-tensor", "nope", says="nope")
        (self.folder / "cut").write_bytes(IO.read_bytes()[:1000])
        self.refused("run", "--model", MODEL, "--layer", 1, "--input", self.folder / "cut", says="cut")
        write_tensor(self.folder / "narrow", "x", "F32", [2, 8], bytes(64))
        self.refused("run", "--model", MODEL, "--layer", 1, "--input", self.folder / "narrow", "--input-tensor", "x",
                     says="192")
        write_tensor(self.folder / "int", "x", "I32", [1, 192], bytes(768))
        self.refused("run", "--model", MODEL, "--layer", 1, "--input", self.folder / "int", "--input-tensor", "x",
                     says="x")

    def test_presets(self):
        self.refused("run", "--preset", "gpt-5", says="olmoe-1b-7b")
        self.refused("run", "--preset", "kimi-k2", says="bytes=")
        self.refused("run", "--preset", "olmoe-1b-7b", "--weights", "native", says="--weights=native")
        self.refused("run", "--preset", "olmoe-1b-7b", "--ep-size", 3, says="--ep-size=3")
        self.refused("run", "--preset", "olmoe-1b-7b", "--ep-size", 8, "--ep-rank", 8, says="--ep-rank=8")

    def test_an_unknown_family_lists_the_known(self):
        (self.folder / "config.json").write_text('{"model_type": "novel"}')
        self.refused("models", "--model", self.folder, says="qwen3_moe")


class Options(CommandLine):
    """Every option that any help lists is in one of these, so that a new one gets its bad values."""

    FLAGS = {"help", "version", "json", "all", "allow-repeated-experts", "push-rows", "bf16-rows", "host-counts",
             "no-peer-memory", "sums-at-source",
             "low-latency", "measure", "use_deepep_low_latency", "linear-attention", "routed-only", "tune"}
    PATHS = {"model", "config", "input", "expect", "output", "report", "svg-dir", "placement", "current", "out"}
    NAMES = {"input-tensor", "token-ids-tensor", "expect-tensor", "commit"}  # any word may be one
    WORDS = {"preset", "device", "transport", "strategy", "moe_strategy", "output-dtype", "routing", "use-all-gather",
             "use_all_gather", "weights", "gemm1", "gemm2"}
    NUMBERS = {"layer", "ep-size", "ep-rank", "ranks", "tp-size", "masked-max-tokens", "masked_max_token_num",
               "alignment", "threads", "pieces", "link-blocks", "num-sms", "tokens", "max-tokens", "seed", "repeat",
               "tolerance", "batch", "nodes", "ranks-per-node", "nvlink-gbps", "network-gbps", "nvlink-meeting-us",
               "network-meeting-us", "network-peer-us", "gemm-tflops", "read-gbps", "slots", "groups",
               "placement-layer"}
    NO_DEFAULT = {"layer"}
    COMMANDS = {"run": ["--preset", "olmoe-1b-7b", "--ep-size", 64], "models": [], "check": [],
                "explain": ["--preset", "olmoe-1b-7b"], "bench": ["--preset", "olmoe-1b-7b", "--ep-size", 64],
                "plan": ["--preset", "olmoe-1b-7b"], "report": ["x.json"]}

    def options(self, command):
        """{name: the line of the help}"""
        lines = self.good(command, "--help").stdout.splitlines()
        return {name: line for line in lines if line.startswith("  -")
                for name in re.findall(r"--([\w-]+)", line.split("Excludes")[0].split("   ")[0].split("=")[0])}

    def test_senseless_values_are_refused_by_name(self):
        for command, arguments in self.COMMANDS.items():
            for name in self.options(command):
                self.assertIn(name, self.FLAGS | self.PATHS | self.NAMES | self.WORDS | self.NUMBERS)
                if name not in self.NUMBERS:
                    continue
                for value in "-1", "9" * 25, "nan" if name.endswith("s") else "1x":
                    with self.subTest(command=command, option=name, value=value):
                        others = arguments if name != "ep-size" else arguments[:2]
                        self.refused(command, *others, f"--{name}={value}", says=f"={value}, need ")

    def test_words_that_are_none_are_refused_by_value(self):
        for command, arguments in self.COMMANDS.items():
            for name in self.WORDS & self.options(command).keys():
                others = [a for a in arguments if a != "--ep-size" and a != 64] if name != "preset" else []
                with self.subTest(command=command, option=name):
                    done = switchyard(command, *others, f"--{name}=wat")
                    self.assertEqual(done.returncode, 1 if command == "explain" and "strategy" in name else 2)
                    self.assertIn("wat", done.stderr + done.stdout)

    def test_help_shows_the_default_of_every_number(self):
        for command in self.COMMANDS:
            for name, line in self.options(command).items():
                if name in self.NUMBERS - self.NO_DEFAULT:
                    self.assertRegex(line, r"=\S| \[\S", f"{command} --{name}")

    def test_what_goes_unused_is_refused(self):
        run, bench = ["run", *self.COMMANDS["run"]], ["bench", *self.COMMANDS["bench"]]
        for arguments in ([*run, "--num-sms", 2], [*run, "--push-rows"], [*run, "--link-blocks", 2],
                          [*run, "--host-counts"], [*run, "--no-peer-memory"], [*run, "--tolerance", 1],
                          [*run, "--output-dtype", "f32"], [*run, "--input-tensor", "x"],
                          [*real(), "--tokens", 3], [*real(), "--seed", 3],
                          ["check", "--no-peer-memory"], ["explain", "--preset", "olmoe-1b-7b", "--num-sms", 3],
                          ["explain", "--preset", "olmoe-1b-7b", "--device", "cuda", "--threads", 3],
                          [*run, "--gemm1", "x"], ["explain", "--preset", "olmoe-1b-7b", "--gemm2", "x"], [*bench, "--out", "x"],
                          [*bench, "--batch", 2], [*bench, "--routing", "zipf"], [*bench, "--routed-only"],
                          ["plan", "--preset", "olmoe-1b-7b", "--slots", 8], ["plan", "--groups", 2],
                          ["plan", "--placement", "x", "--ranks", 2, "--preset", "olmoe-1b-7b"],
                          ["plan", "--placement", "x", "--ranks", 2, "--model", "x"],
                          ["plan", "--placement", "x", "--ranks", 2, "--tokens", 3],
                          ["plan", "--placement", "x", "--ranks", 2, "--routing", "zipf"],
                          ["plan", "--placement", "x", "--ranks", 2, "--read-gbps", 2],
                          [*bench, "--commit", "x"], ["bench", "--linear-attention", "--preset", "olmoe-1b-7b"]):
            option = [a for a in arguments if str(a).startswith("--")][-1]
            with self.subTest(arguments=arguments):
                self.assertIn(option, self.refused(*arguments, says="is for "))

    def test_near_misses_are_named(self):
        self.refused("rnu", says="Did you mean run?")
        self.refused("run", "--rank", 2, says="--rank is no option of run. Did you mean --ranks?")
        self.refused("plan", "--network-gpbs=3", says="Did you mean --network-gbps?")
        self.refused("help", "chek", says="Did you mean check?")
        self.assertNotIn("Did you mean", switchyard("run", "--xyzzy").stderr)

    def test_version_and_help_in_every_form(self):
        version = self.good("--version").stdout
        self.assertEqual([self.good(word).stdout for word in ("-v", "version")], [version] * 2)
        self.assertEqual(self.good("help").stdout, self.good("--help").stdout)
        self.assertEqual(self.good("help", "plan").stdout, self.good("plan", "--help").stdout)

    def test_the_environment_is_named_in_its_errors(self):
        for variable, value in ("MOE_STRATEGY", "bogus"), ("MASKED_MAX_TOKEN_NUM", "x"), ("MASKED_MAX_TOKEN_NUM", "-5"):
            self.refused(*real(), env={variable: value}, says=f"from the environment: {variable}={value}")
        done = switchyard(*real(), "--strategy", "bogus", env={"MOE_STRATEGY": "bogus"})
        self.assertNotIn("environment", done.stderr)


class Outputs(CommandLine):
    def test_only_files_are_replaced(self):
        os.mkfifo(self.folder / "pipe")
        (self.folder / "link").symlink_to("target")
        for path, says in ((self.folder / "pipe", "no regular file"), (self.folder / "link", "is a link to target"),
                           (self.folder, "no regular file")):
            self.refused(*real(), "--output", path, says=says)
        self.assertEqual(len(list(self.folder.iterdir())), 2)
        out = self.folder / "out"
        out.write_text("old")
        out.chmod(0o640)
        self.good(*real(), "--output", out)
        self.assertEqual(out.stat().st_mode & 0o7777, 0o640)

    def test_a_device_is_not_replaced(self):
        device = self.folder / "null"  # a node of its own: a program that is wrong replaces it
        try:
            os.mknod(device, 0o666 | stat.S_IFCHR, os.makedev(1, 3))
        except PermissionError:
            self.skipTest("may not make devices")
        self.refused(*real(), "--output", device, says="no regular file")
        self.assertTrue(device.is_char_device())

    def test_neither_the_model_nor_the_input_is_replaced(self):
        model = self.folder / "model"
        shutil.copytree(MODEL, model)
        os.link(model / "moe_io.safetensors", self.folder / "linked")
        before = {p.name: p.read_bytes() for p in model.iterdir() if p.is_file()}
        shutil.copy(IO, self.folder / "io")
        for path in model / "model.safetensors", model / "config.json", self.folder / "linked":
            self.refused(*real(model=model), "--output", path, says="as well. Name another file")
        self.refused("run", "--model", model, "--layer", 1, "--input", self.folder / "io", "--output",
                     self.folder / "io", says="is --input as well")
        self.assertEqual({p.name: p.read_bytes() for p in model.iterdir() if p.is_file()}, before)

    @unittest.skipIf(COUNTED, "the counters that it writes at its end are larger than the limit")
    def test_a_limit_on_file_size_is_an_error(self):
        done = subprocess.run([PROGRAM, *map(str, real(1, "--output", self.folder / "out"))], capture_output=True,
                              text=True, check=False,
                              preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096)))
        self.assertEqual((done.returncode, done.stdout), (2, ""))
        self.assertIn("File too large", done.stderr)
        self.assertEqual(list(self.folder.iterdir()), [])

    def test_a_full_disk_is_an_error_that_leaves_the_old_file(self):
        disk = self.folder / "disk"
        disk.mkdir()
        mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8k", "none", disk], capture_output=True, text=True,
                                 check=False)
        if mounted.returncode:
            self.skipTest(f"a small disk cannot be mounted here: {mounted.stderr.strip()}")
        self.addCleanup(subprocess.run, ["umount", disk], check=True)
        (disk / "old").write_text("precious")
        for name in "old", "new":
            done = switchyard(*real(1, "--output", disk / name))
            self.assertEqual((done.returncode, done.stdout), (2, ""))
            self.assertRegex(done.stderr, rf"\Aswitchyard: write_safetensors: path={disk / name}, [^\n]*No space left[^\n]*\n\Z")
        self.assertEqual([(p.name, p.read_text()) for p in disk.iterdir()], [("old", "precious")])

    def test_a_full_or_closed_stdout_is_an_error(self):
        for arguments in real(), real(1, "--json"), ["models"], ["--help"], ["--version"], ["explain", *real()[1:5]]:
            with open("/dev/full", "w") as full:
                done = subprocess.run([PROGRAM, *map(str, arguments)], stdout=full, stderr=subprocess.PIPE, text=True,
                                      check=False)
            self.assertEqual((done.returncode, done.stderr),
                             (1, "switchyard: stdout: cannot be written (No space left on device)\n"))
        done = subprocess.run(["sh", "-c", '"$@" >&-', "sh", PROGRAM, "models"], stderr=subprocess.PIPE, text=True,
                              check=False)
        self.assertEqual(done.returncode, 1, done.stderr)

    def test_a_path_that_is_no_utf8_keeps_the_result(self):
        model = os.fsencode(self.folder) + b"/model-\xff"
        os.symlink(os.fsencode(MODEL), model)
        done = subprocess.run([os.fsencode(PROGRAM), b"run", b"--model", model, b"--layer", b"1", b"--json"],
                              capture_output=True, check=False)
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertIn("model-\ufffd", json.loads(done.stdout.decode())["layer"])

    def test_an_interrupt_says_so_and_leaves_nothing(self):
        for name in "SIGINT", "SIGTERM":
            program = subprocess.Popen([PROGRAM, *map(str, real(1, "--repeat", 1000000, "--output",
                                                                self.folder / "out"))],
                                       stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
            wait_until(lambda: handles(program, getattr(signal, name)))
            time.sleep(random.random())
            program.send_signal(getattr(signal, name))
            out, err = program.communicate(timeout=60)
            self.assertEqual((program.returncode, out, err),
                             (-getattr(signal, name), "", f"switchyard: interrupted by {name}\n"))
        self.assertEqual(list(self.folder.iterdir()), [])

    def test_good_is_said_where_something_was_compared(self):
        self.assertIsNone(self.run_json("run", "--model", MODEL, "--layer", 1)["good"])
        self.assertIs(self.run_json(*real())["good"], True)
        write_tensor(self.folder / "none", "x", "F32", [0, 192], b"")
        self.refused("run", "--model", MODEL, "--layer", 1, "--input", self.folder / "none", "--input-tensor", "x",
                     "--expect", self.folder / "none", "--expect-tensor", "x", says="nothing would be compared")

    def test_check_takes_any_number_of_ranks_and_compares(self):
        c = self.run_json("check", "--ranks", 3)
        self.assertEqual((c["good"], c["failed"], c["without_rows"]), (33, 0, 1))
        self.assertEqual(len(c["lines"]), 34)
        self.assertEqual([line["name"] for line in c["lines"] if line["rows"] == 0], ["0 tokens"])


class Terminal(CommandLine):
    COLOUR = "\x1b["

    def test_lines_fit(self):
        shown = [["help"], *([c, "--help"] for c in Options.COMMANDS), ["models"], ["models", "--model", MODEL],
                 ["explain", "--preset", "deepseek-v3", "--ranks", 8], [*real(), "--ranks", 2],
                 ["explain", "--preset", "deepseek-v3", "--ranks", 8, "--all"],
                 [*OtherCommands.MEASURE, "--ranks", 2],
                 ["plan", "--preset", "deepseek-v3", "--ranks", "8..64"]]
        for name, layers in ("one", 1), ("three", 3):
            (self.folder / name).write_text(json.dumps([[e % 7 for e in range(256)]] * layers))
            shown.append(["plan", "--placement", self.folder / name, "--slots", 264, "--ranks", 8, "--groups", 8])
        for columns in 60, 80:
            for arguments in shown:
                code, text = on_terminal(columns, *arguments, env={"NO_COLOR": "1"})
                self.assertEqual(code, 0, text)
                for line in text.split("\n"):
                    line = line.split("\x1b[K")[-1].replace("\r", "")  # without progress
                    is_one_word = " " not in line.strip()
                    self.assertTrue(len(line) <= columns or is_one_word, f"{arguments}, {columns}: {line}")

    def test_explain_fits_a_screen(self):
        for device in "cpu", "cuda":
            for ranks in 1, 8:
                arguments = ["explain", "--preset", "deepseek-v3", "--ranks", ranks, "--device", device]
                _, text = on_terminal(80, *arguments)
                self.assertLessEqual(text.count("\n"), 23, text)

    def test_colours_are_for_terminals_that_have_them(self):
        self.assertIn(self.COLOUR + "32mgood", on_terminal(100, *real())[1])
        self.assertIn(self.COLOUR + "31mswitchyard:", on_terminal(100, "walk")[1])
        for env in {"NO_COLOR": "1"}, {"TERM": "dumb"}:
            self.assertNotIn(self.COLOUR + "3", on_terminal(100, *real(), env=env)[1])
        self.assertNotIn(self.COLOUR, self.good(*real()).stdout)

    def test_what_is_waited_for_is_said(self):
        text = on_terminal(100, "run", *Options.COMMANDS["run"], "--tokens", 3)[1]
        self.assertRegex(text, r"making [\d.]+ MiB of random weights \.\.\.")
        self.assertRegex(text, r"running: +\d+ %")
        self.assertRegex(on_terminal(100, *real())[1], r"loading [\d.]+ MiB of weights: +\d+ %")


class Damaged(CommandLine):
    """Every kind of damaged input: refused with one line in little memory, no output file. The good checkpoint runs
    in the same memory."""

    GOOD = SOURCE / "tests/data/mixtral"  # E 8, K 2, H 128, I 96, one layer
    EXPERT = "model.layers.0.block_sparse_moe.experts.5.w2.weight"
    MEMORY = 128 << 20
    IO = ["--input", GOOD / "moe_io.safetensors", "--expect", GOOD / "moe_io.safetensors"]

    def setUp(self):
        super().setUp()
        self.model = self.folder / "model"
        self.output = self.folder / "output"
        self.repair()

    def repair(self):
        shutil.rmtree(self.model, ignore_errors=True)
        shutil.copytree(self.GOOD, self.model)

    def arguments(self, *more):
        return ["run", "--model", self.model, "--layer", 0, "--output", self.output, *(more or self.IO)]

    def expect_refused(self, *more, says):
        with self.subTest(says=says):
            self.refused(*self.arguments(*more), says=says, memory=self.MEMORY)
            self.assertEqual(sorted(self.folder.iterdir()), [self.model])
        self.repair()

    @property
    def file(self):
        return self.model / "model.safetensors"

    def rewrite_header(self, change, data=lambda data: data):
        """`change` gets the header and may change it, or return the bytes to write instead."""
        content = self.file.read_bytes()
        size = struct.unpack("<Q", content[:8])[0]
        header = json.loads(content[8:8 + size])
        text = change(header) or json.dumps(header).encode()
        self.file.write_bytes(struct.pack("<Q", len(text)) + text + data(content[8 + size:]))

    def rewrite_expert(self, **changes):
        self.rewrite_header(lambda header: header[self.EXPERT].update(changes))

    def rewrite_config(self, remove=None, **changes):
        path = self.model / "config.json"
        config = {**json.loads(path.read_text()), **changes}
        config.pop(remove, None)
        path.write_text(json.dumps(config))

    def test_the_good_one_runs_in_this_memory(self):
        self.good(*self.arguments(), memory=self.MEMORY)
        self.assertTrue(self.output.exists())

    def test_truncated_files(self):
        whole = self.file.read_bytes()
        for size, says in (0, "need at least 8"), (7, "need at least 8"), (1000, "truncated"), (
                len(whole) - 1, "truncated"):
            self.file.write_bytes(whole[:size])
            self.expect_refused(says=says)
        for name in "config.json", "moe_io.safetensors":
            content = (self.model / name).read_bytes()
            (self.model / name).write_bytes(content[:len(content) // 2])
            self.expect_refused("--input", self.model / "moe_io.safetensors", says=name)

    def test_huge_headers(self):
        for claim in 10**8 + 1, 2**31, 2**63 - 1, 2**64 - 1:
            with self.file.open("r+b") as file:
                file.write(struct.pack("<Q", claim))
            self.expect_refused(says=f"header bytes={claim}")
        for size, says in (10**8 + 1, "header bytes=100000001"), (10**8, "no JSON object"):
            with self.file.open("wb") as file:  # as large as it says, and empty
                file.write(struct.pack("<Q", size))
                file.truncate(2 * 10**8)
            self.expect_refused(says=says)
        self.rewrite_header(lambda header: b"[" * 10**6)
        self.expect_refused(says="no JSON object")
        self.rewrite_header(lambda header: b'{"__metadata__":' + b"[" * 10**6)
        self.expect_refused(says="nests deeper")
        self.rewrite_header(lambda header: b'{"a":{"shape":[' + b"[]," * (16 << 20))
        self.expect_refused(says="shape holds [")
        self.rewrite_header(lambda header: b'{"a":{"shape":[' + b"0," * (16 << 20))
        self.expect_refused(says="more than 64 numbers")

    def test_metadata_takes_no_memory(self):
        self.rewrite_header(lambda header: json.dumps(
            {**header, "__metadata__": {"nested": [[[], {}]] * (2 << 20)}}).encode())
        self.good(*self.arguments(), memory=self.MEMORY)

    def test_places_of_tensors(self):
        self.rewrite_header(lambda h: h[self.EXPERT].update(data_offsets=next(
            t["data_offsets"] for name, t in h.items() if name.endswith("experts.4.w2.weight"))))
        self.expect_refused(says="overlap")
        self.rewrite_header(lambda h: h[self.EXPERT]["data_offsets"].reverse())
        self.expect_refused(says="begin <= end")
        self.rewrite_expert(data_offsets=[2**62, 2**62 + 128 * 96 * 2])
        self.expect_refused(says="truncated")
        self.rewrite_expert(data_offsets=[0, 2**64])
        self.expect_refused(says="non-negative integers")
        self.rewrite_expert(data_offsets=["0", "24576"])
        self.expect_refused(says="non-negative integers")

    def test_shapes_and_dtypes_of_tensors(self):
        self.rewrite_expert(shape=[2**32, 2**32, 2])
        self.expect_refused(says="overflows")
        self.rewrite_expert(shape=[2**40, 8])
        self.expect_refused(says="dtype and shape need")
        self.rewrite_expert(shape=[96, 128])
        self.expect_refused(says="has shape [96, 128], need [128, 96]")
        self.rewrite_expert(shape=[-128, 96])
        self.expect_refused(says="shape holds -128")
        self.rewrite_expert(shape="128")
        self.expect_refused(says="shape is no array")
        self.rewrite_expert(dtype="F32")
        self.expect_refused(says="dtype and shape need")
        self.rewrite_expert(dtype="U16")
        self.expect_refused(says="dtype=U16")
        self.rewrite_expert(dtype=7)
        self.expect_refused(says="dtype is no string")
        self.rewrite_header(lambda h: h.update({self.EXPERT: []}))
        self.expect_refused(says="no JSON object")

    def test_missing_experts(self):
        self.rewrite_header(lambda header: header.pop(self.EXPERT) and None)
        self.expect_refused(says=self.EXPERT)

    def shard(self, name="model-00001-of-00001.safetensors", without=None, **more):
        """One shard and an index that names it for all tensors but one, and `more`."""
        tensors = [t for t in read_tensors(self.file) if t != without]
        self.file.rename(self.model / "model-00001-of-00001.safetensors")
        index = {"weight_map": {**{t: name for t in tensors}, **more}}
        (self.model / "model.safetensors.index.json").write_text(json.dumps(index))

    def test_shards_and_indexes_that_lie(self):
        self.shard()
        self.good(*self.arguments(), memory=self.MEMORY)
        self.output.unlink()
        self.repair()
        self.shard("model-00002-of-00002.safetensors")
        self.expect_refused(says="model-00002-of-00002.safetensors is missing")
        self.shard(**{self.EXPERT: "moe_io.safetensors"})
        self.expect_refused(says=f"tensor {self.EXPERT}: is not in moe_io.safetensors")
        self.shard(without=self.EXPERT)
        self.expect_refused(says=f"tensor {self.EXPERT}: the index names no file for it")
        self.shard("../model/model-00001-of-00001.safetensors")
        self.expect_refused(says="in the same folder")
        self.shard("s" * 300)
        self.expect_refused(says="is missing")
        self.shard(**{self.EXPERT: 7})
        self.expect_refused(says=f"tensor {self.EXPERT}: its file is no string")
        self.shard(more=7, others="../x", nowhere="model-00009-of-00009.safetensors")
        self.good(*self.arguments(), memory=self.MEMORY)
        self.output.unlink()
        self.repair()
        self.shard("pipe")
        os.mkfifo(self.model / "pipe")
        self.expect_refused(says="is no regular file")
        self.file.unlink()
        self.expect_refused(says="has neither")
        self.shard()
        (self.model / "model.safetensors.index.json").write_text('{"weight_map":')
        self.expect_refused(says="index.json, line 1: the text ends inside its JSON")

    def test_indexes_as_large_as_they_come(self):
        tensors = list(read_tensors(self.file))
        others = {f"model.layers.{i // 1000}.mlp.experts.{i % 1000}.down_proj.weight_packed": f"model-{i % 64:05}.safetensors"
                  for i in range(250_000)}
        self.file.rename(self.model / "one.safetensors")
        index = {"metadata": {}, "weight_map": {**others, **{t: "one.safetensors" for t in tensors}}}
        (self.model / "model.safetensors.index.json").write_text(json.dumps(index, indent=2))
        self.good(*self.arguments(), memory=self.MEMORY)
        self.output.unlink()
        with (self.model / "model.safetensors.index.json").open("wb") as file:
            file.truncate(2**28 + 1)
        self.expect_refused(says=f"bytes={2**28 + 1}, at most {2**28}")

    def test_configs(self):
        for changes, says in (
            ({"remove": "num_local_experts"}, "num_local_experts or n_routed_experts or moe_num_experts=nothing"),
            ({"num_local_experts": 0}, "num_experts=0"),
            ({"num_local_experts": 10**12}, "num_experts=1000000000000"),
            ({"num_local_experts": 1024}, "has no tensor model.layers.0.block_sparse_moe.experts.8.w1.weight"),
            ({"num_experts_per_tok": 0}, "top_k=0"),
            ({"num_experts_per_tok": 9}, "top_k=9, need 1 to num_experts=8"),
            ({"num_experts_per_tok": 1.5}, "=1.5, need an integer"),
            ({"num_experts_per_tok": "2"}, '="2", need an integer'),
            ({"hidden_size": float("nan")}, 'hidden_size="NaN", need an integer'),
            ({"hidden_size": float("inf")}, 'hidden_size="Infinity", need an integer'),
            ({"hidden_size": 1e300}, "hidden_size=1e+300, need an integer"),
            ({"hidden_size": 2**64 - 1}, "need an integer"),
            ({"hidden_size": 2**20}, "need BF16 or F32 [T, 1048576]"),
            ({"intermediate_size": 2**20}, "has shape [96, 128], need [1048576, 128]"),
            ({"hidden_size": 2**62}, f"hidden={2**62}"),
            ({"num_hidden_layers": 2**62}, f"num_hidden_layers={2**62}"),
            ({"hidden_act": "mish"}, "name=mish"),
            ({"model_type": "novel"}, "model_type=novel"),
            ({"model_type": 7}, "model_type=7, need a string"),
            ({"model_type": "phimoe", "architectures": [], "router_jitter_noise": 1e300},
             "router_jitter_noise=1e+300, need a finite number"),
            ({"model_type": "line\nbreak"}, "model_type=line?break"),
        ):
            self.rewrite_config(**changes)
            self.expect_refused(says=says)
        (self.model / "config.json").write_text('{"model_type": "mixtral", "hidden_size": 1e999}')
        self.expect_refused(says='hidden_size="1e999", need an integer')
        (self.model / "config.json").write_text('{"model_type": "mixtral",\n"hidden_size": ,}')
        self.expect_refused(says="config.json, line 2: no JSON at the end of")
        (self.model / "config.json").write_text('{"model_type": [' + "[]," * (5 << 20) + "[]]}")
        self.expect_refused(says="at most 1048576 are sensible here")
        self.rewrite_config(time_step_limit=[0.0, float("inf")], nobody=float("nan"))
        self.good(*self.arguments(), memory=self.MEMORY)
        self.output.unlink()

    def test_inputs_and_expected_outputs(self):
        other = self.model / "other"
        for option, more in ("--input", []), ("--expect", self.IO[:2]):
            for dtype, shape, bytes_each in (("I32", [2, 128], 4), ("F16", [2, 128], 2), ("BF16", [2, 136], 2),
                                             ("F32", [256], 4), ("F32", [1, 2, 128], 4)):
                write_tensor(other, "x", dtype, shape, bytes(math.prod(shape) * bytes_each))
                self.expect_refused(*more, option, other, f"{option}-tensor", "x", says="tensor x")
        self.expect_refused(*self.IO, "--input-tensor", "nope", says="has no tensor nope")


class OtherCommands(CommandLine):
    def test_help_teaches(self):
        for command in [], ["run"], ["models"], ["explain"], ["check"], ["bench"], ["plan"]:
            text = self.good(*command, "--help").stdout
            self.assertRegex(text, "Example:|Start with:")
        self.assertRegex(self.good("--version").stdout, r"^\d+\.\d+\.\d+\n$")

    def test_models_lists_layers_families_and_presets(self):
        layers = self.run_json("models", "--model", MODEL)
        self.assertEqual([entry["layer"] for entry in layers["moe_layers"]], [0, 1, 2])
        self.assertEqual(layers["moe_layers"][1]["module"], "model.layers.1.mlp")
        known = self.run_json("models")
        self.assertEqual(len(known["presets"]), 18)
        self.assertIn("gpt_oss", known["families"])
        self.assertIn("model.layers.2.mlp", self.good("models", "--model", MODEL).stdout)

    def test_models_names_a_quantisation_that_is_not_read(self):
        with tempfile.TemporaryDirectory() as folder:
            shutil.copy(os.path.join(MODEL, "model.safetensors"), folder)
            config = json.load(open(os.path.join(MODEL, "config.json")))
            config["quantization_config"] = {"quant_method": "gptq", "bits": 4}
            json.dump(config, open(os.path.join(folder, "config.json"), "w"))
            self.assertIn("unsupported (gptq)", self.good("models", "--model", folder).stdout)
            layers = self.run_json("models", "--model", folder)["moe_layers"]
            self.assertEqual({layer["stored"] for layer in layers}, {"unsupported (gptq)"})

    def test_experts_of_fp8_stay_fp8_if_asked(self):
        # 4 experts of 128 x 128 matrices: a byte a number and one scale each.
        hidden, experts = 128, 4
        mlp = "model.layers.0.mlp"
        parts = {f"{mlp}.gate.weight": ("BF16", [experts, hidden], b"".join(struct.pack("<H", 0x3c00 + (i * 37) % 300) for i in range(experts * hidden)))}
        for e in range(experts):
            for seed, name in enumerate(("gate_proj", "up_proj", "down_proj")):
                codes = bytes((7 * i + 13 * e + seed) % 0x70 | (i % 2) << 7 for i in range(hidden * hidden))
                matrix = f"{mlp}.experts.{e}.{name}.weight"
                parts[matrix] = ("F8_E4M3", [hidden, hidden], codes)
                parts[matrix + "_scale_inv"] = ("F32", [1, 1], struct.pack("<f", 0.002))
        write_tensors(self.folder / "model.safetensors", parts)
        (self.folder / "config.json").write_text(json.dumps(
            {"model_type": "qwen3_moe", "hidden_size": hidden, "moe_intermediate_size": hidden, "num_experts": experts,
             "num_experts_per_tok": 2, "num_hidden_layers": 1, "norm_topk_prob": True, "hidden_act": "silu",
             "quantization_config": {"quant_method": "fp8", "weight_block_size": [128, 128]}}))
        layer = ("--model", self.folder, "--layer", 0)
        shown = self.run_json("models", "--model", self.folder)["moe_layers"][0]
        self.assertEqual((shown["stored"], shown["native_dtype"]), ("fp8 in 128x128 blocks", "f8_e4m3"))
        numbers = 3 * experts * hidden * hidden
        self.assertLess(abs(shown["bytes"] - shown["native_bytes"] - numbers), 1024)  # scales and alignment
        native = self.run_json("explain", *layer, "--weights", "native")
        self.assertEqual((native["experts"], native["weight_bytes"]), ("f8_e4m3", shown["native_bytes"]))
        self.assertEqual(self.run_json("explain", *layer)["experts"], "bf16")

        rows = b"".join(struct.pack("<H", (i * 0x51) % 0x180 + 0x3e00 | (i % 3 == 0) << 15) for i in range(9 * hidden))
        write_tensor(self.folder / "x", "x", "BF16", [9, hidden], rows)
        given = (*layer, "--input", self.folder / "x", "--input-tensor", "x")
        run = ("run", *given, "--output")
        self.good(*run, self.folder / "bf16.safetensors")
        text = self.good(*run, self.folder / "f8.safetensors", "--weights", "native").stdout
        self.assertIn("experts in f8_e4m3", text)
        compared = self.run_json("run", *given, "--weights", "native", "--tolerance", 0.1,
                                 "--expect", self.folder / "bf16.safetensors", "--expect-tensor", "output")
        self.assertTrue(0 < compared["rel_error"] < 0.1, compared)
        self.good(*run, self.folder / "named.safetensors", "--weights", "native", "--strategy",
                  "fp8_per_block_no_dp_masked")
        self.assertEqual((self.folder / "named.safetensors").read_bytes(), (self.folder / "f8.safetensors").read_bytes())
        ranks = self.run_json("run", *given, "--weights", "native", "--ranks", 2, "--tolerance", 0.01,
                              "--expect", self.folder / "f8.safetensors", "--expect-tensor", "output")
        self.assertLess(ranks["rel_error"], 0.01, ranks)

    def test_experts_of_mxfp4_become_fp8_if_asked_or_are_refused_by_block(self):
        # gpt-oss: 2 experts of 64 x 64 matrices, gate and up in turns; exponents 15 apart are one too many.
        hidden, experts = 64, 2
        mlp = "model.layers.0.mlp"

        def write(last_exponent):
            parts = {f"{mlp}.router.weight": ("BF16", [experts, hidden], b"".join(struct.pack("<H", 0x3c00 + (i * 37) % 300) for i in range(experts * hidden))),
                     f"{mlp}.router.bias": ("BF16", [experts], bytes(2 * experts))}
            for name, rows in (("gate_up_proj", 2 * hidden), ("down_proj", hidden)):
                groups = experts * rows * hidden // 32
                parts[f"{mlp}.experts.{name}_bias"] = ("BF16", [experts, rows], bytes(2 * experts * rows))
                parts[f"{mlp}.experts.{name}_blocks"] = ("U8", [experts, rows, hidden // 32, 16], bytes((7 * i + i // 16) % 256 for i in range(16 * groups)))
                parts[f"{mlp}.experts.{name}_scales"] = ("U8", [experts, rows, hidden // 32], bytes([119] * (groups - 1) + [last_exponent]))
            write_tensors(self.folder / "model.safetensors", parts)

        (self.folder / "config.json").write_text(json.dumps(
            {"model_type": "gpt_oss", "hidden_size": hidden, "intermediate_size": hidden, "num_local_experts": experts,
             "num_experts_per_tok": 1, "num_hidden_layers": 1, "quantization_config": {"quant_method": "mxfp4"}}))
        write(121)
        layer = ("--model", self.folder, "--layer", 0)
        shown = self.run_json("models", "--model", self.folder)["moe_layers"][0]
        self.assertEqual((shown["stored"], shown["native_dtype"]), ("mxfp4", "f8_e4m3"))
        self.assertLess(abs(shown["bytes"] - shown["native_bytes"] - 3 * experts * hidden * hidden), 1024)
        native = self.run_json("explain", *layer, "--weights", "native")
        self.assertEqual((native["experts"], native["weight_bytes"]), ("f8_e4m3", shown["native_bytes"]))
        values = b"".join(struct.pack("<H", (i * 0x51) % 0x180 + 0x3e00 | (i % 3 == 0) << 15) for i in range(9 * hidden))
        write_tensor(self.folder / "x", "x", "BF16", [9, hidden], values)
        given = ("run", *layer, "--input", self.folder / "x", "--input-tensor", "x")
        self.good(*given, "--output", self.folder / "bf16.safetensors")
        rows = (*given, "--weights", "native")
        compared = self.run_json(*rows, "--tolerance", 0.1, "--expect", self.folder / "bf16.safetensors", "--expect-tensor", "output")
        self.assertTrue(0 < compared["rel_error"] < 0.1, compared)
        self.good(*rows, "--output", self.folder / "one.safetensors")
        self.good(*rows, "--ranks", 2, "--output", self.folder / "two.safetensors")
        self.assertEqual((self.folder / "one.safetensors").read_bytes(), (self.folder / "two.safetensors").read_bytes())
        write(134)
        self.refused(*rows, says="gate_up_proj, expert 1, rows 1 to 127 (every second), columns 0 to 63: bits=19")
        self.refused(*rows, "--ranks", 2, says="--weights bf16")
        self.good(*given)

    def test_seeds_of_the_fuzzer_are_layers(self):  # what is refused at once leads it nowhere
        (self.folder / "config.json").write_text((MODEL / "config.json").read_text())
        seeds = sorted((SOURCE / "tests/fuzz/corpus/layer").glob("*.json"))
        self.assertGreater(len(seeds), 5)
        for seed in seeds:
            self.assertEqual(self.run_json("models", "--model", self.folder, "--config", seed)["family"], "by hand")

    def test_explain_names_every_condition_with_what_it_saw(self):
        for ranks in 1, 4:
            e = self.run_json("explain", "--model", MODEL, "--layer", 1, "--ranks", ranks)
            self.assertEqual(len(e["strategies"]), 12)
            for strategy in e["strategies"]:
                self.assertTrue(strategy["conditions"])
                for condition in strategy["conditions"]:
                    self.assertRegex(condition["text"], r"\(saw.+\)$")
            chosen = next(s for s in e["strategies"] if s["name"] == e["chosen"])
            self.assertTrue(chosen["holds"] and not chosen["opt_in"])
            low = next(s for s in e["strategies"] if s["name"] == "low_latency+masked")
            self.assertEqual(low["holds"], ranks > 1)
        text = self.good("explain", "--preset", "deepseek-v3", "--ranks", 8, "--tokens", 128, "--all").stdout
        for part in "normal+hybrid", "FAILS", "no_quant_dp_normal_deepgemm", "not provided yet", "(saw":
            self.assertIn(part, text)

    def test_explain_works_for_a_device_that_is_not_there(self):
        e = json.loads(switchyard("explain", "--preset", "olmoe-1b-7b", "--device", "cuda", "--json").stdout)
        conditions = [c["text"] for s in e["strategies"] for c in s["conditions"]]
        self.assertTrue(any("compute capability" in c for c in conditions))
        self.assertEqual(len(e["strategies"]), 24)  # with either provider
        names = {s["name"]: s["provider"] for s in e["strategies"]}
        self.assertEqual((names["local+masked"], names["local+masked+cublas"]), ("hopper", "cublas"))
        tiles = {s["name"]: s["gemms"] for s in e["strategies"]}
        self.assertRegex(tiles["local+contiguous"], r"^GEMM1 \d+x\d+x64, .+; GEMM2 \d+x\d+x64, ")
        self.assertEqual(tiles["local+contiguous+cublas"], "")
        text = switchyard("explain", "--preset", "olmoe-1b-7b", "--device", "cuda", "--all").stdout
        self.assertIn("tiles " + tiles["local+contiguous"], text)
        if "not here: times are predicted for an H100" in text:
            us = {s["name"]: s["predicted_us"] for s in e["strategies"]}
            self.assertTrue(100 < us["local+contiguous"] < 1000, us)
        needs = lambda e: [c for s in e["strategies"] if s["name"] == "local+contiguous+cublas"
                           for c in s["conditions"] if "host counts" in c["text"]][0]["holds"]
        self.assertFalse(needs(e))
        e = json.loads(switchyard("explain", "--preset", "olmoe-1b-7b", "--device", "cuda", "--host-counts", "--json").stdout)
        self.assertTrue(needs(e))

    def test_explain_lists_configurations_and_says_whose_word_they_are(self):
        explain = ("explain", "--preset", "olmoe-1b-7b", "--device", "cuda", "--tokens", 4096)
        e = json.loads(switchyard(*explain, "--json").stdout)
        first, second = e["gemms"]
        self.assertEqual([first[name] for name in ("experts", "n", "k", "rows", "gated")], [64, 2048, 2048, 32768, True])
        self.assertEqual([second[name] for name in ("n", "k", "gated")], [2048, 1024, False])
        tiles = next(s["gemms"] for s in e["strategies"] if s["name"] == "local+contiguous")
        self.assertRegex(tiles, r"^GEMM1 .+ \((by rule|by a table of measured times)\); GEMM2 .+ \((by rule|by a table of measured times)\)$")
        other = next(c for c in first["configs"] if c != first["chosen"])
        named = json.loads(switchyard(*explain, "--gemm1", other, "--json").stdout)
        self.assertEqual(named["gemms"][0]["chosen"], other)
        tiles = next(s["gemms"] for s in named["strategies"] if s["name"] == "local+contiguous")
        self.assertTrue(tiles.startswith(f"GEMM1 {other} (asked for); GEMM2 {second['chosen']} (by "), tiles)
        text = switchyard(*explain, "--all", "--gemm1", other).stdout
        self.assertIn("configurations that --gemm2 takes, for 2048 x 1024 of 64 experts, at most 32768 rows:", text)
        self.assertRegex(text, re.escape(other) + " +chosen\n")
        wrong = switchyard(*explain, "--gemm2", "7x7")
        self.assertEqual(wrong.returncode, 1)
        self.assertIn("(saw gemm2=7x7, there are " + "; ".join(second["configs"]) + ")", wrong.stdout)
        self.assertEqual(json.loads(switchyard("explain", "--preset", "olmoe-1b-7b", "--json").stdout)["gemms"], [])

    EXPLAINED = ("explain", "--model", MODEL, "--layer", 1)
    MEASURE = (*EXPLAINED, "--measure", "--repeat", 1, "--tokens", 5)

    def test_explain_measures_what_can_run(self):
        for more in [], ["--ranks", 2], ["--ranks", 2, "--tp-size", 2]:
            e = self.run_json(*self.MEASURE, *more)
            self.assertEqual(e["measured"], {"tokens": 5, "repeat": 1, "routing": "random"})
            timed = {s["name"]: s["measured_us"] for s in e["strategies"] if s["holds"]}
            self.assertIn(e["chosen"], timed)
            self.assertEqual(timed[e["fastest"]], min(timed.values()))
            for s in e["strategies"]:
                self.assertFalse(s["failed"])
                if s["holds"]:
                    self.assertEqual(s["problem"], "")
                    self.assertTrue(0 < s["us_min"] <= s["measured_us"] <= s["us_max"], s)
                    self.assertAlmostEqual(s["ratio"], s["measured_us"] / s["predicted_us"], delta=1e-9 * s["ratio"])
                    self.assertTrue(0 < s["rel_error"] <= 4e-3, s)
                    self.assertGreater(s["operations"], 0)
                else:
                    for number in "measured_us", "us_min", "us_max", "ratio", "rel_error", "operations", "kernels":
                        self.assertIsNone(s[number])
                    failed = [c["text"] for c in s["conditions"] if not c["holds"]]
                    self.assertEqual(s["problem"], "; ".join(failed))

    def test_explain_shows_each_measured_strategy_once(self):
        e = self.run_json(*self.MEASURE)
        for more in [], ["--all"]:
            text = self.good(*self.MEASURE, *more).stdout
            table, others = re.search(r"^  measured +predicted us .*?\n(.*?)\n\n  not measured +why\n(.*?)\n\nfastest ([a-z_+]+)", text,
                                      re.S | re.M).groups()[:2]
            rows = [line.split() for line in table.split("\n")]
            self.assertEqual({row[0] for row in rows}, {s["name"] for s in e["strategies"] if s["holds"]})
            self.assertEqual({line.split()[0] for line in others.split("\n")},
                             {s["name"] for s in e["strategies"] if not s["holds"]})
            us = [float(row[2]) for row in rows]
            self.assertEqual(us, sorted(us))
            self.assertIn(f"\nfastest {rows[0][0]}, ", text)
            predicted = {s["name"]: s["predicted_us"] for s in e["strategies"]}
            for row in rows:
                self.assertEqual(row[1], f"{predicted[row[0]]:.1f}")
                self.assertRegex(row[3], r"^\d+\.\d\dx$")
            # Either it is the chosen one, or both are named.
            verdict = text[text.index("\nfastest "):]
            chosen = f"us: not the chosen one, {e['chosen']}, which" if rows[0][0] != e["chosen"] else "us: the chosen one\n"
            self.assertIn(chosen, verdict)
        self.assertEqual(text.count("of what is predicted"), len(rows))

    def test_explain_measures_experts_in_fp8_and_without_shared_ones(self):
        e = self.run_json("explain", "--preset", "olmoe-1b-7b", "--ep-size", 16, "--weights", "fp8", "--tokens", 3,
                          "--measure", "--repeat", 1)
        errors = [s["rel_error"] for s in e["strategies"] if s["holds"]]
        self.assertTrue(errors and all(4e-3 < error <= 6e-2 for error in errors), errors)

    def test_explain_measures_where_nothing_is_chosen(self):
        e = self.run_json(*self.MEASURE, "--strategy", "normal+masked", code=1)
        self.assertIsNone(e["chosen"])
        self.assertIn(e["fastest"], {s["name"] for s in e["strategies"] if s["measured_us"]})
        self.assertIn("not the chosen one, since none is", self.good(*self.MEASURE, "--strategy", "normal+masked", code=1).stdout)

    def test_explain_refuses_what_cannot_be_measured(self):
        self.refused(*self.EXPLAINED, "--measure", "--tokens", 0, says="--tokens=0, need 1 or more with --measure")
        self.refused(*self.MEASURE, "--slots", 64, says="--slots=64, ")
        self.refused(*self.MEASURE, "--ranks", 2048, says="--ranks=2048, need at most 1024 with --measure")
        self.refused(*self.MEASURE, "--ranks", 4, "--tp-size", 3, says="--tp-size=3, must divide")
        self.refused(*self.EXPLAINED, "--measure", "--repeat", 0, says="--repeat=0, need 1")
        self.refused(*self.EXPLAINED, "--repeat", 3, says="--repeat=3, is for --measure")
        self.refused(*self.MEASURE, env={"WORLD_SIZE": "2", "RANK": "0"}, says="one of several")
        self.assertNotIn("measured", self.run_json(*self.EXPLAINED))

    def test_explain_says_what_carries_rows(self):
        explain = ("explain", "--preset", "olmoe-1b-7b", "--device", "cuda", "--ranks", 2)
        carriers = lambda *flags: {s["name"]: s["carrier"] for s in
                                   json.loads(switchyard(*explain, *flags, "--json").stdout)["strategies"]}
        self.assertIn("peer memory", carriers()["normal+masked"])
        self.assertEqual(carriers("--no-peer-memory")["normal+masked"], "NCCL, in blocks of the call's bound")
        exact = carriers("--no-peer-memory", "--host-counts")
        self.assertEqual(exact["normal+masked"], "NCCL, in exact sizes (host counts)")
        self.assertEqual(exact["all_gather+masked"], "NCCL, in blocks of the call's bound")
        self.assertIn("rows travel by NCCL", switchyard(*explain, "--no-peer-memory", "--all").stdout)

    def test_a_provider_of_another_device_is_refused_by_name(self):
        self.refused("run", "--preset", "olmoe-1b-7b", "--strategy", "masked+cublas", says="cublas on cpu")

    def test_bench_puts_a_floor_beside_each_row(self):
        b = self.run_json("bench", "--model", MODEL, "--layer", 1, "--tokens", "1,64", "--repeat", 2)
        self.assertTrue(b["rows"])
        for row in b["rows"]:
            self.assertGreater(row["us"], 0)
            self.assertGreaterEqual(row["floor_us"], 0)
        self.assertTrue(any(row["floor_us"] > 0 for row in b["rows"]))
        for tokens in 1, 64:
            rows = [row for row in b["rows"] if row["tokens"] == tokens]
            self.assertGreaterEqual(rows[-1]["operations"], len(rows) - 1)
            self.assertEqual({row["operations"] for row in rows[:-1]}, {0})
        text = self.good("bench", "--model", MODEL, "--layer", 1, "--tokens", 1, "--repeat", 1).stdout
        self.assertRegex(text, rf"\n +1  layer .* {rows[-1]['operations']}\n")

    def test_configurations_are_timed_on_a_gpu_alone(self):
        tune = ["bench", "--preset", "olmoe-1b-7b", "--tune"]
        self.refused(*tune, says="--device=cpu, has one form of each GEMM")
        tune += ["--device", "cuda"]
        self.refused(*tune, "--ranks", 2, says="--ranks=2, need 1 with --tune")
        self.refused(*tune, "--tokens", "8,0", says="--tokens=0, need 1 or more with --tune")
        for option in (["--report", "x"], ["--gemm1", "x"], ["--num-sms", 3], ["--routed-only"], ["--linear-attention"]):
            self.refused(*tune, *option, says="is for a benchmark without --tune")
        out = self.folder / "table.txt"
        done = switchyard(*tune, "--tokens", "16,300", "--ep-size", 16, "--json", "--out", out)
        if done.returncode == 2 and "--device=cuda, " in done.stderr:
            self.assertFalse(out.exists())
            self.skipTest("without a GPU")
        self.assertEqual((done.returncode, done.stderr), (0, ""))
        run = json.loads(done.stdout)
        self.assertEqual([(g["tokens"], g["gemm"]) for g in run["gemms"]], [(16, 1), (16, 2), (300, 1), (300, 2)])
        for gemm in run["gemms"]:
            of = {time["config"]: time for time in gemm["times"]}
            for name in gemm["by_rule"], gemm["chosen"], gemm["best"]:
                self.assertGreater(of[name]["us"], 0)
            self.assertTrue(all(time["first_us"] > 0 and time["problem"] == "" for time in of.values()))
            self.assertAlmostEqual(gemm["gain"], of[gemm["by_rule"]]["us"] / of[gemm["best"]]["us"])
        self.assertEqual(len(out.read_text().splitlines()), 2 + sum(g["in_table"] for g in run["gemms"]))

    def test_bench_of_a_preset_in_fp8(self):
        bench = ["bench", "--preset", "olmoe-1b-7b", "--ep-size", 16, "--tokens", 3, "--repeat", 1]
        bf16, fp8 = self.run_json(*bench), self.run_json(*bench, "--weights", "fp8")
        self.assertEqual((bf16["experts"], fp8["experts"]), ("bf16", "f8_e4m3"))
        self.assertIn("experts in fp8", fp8["layer"])
        bytes_of = lambda b, *ops: sum(row["bytes"] for row in b["rows"] if row["op"] in ops)
        gemms = bytes_of(fp8, "scaled_gemm1", "scaled_gemm2") / bytes_of(bf16, "grouped_gemm1", "grouped_gemm2")
        self.assertTrue(0.5 < gemms < 0.52, gemms)  # weights and their scales
        for row in fp8["rows"]:
            self.assertGreaterEqual(row["floor_us"], 0)
        self.assertTrue({"quantize_rows", "scaled_gemm1", "scaled_gemm2"} < {row["op"] for row in fp8["rows"]})
        ranks = self.run_json(*bench, "--weights", "fp8", "--ranks", 2, "--strategy", "normal+masked")
        self.assertEqual((ranks["strategy"], ranks["experts"]), ("normal+masked", "f8_e4m3"))
        self.refused(*bench, "--weights", "native", says="--weights=native")
        self.refused("bench", "--model", MODEL, "--layer", 1, "--weights", "fp8", says="--weights=fp8, goes with --preset")

    def test_explain_says_what_rows_travel_as(self):
        explain = ["explain", "--preset", "olmoe-1b-7b", "--weights", "fp8", "--ranks", 2]
        rows_of = lambda *flags: {s["name"]: s["rows"] for s in self.run_json(*explain, *flags)["strategies"]}
        for dispatcher in ("normal", "low_latency", "all_gather"):
            self.assertEqual(rows_of()[f"{dispatcher}+contiguous"], "f8_e4m3")
        self.assertEqual(rows_of("--bf16-rows")["normal+contiguous"], "bf16")
        self.assertIn("rows    in f8_e4m3", self.good(*explain).stdout)
        self.assertNotIn("rows    ", self.good(*explain, "--bf16-rows").stdout)

    def test_bench_takes_tensor_parallel_groups(self):
        bench = ["bench", "--model", MODEL, "--layer", 1, "--tokens", 9, "--repeat", 1, "--ranks", 4]
        self.assertIn("layer", {row["op"] for row in self.run_json(*bench, "--tp-size", 2)["rows"]})
        for size in 0, 3:
            self.refused(*bench, "--tp-size", size, says=f"--tp-size={size}, ")

    def test_bench_of_linear_attention_has_a_row_per_step(self):
        b = self.run_json("bench", "--linear-attention", "--batch", "1,2", "--tokens", "1,4", "--repeat", 1)
        steps = {(row["op"], row["batch"], row["tokens"]) for row in b["rows"]}
        self.assertEqual(steps, {(op, batch, tokens) for op in ("conv_decode", "delta_rule_decode")
                                 for batch in (1, 2) for tokens in (1, 4)})
        self.assertTrue(all(row["floor_us"] > 0 for row in b["rows"]))
        self.refused("bench", "--linear-attention", "--tokens", 5, says="need 1 to 4")
        self.refused("bench", "--linear-attention", "--batch", 0, says="need 1 to 65536")


class Plan(CommandLine):
    def plan(self, *arguments):
        return self.run_json("plan", *arguments)

    def test_bytes_and_times_of_each_number_of_ranks(self):
        p = self.plan("--preset", "qwen3-30b-a3b", "--ranks", "8..256", "--nodes", 4)
        self.assertEqual([(q["ranks"], q["nodes"]) for q in p["plans"]], [(8, 4), (16, 4), (32, 4), (64, 4), (128, 4)])
        self.assertEqual([q["ranks"] for q in p["skipped"]], [256])
        self.assertIn("num_ranks=256, must divide the E=128", p["skipped"][0]["reason"])
        for q in p["plans"]:
            for name in "normal", "two_level", "all_gather":
                way = q[name]
                parts = way["dispatch"]["us"] + way["experts"]["us"] + way["combine"]["us"]
                self.assertAlmostEqual(way["us"], parts, delta=1e-6 * parts)
                for move in way["dispatch"], way["combine"]:
                    for link in "nvlink", "network":
                        sent, received = (move["bytes"][f"{link}_{end}"] for end in ("sent", "received"))
                        self.assertAlmostEqual(sent["mean"], received["mean"], delta=1e-6 * sent["mean"] + 1e-6)
            self.assertEqual(q[q["fastest"]]["us"], min(q[n]["us"] for n in ("normal", "two_level", "all_gather")))

    def test_ranks_are_a_number_a_list_or_a_range(self):
        for text, ranks in ("4", [4]), ("16,2", [2, 16]), ("3..20", [4, 8, 16]), ("1,8..16", [1, 8, 16]):
            p = self.plan("--preset", "olmoe-1b-7b", "--ranks", text)
            self.assertEqual([q["ranks"] for q in p["plans"]], ranks)
        self.assertEqual([q["nodes"] for q in p["plans"]], [1, 1, 2])
        one = p["plans"][0]["normal"]
        self.assertEqual((one["dispatch"]["us"], one["dispatch"]["bytes"]["nvlink_sent"]["max"]), (0, 0))

    def test_a_faster_network_makes_a_faster_layer(self):
        slow, fast = (self.plan("--preset", "deepseek-v3", "--ranks", 64, "--network-gbps", rate)["plans"][0]
                      for rate in (45, 90))
        self.assertEqual(slow["normal"]["bound"], "network received")
        self.assertLess(fast["normal"]["us"], 0.7 * slow["normal"]["us"])

    def test_recorded_counts_of_a_run_are_taken_as_they_are(self):
        run = self.good(*real(), "--json").stdout
        counts = json.loads(run)["expert_counts"]
        plans = []
        for name, text in (("run", run), ("array", json.dumps(counts)), ("words", "\n".join(map(str, counts))),
                           ("commas", " " + ", ".join(map(str, counts)))):
            (self.folder / name).write_text(text)
            plans.append(self.plan("--model", MODEL, "--layer", 1, "--ranks", "4,8", "--routing",
                                   self.folder / name)["plans"])
        self.assertEqual(plans, [plans[0]] * 4)
        experts = plans[0][0]["normal"]["experts"]
        share = max(sum(counts[8 * r:8 * r + 8]) for r in range(4)) / sum(counts)
        self.assertAlmostEqual(experts["slots"] / experts["mean_slots"], 4 * share, places=6)

    def test_skew_makes_hot_ranks_and_spreading_helps(self):
        hottest = []
        for routing in "balanced", "zipf-spread", "zipf":
            normal = self.plan("--preset", "olmoe-1b-7b", "--ranks", 8, "--routing", routing)["plans"][0]["normal"]
            hottest.append(normal["experts"]["slots"] / normal["experts"]["mean_slots"])
        self.assertEqual(hottest, sorted(hottest))
        self.assertAlmostEqual(hottest[0], 1)
        hot = self.plan("--preset", "olmoe-1b-7b", "--ranks", 8, "--routing", "hot")["plans"][0]
        self.assertEqual(hot["normal"]["experts"]["rank"], 4)

    def test_what_cannot_be_is_refused(self):
        def refused(*more, says):
            self.refused("plan", "--preset", "olmoe-1b-7b", *more, says=says)

        self.refused("plan", says="--preset NAME")
        for ranks in "0", "8..", "..8", "9..12", "1,,2", "8,", "x", "-8", "9" * 30:
            refused(f"--ranks={ranks}", says=f"--ranks={ranks}, need numbers")
        refused("--ranks", 3, says="num_ranks=3, must divide the E=64")
        refused("--ranks", 8, "--nodes", 3, says="num_nodes=3, must divide num_ranks=8")
        refused("--ranks", 4, "--nodes", 8, says="num_nodes=8, must divide num_ranks=4")
        refused("--ranks", 8, "--ep-size", 2, says="--ep-size")
        refused("--nodes", -1, says="--nodes=-1")
        refused("--ranks-per-node", 0, says="--ranks-per-node=0")
        refused("--nodes", 2, "--ranks-per-node", 4, says="--ranks-per-node")
        refused("--tokens", -1, says="--tokens=-1")
        refused("--network-gbps", 0, says="--network-gbps=0, need")
        refused("--nvlink-meeting-us", "nan", says="--nvlink-meeting-us=nan, need")

    def test_damaged_recordings_are_refused(self):
        path = self.folder / "counts"
        for text, says in (("", "holds 0 counts, the layer has E=64"), ("1 2 3", "holds 3 counts"),
                           ("1 2 x", 'count 2 is "x"'), ("[1, 2", "is no JSON"), ("{}", "has no expert_counts"),
                           ('{"expert_counts": 7}', "no array"), ('[1, "2"]', "count 1 is no number"),
                           ("[" * 100000, "is no JSON"), ("\0" * 100, "no number"),
                           (json.dumps([1] * 63 + [-1]), "expert_counts[63]=-1"), (json.dumps([0] * 64), "sum of"),
                           ("nan " * 64, "expert_counts[0]=nan"), ("1e999 " * 64, "no number"),
                           (json.dumps([1] * 63 + [100]), "expert_counts[63]=100, more than"),
                           (" " * (1 << 20 | 1), "bytes=1048577")):
            path.write_text(text)
            self.refused("plan", "--preset", "olmoe-1b-7b", "--routing", path, says=says, memory=Damaged.MEMORY)
        for name in "zpif", self.folder, self.folder / "gone":
            self.refused("plan", "--preset", "olmoe-1b-7b", "--routing", name, says="is no file and none of balanced")

    def test_the_manual_shows_what_is_printed(self):
        self.expect_shown("docs/guide/planning.md", 2)


class Placement(CommandLine):
    # The example of DeepSeek's EPLB, and its plan.
    LOADS = [[90, 132, 40, 61, 104, 165, 39, 4, 73, 56, 183, 86], [20, 107, 104, 64, 19, 197, 187, 157, 172, 86, 16, 27]]
    SIZES = "--slots", 16, "--ranks", 8, "--nodes", 2, "--groups", 4
    SLOTS = [[5, 6, 5, 7, 8, 4, 3, 4, 10, 9, 10, 2, 0, 1, 11, 1], [7, 10, 6, 8, 6, 11, 8, 9, 2, 4, 5, 1, 5, 0, 3, 1]]

    def placed(self, loads, *more):
        """`loads`: text, or what becomes JSON."""
        text = loads if isinstance(loads, str) else json.dumps(loads)
        (self.folder / "loads").write_text(text)
        p = self.run_json("plan", "--placement", self.folder / "loads", *more)
        self.assertEqual(self.run_json("plan", "--placement", "-", *more, stdin=text), p)
        return p

    def test_the_published_plan(self):
        p = self.placed(self.LOADS, *self.SIZES)
        self.assertEqual(p["physical_to_logical"], self.SLOTS)
        self.assertEqual((p["layers"], p["experts"], p["slots"], p["ranks"], p["nodes"], p["groups"]), (2, 12, 16, 8, 2, 4))
        self.assertEqual((p["hierarchical"], p["max_replicas"]), (True, 2))
        self.assertEqual(p["reason"], "each node has 2 of 4 groups")

    def test_tables_say_the_same(self):
        loads = [[random.Random(layer * 64 + e).randrange(100) for e in range(64)] for layer in range(3)]
        p = self.placed(loads, "--slots", 80, "--ranks", 8)
        for layer in range(3):
            slots, lists, counts = (p[name][layer] for name in ("physical_to_logical", "logical_to_physical", "replica_counts"))
            self.assertEqual(lists, [[s for s in range(80) if slots[s] == e] for e in range(64)])
            self.assertEqual(counts, [len(found) for found in lists])
            ranks = [slots[10 * rank:10 * rank + 10] for rank in range(8)]
            self.assertTrue(all(len(set(rank)) == 10 for rank in ranks))
            before = [sum(loads[layer][8 * rank:8 * rank + 8]) for rank in range(8)]
            after = [sum(loads[layer][e] / counts[e] for e in rank) for rank in ranks]
            for name, sums in ("", after), ("_before", before):
                for got, expected in zip(p["rank_loads" + name][layer], sums, strict=True):
                    self.assertAlmostEqual(got, expected)
                self.assertAlmostEqual(p["imbalance" + name][layer], max(sums) / (sum(sums) / 8))
            self.assertLess(p["imbalance"][layer], p["imbalance_before"][layer])

    def test_eight_slots_more_balance_zipf(self):
        loads = [1 / (e + 1) for e in range(256)]
        for seed in range(5):
            random.Random(seed).shuffle(loads)
            self.assertLess(self.placed(loads, "--slots", 264, "--ranks", 8)["imbalance"][0], 1.01)

    def test_loads_in_every_form(self):
        runs = [{"expert_counts": layer, "layer": "x"} for layer in self.LOADS]
        for loads in (runs, {"expert_counts": self.LOADS}, [self.LOADS], "\n\n".join(map(json.dumps, runs)),
                      "\n".join(map(json.dumps, self.LOADS)) + "\n", "  " + json.dumps(runs, indent=1)):
            self.assertEqual(self.placed(loads, *self.SIZES)["physical_to_logical"], self.SLOTS)
        one = self.LOADS[0]
        for loads in one, [one], " ".join(map(str, one)), ",\n".join(map(str, one)), runs[0], runs[:1]:
            self.assertEqual(self.placed(loads, *self.SIZES)["physical_to_logical"], self.SLOTS[:1])

    def test_sizes_that_are_not_given(self):
        p = self.placed([1, 2, 3, 4, 5], "--ranks", 4)
        self.assertEqual((p["slots"], p["nodes"], p["groups"], p["reason"]), (8, 1, 1, "one node"))
        p = self.placed([1] * 32, "--ranks", 32)
        self.assertEqual((p["nodes"], p["hierarchical"], p["reason"]), (4, False, "experts have no groups"))
        self.assertEqual(self.placed([1] * 32, "--ranks", 32, "--ranks-per-node", 4, "--groups", 8)["nodes"], 8)

    def test_text_has_a_row_for_each_layer_and_rank(self):
        (self.folder / "loads").write_text(json.dumps(self.LOADS))
        text = self.good("plan", "--placement", self.folder / "loads", *self.SIZES).stdout
        self.assertIn("placed   by groups: each node has 2 of 4 groups\n", text)
        head, layers, ranks = (part.splitlines() for part in text.split("\n\n"))
        self.assertEqual(len({len(line) for line in layers[2:-1]}), 1)  # aligned
        self.assertEqual([line.split()[:3] for line in layers[3:]],
                         [["0", "2.083", "1.208"], ["1", "2.381", "1.242"], ["mean", "2.232", "1.225"]])
        self.assertEqual(len({len(line) for line in ranks[1:]}), 1)
        self.assertEqual(len(ranks), 2 + 8)
        text = self.good("plan", "--placement", "-", *self.SIZES, stdin=json.dumps(self.LOADS[0])).stdout
        self.assertRegex(text, r"\n   6     1   0\.000   1\.208  0 1\n")
        text = self.good("plan", "--placement", "-", "--ranks", 2, stdin="0 0 0").stdout
        self.assertRegex(text, r"\n    0   1\.000   1\.000           0         -         2\n")

    def test_what_cannot_be_is_refused(self):
        def refused(*more, says, loads="1 2 3 4 5 6 7 8"):
            self.refused("plan", "--placement", "-", *more, says=says, stdin=loads)

        refused(says="--ranks=8..256, need one number with --placement")
        refused("--ranks", "2,4", says="--ranks=2,4, need one number")
        refused("--ranks", 4, "--slots", 4, says="num_slots=4, need E=8 to 32")
        refused("--ranks", 4, "--slots", 36, says="num_slots=36, need E=8 to 32")
        refused("--ranks", 4, "--slots", 9, says="num_slots=9, need a multiple of num_ranks=4. Use 12.")
        refused("--ranks", 4, "--slots", 1 << 21, says="--slots=2097152, need 1 to 1048576")
        refused("--ranks", 4, "--nodes", 3, says="num_nodes=3, must divide num_ranks=4")
        refused("--ranks", 4, "--groups", 3, says="num_groups=3, must divide the E=8")
        refused("--ranks", 4, "--nodes", 2, "--ranks-per-node", 4, says="--ranks-per-node")
        refused("--ranks", 4, says="num_experts=4097, need 1 to 4096", loads="1 " * 4097)

    def test_damaged_loads_are_refused(self):
        path = self.folder / "loads"
        for text, says in (("", "layer 0 holds 0 loads"), ("[]", "layer 0 holds 0 loads"), ("[[]]", "layer 0 holds 0"),
                           ("[[1, 2], [1]]", "layer 1 holds 1 loads, layer 0 2"), ("[1, 2\n3]", "is no JSON"),
                           ("1 2 x", 'count 2 is "x"'), ("{}", "has no expert_counts"), ("[{}]", "has no expert_counts"),
                           ("[1, [2]]", "count 1 is no number"), ("[[1], 2]", "expert_counts is no array"),
                           ("[1, null]", "count 1 is no number"), ("[true]", "count 0 is no number"),
                           ('{"expert_counts": "x"}', "no array"), ("[1, 2]\n{", "is no JSON"),
                           ("[" * 100000, "is nested deeper"), ("[" * 64 + "]" * 64, "layer 0 holds 0 loads"),
                           ("[" + "[],{}," * 300000 + "[]]", "no expert_counts"), ("[\n", "is no JSON"),
                           ("[" + "{}," * 600000 + "{}]", "no expert_counts"), ("[1]\n" * 400000 + "[]", "holds 0"),
                           ("\0" * 100, "no number"), ("[-1, 2]", "loads[0][0]=-1, must be finite"),
                           ("1 nan", "loads[0][1]=nan"), ("[[1], [1e999]]", "is no JSON"),
                           ("1e300 1e300", "sum of loads[0]=2e+300"), (" " * (2 << 20 | 1), "bytes=2097153")):
            path.write_text(text)
            for source, stdin in (path, None), ("-", text):
                with self.subTest(text=text[:40], source=source):
                    self.refused("plan", "--placement", source, "--ranks", 1, says=says, stdin=stdin,
                                 memory=Damaged.MEMORY)
        for name in self.folder, self.folder / "gone":
            self.refused("plan", "--placement", name, "--ranks", 1, says="is no file. Name a recording")

    def test_the_manual_shows_what_is_printed(self):
        self.expect_shown("docs/guide/placement.md", 4)

    def test_a_plan_that_runs_keeps_its_slots(self):
        running = self.folder / "running"
        first = self.placed(self.LOADS, *self.SIZES)
        running.write_text(json.dumps(first))
        again = self.placed(self.LOADS, *self.SIZES, "--current", running)
        self.assertEqual((first["moves"], again["moves"]), ([], [0, 0]))
        self.assertEqual(again["physical_to_logical"], self.SLOTS)
        self.assertEqual(again["imbalance_before"], first["imbalance"])
        self.assertEqual(self.placed(self.LOADS, *self.SIZES[2:], "--current", running)["slots"], 16)
        text = self.good("plan", "--placement", "-", *self.SIZES, "--current", running, stdin=json.dumps(self.LOADS)).stdout
        self.assertIn(f"before   {running}\n", text)
        self.assertRegex(text, r"\n +0   1\.208   1\.208 +10     1\.417         2      0\n")
        refused = "plan", "--placement", "-", *self.SIZES, "--current"
        self.refused(*refused, running, says="running, has 2 layers, the loads are of 1", stdin=json.dumps(self.LOADS[0]))
        self.refused("plan", "--placement", "-", "--slots", 24, "--ranks", 8, "--current", running, says="has 16 slots, need --slots=24",
                     stdin=json.dumps(self.LOADS))
        self.refused(*refused, self.folder / "none", says="plan: current=", stdin=json.dumps(self.LOADS))
        running.write_text(json.dumps({"physical_to_logical": [self.SLOTS[0], [7] * 16]}))
        self.refused(*refused, running, says="current[1] has no slot of expert 0", stdin=json.dumps(self.LOADS))
        self.refused("plan", "--preset", "olmoe-1b-7b", "--current", running, says="--current")

    def test_a_layer_runs_with_the_plan_of_its_loads(self):
        plain = self.run_json(*real(), "--ranks", 4)
        (self.folder / "loads").write_text(json.dumps([[1] * 32, plain["expert_counts"]]))
        plan = self.folder / "plan"
        for ranks, slots, more in (1, 32, ()), (2, 40, ("--tp-size", 2)), (4, 48, ()), (4, 40, ("--strategy", "all_gather+masked")):
            plan.write_text(json.dumps(self.run_json("plan", "--placement", self.folder / "loads", "--ranks", ranks,
                                                     "--slots", slots)))
            r = self.run_json(*real(), "--ranks", ranks, "--placement", plan, "--placement-layer", 1, *more)
            self.assertTrue(r["good"])
            self.assertEqual((r["slots"], r["experts"], r["expert_counts"]), (slots, 32, plain["expert_counts"]))
        self.assertEqual(plain["slots"], 0)
        text = self.good(*real(), "--ranks", 4, "--placement", plan, "--placement-layer", 1).stdout
        self.assertIn(f"slots     40, 10 on a rank, by {plan}\n", text)

    def test_slots_of_a_rank_are_explained(self):
        preset = "explain", "--preset", "deepseek-v3", "--ranks", 8
        plain, placed = self.run_json(*preset), self.run_json(*preset, "--slots", 288)
        one_expert = 3 * 2048 * 7168 * 2
        self.assertEqual(placed["weight_bytes"] - plain["weight_bytes"], 4 * one_expert)
        self.assertEqual(placed["chosen"], plain["chosen"])
        self.assertIn("\nslots   288, 36 a rank\n", self.good(*preset, "--slots", 288).stdout)
        for slots in 248, 260:
            self.refused(*preset, "--slots", slots, says=f"--slots={slots}, need a multiple of the 8 ranks, 256 experts")

    def test_a_plan_that_is_none_is_refused(self):
        plan = self.folder / "plan"
        run = *real(), "--ranks", 2, "--placement", plan
        self.refused(*run, says="run: placement=")
        for text, says in (("[1]", "has no physical_to_logical"), ("{", "is no JSON"), ("[" * 100, "nested deeper"),
                           ('{"physical_to_logical": 3}', "has no physical_to_logical"),
                           ('{"physical_to_logical": [3]}', "no array for each layer"),
                           ('{"physical_to_logical": [[0, 0.5]]}', "slot 1 is no expert"),
                           ('{"physical_to_logical": [[4096]]}', "slot 0 is no expert"),
                           ('{"physical_to_logical": [[0], [0]]}', "holds 2 layers. Say --placement-layer"),
                           ('{"physical_to_logical": []}', "holds 0 layers"),
                           ('{"physical_to_logical": [[0, 1, 2]]}', "3 slots on 2 ranks"),
                           ('{"physical_to_logical": [[0, 1, 2, 3]]}', "has no expert 4")):
            plan.write_text(text)
            with self.subTest(text=text):
                self.refused(*run, says=says)
        plan.write_text('{"physical_to_logical": [[0]]}')
        self.refused(*run, "--placement-layer", 1, says="holds 1 layers, --placement-layer=1")
        self.refused(*real(), "--placement-layer", 1, says="--placement-layer")


if __name__ == "__main__":
    unittest.main()
