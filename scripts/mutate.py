#!/usr/bin/env python3
# SPDX-FileCopyrightText: The Switchyard authors
# SPDX-License-Identifier: Apache-2.0
"""Makes small faults in the sources, one at a time, and asks the unit tests whether they see them.

    scripts/mutate.py                             80 faults, drawn with seed 1, of the four folders
    scripts/mutate.py --sample 200 --seed 7       others
    scripts/mutate.py --only 'rendezvous|handshake' --kinds check --sample 0     every one of a kind
    scripts/mutate.py --json FILE                 writes each verdict as it comes
    scripts/mutate.py --again FILE                the same faults, without those that were killed there
    scripts/mutate.py --list ...                  names them and runs nothing

A fault is a comparison, logical or arithmetic operator that is another one, a constant plus one, a condition that is
always true or never, a check, statement or negation that is not there. Sources are copied to build/mutate and built
there once; of a faulty file one object is compiled, without optimisation, and the tests are linked with it. The tree
itself is never changed. A fault is killed if a test program of its folder fails,
ends by a signal or takes far longer than without it; it survives if all pass, and a test is missing, or it changes
nothing. Headers are not changed: most of the library would have to be built anew for each.
"""
import argparse
import collections
import concurrent.futures
import dataclasses
import json
import os
import pathlib
import queue
import random
import re
import resource
import shlex
import shutil
import signal
import subprocess
import sys
import threading
import time

# Folder: the test programs that cover it, with what is left out of them.
COVERED_BY = {
    "src/base": ["test_base", "test_comm"],
    "src/comm": ["test_comm", "test_dispatcher"],
    "src/strategy": ["test_strategy"],
    "src/weights": ["test_weights"],
}
# File: the tests that most likely see its faults, which run first.
LIKELY = {
    "rendezvous": "*Rendezvous*", "sockets": "*Rendezvous*", "stored_tensor": "*StoredTensor*:*Quantised*",
    "tensor_source": "*Quantised*", "quantization": "*Quantised*", "write_safetensors": "*WriteSafetensors*",
    "safetensors": "*Safetensors*", "json_file": "*Json*", "moe_keys": "*ConfigKeys*:*Keys*", "local": "*Local*",
    "transport_comm": "*Transport*", "plan_ranks": "*Plan*", "available_memory": "*Memory*",
    "plan_placement": "*Placement*", "keep_slots": "*Placement*", "adjust_slots": "*AdjustSlots*", "exchange_slots": "*AdjustSlots*",
}
MEMORY = 12 << 30  # of a test program: a fault may ask for any size
COMPARISONS = {"<": "<=", "<=": "<", ">": ">=", ">=": ">", "==": "!=", "!=": "=="}
OPERATORS = {"&&": "||", "||": "&&", "+": "-", "-": "+", "*": "/"}
NOT_A_STATEMENT = re.compile(r"(return|if|for|while|switch|case|throw|using|else|do|delete|static_assert|SWITCHYARD_\w+"
                             r"|public|private|protected|friend|template|namespace)\b")


@dataclasses.dataclass(frozen=True, order=True)
class Fault:
    file: str
    begin: int
    end: int
    text: str  # what stands there instead
    kind: str
    line: int
    shown: str

    @property
    def folder(self):
        return "/".join(self.file.split("/")[:2])


def code_only(source):
    """The source with comments, strings and preprocessor lines blanked; every character keeps its place."""
    pattern = re.compile(r'//[^\n]*|/\*.*?\*/|"(?:\\.|[^"\\\n])*"|\'(?:\\.|[^\'\\\n])\'|^[ \t]*#(?:[^\n]*\\\n)*[^\n]*',
                         re.S | re.M)
    return pattern.sub(lambda m: re.sub(r"[^\n]", " " if m[0][0] not in "\"'" else "_", m[0]), source)


def closing(code, at):
    """The place of the parenthesis that closes the one at `at`."""
    depth = 0
    for i in range(at, len(code)):
        depth += (code[i] in "([{") - (code[i] in ")]}")
        if depth == 0:
            return i
    return -1


def statement_end(code, at):
    """The place of the semicolon that ends the statement at `at`; -1 if a block or the file ends first."""
    depth = 0
    for i in range(at, len(code)):
        depth += (code[i] in "([{") - (code[i] in ")]}")
        if depth < 0:
            return -1
        if depth == 0 and code[i] == ";":
            return i
    return -1


def edits(code):
    """(begin, end, text, kind) of every fault."""
    for m in re.finditer(r" (<|<=|>|>=|==|!=) ", code):
        yield m.start(1), m.end(1), COMPARISONS[m[1]], "comparison"
    for m in re.finditer(r"(?<=\s)(&&|\|\||[-+*])(?= )", code):
        if code[m.start() - 1] == " " or m[1] in ("&&", "||"):
            yield m.start(1), m.end(1), OPERATORS[m[1]], "operator"
    for m in re.finditer(r"(?<![\w.'])(?<!e-)(\d+)(\.\d+)?(?![\w.'])", code):
        yield m.start(), m.end(), f"{int(m[1]) + 1}{m[2] or ''}", "constant"
    for m in re.finditer(r"(?<=[\s(])!(?=[\w(])", code):
        yield m.start(), m.end(), "", "negation"
    for m in re.finditer(r"\breturn (true|false);", code):
        yield m.start(1), m.end(1), "false" if m[1] == "true" else "true", "constant"
    for m in re.finditer(r"\bstd::(min|max)\b(?=[(<])", code):
        yield m.start(1), m.end(1), "max" if m[1] == "min" else "min", "operator"
    for m in re.finditer(r"\b(if|while) \(", code):
        end = closing(code, m.end() - 1)
        declaration = statement_end(code, m.end())
        begin = declaration + 1 if 0 < declaration < end else m.end()
        if re.match(r"\s*(const )?[\w:<>]+[&* ]+\w+ = ", code[begin:end]):
            continue
        yield begin, end, " false" if begin > m.end() else "false", "check" if m[1] == "if" else "condition"
        if m[1] == "if":
            yield begin, end, " true" if begin > m.end() else "true", "condition"
    for m in re.finditer(r"\b(?:SWITCHYARD_REQUIRE\(|throw\b|refuse\()", code):
        end = statement_end(code, m.start())
        if end > 0 and code[:m.start()].rstrip()[-1:] in (";", "{", "}", ")", "e"):
            yield m.start(), end, "", "check"
    for m in re.finditer(r"^ +(?=(?:\(void\)!?|\+\+|--)?[A-Za-z_][\w.\[\]]*(?:->\w+|::\w+)*(?:\(| [-+|*]?= |;))", code, re.M):
        end = statement_end(code, m.end())
        before = code[:m.end()].rstrip()
        if end < 0 or NOT_A_STATEMENT.match(code, m.end()) or not before or before[-1] not in ";{})":
            continue
        yield m.end(), end, "", "statement"


def faults_of(file, source):
    code = code_only(source)
    skipped = re.compile(r"^\s*(static_assert|using|template|extern|namespace)\b|\boperator\b", re.M)
    found = []
    for begin, end, text, kind in edits(code):
        start = source.rfind("\n", 0, begin) + 1
        line_end = source.find("\n", begin)
        if skipped.search(code[start:line_end]):
            continue
        was = " ".join(source[begin:end].split())
        shown = source[start:begin].lstrip() + f"[{was[:60]} -> {text.strip() or 'nothing'}]" + source[end:max(line_end, end)]
        found.append(Fault(file, begin, end, text, kind, source.count("\n", 0, begin) + 1, " ".join(shown.split())[:160]))
    return sorted(found)


def draw(faults, sample, seed):
    """`sample` of them, as many of each folder as there are; all for 0. The same for the same sources and seed."""
    if sample == 0:
        return faults
    folders = collections.defaultdict(list)
    for fault in faults:
        folders[fault.folder].append(fault)
    order = random.Random(seed)
    for folder in folders.values():
        order.shuffle(folder)
    drawn = []
    while len(drawn) < sample and any(folders.values()):
        for name in sorted(folders):
            if folders[name] and len(drawn) < sample:
                drawn.append(folders[name].pop())
    return drawn


GROUPS = set()  # process groups that run now


def end_group(group):
    GROUPS.discard(group)
    try:
        os.killpg(group, signal.SIGKILL)
    except ProcessLookupError:
        pass


def end_all(*_):
    """Of a signal: what runs ends, too."""
    for group in list(GROUPS):
        end_group(group)
    os._exit(130)


class Version:
    """A file as it is now, and as old: ninja takes what looks no newer for built."""

    def __init__(self, path):
        self.path, self.content, self.stat = path, path.read_bytes(), path.stat()

    def keep_time(self):
        os.utime(self.path, ns=(self.stat.st_atime_ns, self.stat.st_mtime_ns))

    def restore(self):
        self.path.write_bytes(self.content)
        self.keep_time()


class Copy:
    """A copy of the tree with a build of its own."""

    def __init__(self, root, place, targets):
        self.root, self.place, self.build, self.targets = root, place, place / "build/mutate", targets
        self.seconds = {}
        self.commands = {}  # how each source is compiled

    def prepare(self):
        self.place.mkdir(parents=True, exist_ok=True)
        names = subprocess.run(["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"], cwd=self.root,
                               capture_output=True, check=True).stdout.decode().split("\0")
        for name in filter(None, names):
            source, copy = self.root / name, self.place / name
            if not source.exists():
                continue
            if copy.exists() and copy.read_bytes() == source.read_bytes():
                continue
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(source, copy)
        for folder in ("src", "tests"):  # what is gone from the tree goes here, too
            for copy in (self.place / folder).rglob("*"):
                if copy.is_file() and not (self.root / copy.relative_to(self.place)).exists():
                    copy.unlink()
        # As `make test` builds it, so that ccache has most of it.
        configured = self.run(["cmake", "-S", str(self.place), "-B", str(self.build), "-G", "Ninja",
                               "-DCMAKE_BUILD_TYPE=Release", "-DSWITCHYARD_CUDA=OFF", "-DSWITCHYARD_TESTS=ON",
                               "-DCMAKE_EXPORT_COMPILE_COMMANDS=ON",
                               "-DCMAKE_GTEST_DISCOVER_TESTS_DISCOVERY_MODE=PRE_TEST"], 600)
        # What an earlier run linked may hold its last fault, and looks newer than its objects.
        for linked in ("libswitchyard.a", *(f"tests/{target}" for target in self.targets)):
            (self.build / linked).unlink(missing_ok=True)
        if configured or self.make(7200):
            sys.exit(f"mutate: the copy in {self.place} does not build without a fault. See {self.place}/log.")
        for entry in json.loads((self.build / "compile_commands.json").read_text()):
            self.commands[entry["file"]] = shlex.split(entry["command"])
        for target in self.targets:
            start = time.monotonic()
            # A busy machine may fail a deadline once.
            if self.test(target, 3600) != 0 and self.test(target, 3600) != 0:
                sys.exit(f"mutate: {target} fails without a fault. See {self.place}/log.")
            self.seconds[target] = time.monotonic() - start

    def run(self, command, limit, folder=None):
        """Its exit code; None at the limit. What it starts ends with it."""
        env = dict(os.environ, TMPDIR=str(self.place / "tmp"), CCACHE_BASEDIR=str(self.place), CCACHE_NOHASHDIR="1")
        (self.place / "tmp").mkdir(exist_ok=True)
        with open(self.place / "log", "w") as log:
            child = subprocess.Popen(command, stdout=log, stderr=log, stdin=subprocess.DEVNULL, env=env,
                                     cwd=folder or self.place,
                                     start_new_session=True,
                                     preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY)))
            GROUPS.add(child.pid)
            try:
                return child.wait(limit)
            except subprocess.TimeoutExpired:
                return None
            finally:
                end_group(child.pid)
                child.wait()

    def make(self, limit, targets=None):
        return self.run(["cmake", "--build", str(self.build), "--target", *(targets or self.targets)], limit)

    def test(self, target, limit, only="*"):
        result = self.run([str(self.build / "tests" / target), "--gtest_fail_fast", "--gtest_brief=1",
                           f"--gtest_filter={only}"], limit)
        shutil.rmtree(self.place / "tmp", ignore_errors=True)
        return result

    def judge(self, fault):
        """(killed, survived, timeout or stillborn; the test that saw it)"""
        path = self.place / fault.file
        command = ["-O0" if part.startswith("-O") else part for part in self.commands[str(path)]]
        built = self.build / command[command.index("-o") + 1]
        before = [Version(built), Version(path)]  # in the order in which they come back: the next run sees a source
        source = before[1].content.decode()       # that was left, not an object
        try:
            path.write_text(source[:fault.begin] + fault.text + source[fault.end:])
            if self.run([*command, "-w"], 600, self.build):
                return "stillborn", ""
            for version in before:
                version.keep_time()
            return self.tested(COVERED_BY[fault.folder], LIKELY.get(path.stem))
        finally:
            for version in before:
                version.restore()

    def tested(self, targets, likely):
        for gone in ["libswitchyard.a", *(f"tests/{target}" for target in targets)]:
            (self.build / gone).unlink(missing_ok=True)
        if self.make(600, targets):
            return "stillborn", ""
        parts = [(targets[0], likely)] if likely else []
        for target, only in [*parts, *((target, "*") for target in targets)]:
            limit = 10 + 3 * self.seconds[target]
            result = self.test(target, limit, only)
            name = self.failed_test()
            # A busy machine makes a program late, or fails a test that has a deadline.
            if result is None:
                result = self.test(target, 4 * limit, only)
            elif result and name and self.test(target, limit, name) == 0:
                result = self.test(target, limit, only)
            if result is None:
                return "timeout", target
            if result:
                return "killed", name or self.failed_test() or target
        return "survived", ""

    def failed_test(self):
        found = re.findall(r"\[  FAILED  \] (\S+)", (self.place / "log").read_text(errors="replace"))
        return found[0].rstrip(",") if found else ""


def table(results):
    out = [f"{'folder':<14}{'faults':>8}{'killed':>8}{'time out':>10}{'survived':>10}{'% killed':>10}"]
    names = sorted({fault.folder for fault, *_ in results})
    for name in [*names, "total"]:
        count = collections.Counter(verdict for fault, verdict, _ in results if name in ("total", fault.folder))
        killed = count["killed"] + count["timeout"]
        total = killed + count["survived"]
        if total:
            out.append(f"{name:<14}{total:>8}{count['killed']:>8}{count['timeout']:>10}{count['survived']:>10}"
                       f"{100 * killed / total:>10.1f}")
    return "\n".join(out)


class Progress:
    """One line on a terminal, rewritten."""

    def __init__(self, total):
        self.total, self.start, self.done = total, time.monotonic(), 0

    def step(self, fault, verdict):
        self.done += 1
        if verdict == "survived" or not sys.stderr.isatty():  # a log has every one
            self.clear()
            print(f"{verdict:<10}{fault.file}:{fault.line}  {fault.kind}: {fault.shown}", flush=True)
        if sys.stderr.isatty():
            spent = time.monotonic() - self.start
            left = spent / self.done * (self.total - self.done)
            print(f"\r\033[K{self.done} of {self.total}, about {left / 60:.0f} min left", end="", file=sys.stderr, flush=True)

    @staticmethod
    def clear():
        if sys.stderr.isatty():
            print("\r\033[K", end="", file=sys.stderr, flush=True)


def save(path, seed, results):
    rows = [dict(file=f.file, line=f.line, kind=f.kind, change=f.shown, verdict=v, by=by) for f, v, by in results]
    draft = pathlib.Path(f"{path}.part")
    draft.write_text(json.dumps({"seed": seed, "faults": rows}, indent=1) + "\n")
    draft.replace(path)  # whole or not at all, whenever this is cut off


def known(path, faults):
    """[(fault, verdict, by)] of those that the tests at the time of this file saw."""
    rows = {(r["file"], r["line"], r["kind"], r["change"]): r for r in json.loads(pathlib.Path(path).read_text())["faults"]}
    found = [(f, rows.get((f.file, f.line, f.kind, f.shown))) for f in faults]
    return [(f, row["verdict"], row["by"]) for f, row in found if row and row["verdict"] != "survived"]


def run_all(root, faults, jobs, judged):
    """Calls `judged` with the verdict of each, as it comes."""
    targets = sorted({target for fault in faults for target in COVERED_BY[fault.folder]})
    copies = queue.SimpleQueue()
    for number in range(jobs):  # one after the other: the second finds what the first compiled in ccache
        copy = Copy(root, root / "build/mutate" / str(number), targets)
        copy.prepare()
        copies.put(copy)
    progress = Progress(len(faults))

    def one(fault):
        copy = copies.get()
        try:
            verdict, by = copy.judge(fault)
        finally:
            copies.put(copy)
        progress.step(fault, verdict)
        judged(fault, verdict, by)

    with concurrent.futures.ThreadPoolExecutor(jobs) as workers:
        list(workers.map(one, faults))
    progress.clear()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sample", type=int, default=80, metavar="N", help="how many; 0: all (default: 80)")
    parser.add_argument("--seed", type=int, default=1, help="which (default: 1)")
    parser.add_argument("--only", default="", metavar="REGEX", help="files, such as src/comm/rendezvous")
    parser.add_argument("--kinds", default="", metavar="LIST", help="check, comparison, condition, constant, negation, "
                        "operator, statement; several with commas")
    parser.add_argument("--limit", type=float, default=85, metavar="PERCENT", help="fail below (default: 85)")
    parser.add_argument("--json", metavar="FILE", help="write every fault with its verdict")
    parser.add_argument("--again", metavar="FILE", help="take what was killed from this file, which --json wrote")
    parser.add_argument("--jobs", type=int, default=2, help="copies that are built side by side (default: 2)")
    parser.add_argument("--list", action="store_true", help="name the faults and run nothing")
    args = parser.parse_args()
    root = pathlib.Path(__file__).resolve().parent.parent
    faults = []
    for folder in COVERED_BY:
        for path in sorted((root / folder).glob("*.cc")):
            name = str(path.relative_to(root))
            if re.search(r"/(no_)?(mpi|nccl\w*)\.cc$", name):  # not built, or not everywhere
                continue
            faults += faults_of(name, path.read_text())
    kinds = set(filter(None, args.kinds.split(",")))
    faults = [f for f in faults if re.search(args.only, f.file) and (not kinds or f.kind in kinds)]
    faults = draw(faults, args.sample, args.seed)
    if not faults:
        sys.exit("mutate: no fault fits --only and --kinds. --list shows them.")
    if args.list:
        for f in faults:
            print(f"{f.file}:{f.line}  {f.kind}: {f.shown}")
        return
    signal.signal(signal.SIGINT, end_all)
    signal.signal(signal.SIGTERM, end_all)
    results = known(args.again, faults) if args.again else []
    left = sorted(set(faults) - {fault for fault, *_ in results}, key=faults.index)
    lock = threading.Lock()

    def judged(*result):
        with lock:
            results.append(result)
            if args.json:
                save(args.json, args.seed, results)

    if left:
        run_all(root, left, max(1, args.jobs), judged)
    print(table(results))
    stillborn = sum(verdict == "stillborn" for _, verdict, _ in results)
    print(f"{stillborn} of {len(results)} did not compile and are not counted.")
    counted = [verdict for _, verdict, _ in results if verdict != "stillborn"]
    killed = sum(verdict != "survived" for verdict in counted)
    if 100 * killed < args.limit * len(counted):
        sys.exit(f"mutate: {killed} of {len(counted)} killed, need {args.limit:g} %. Add the tests that see the survivors.")


if __name__ == "__main__":
    main()
