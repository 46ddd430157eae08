#!/usr/bin/env python3
"""Puts mistakes into a copy of the sources, one at a time, and shows which test finds each: on the emulated CUDA device, and
in a rehearsal of KV that looks sound and is not.

    tests/deliberate_faults.py [--work DIR] [--only WORDS] [--table FILE]
    tests/deliberate_faults.py --check      only whether each fault can still be put in: what it replaces stands there once

The copy is built once in DIR (in the system's folder for temporary files if not given), its tests must pass, and then
each fault of FAULTS is put in, built, tested and taken out again. Exit code 0 if all are found. A few minutes on two
cores; --table writes the outcome as the table of tests/README.md.
"""
import argparse
import dataclasses
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parent.parent
KERNELS = ("kernels_tests", "Cuda*:*OpGrid*cuda_emulated*")
ENGINE = ("runtime_tests", "CudaPlacement*:CudaGraphs*")
MASS = ("runtime_tests", "RehearsalMass*:RehearsalExact*")
CHOICE = ("runtime_tests", "KvSelection*")
SCORES = ("kernels_tests", "*OpGridSelection.Scores*cpu*")
SECONDS = 400  # of one run of the tests: what hangs is found too, and said


@dataclasses.dataclass
class Fault:
    kind: str
    what: str
    file: str
    right: str  # stands in the file once
    wrong: str
    tests: tuple


FAULTS = [
    Fault("missing `__syncthreads`", "decode attention, before the pages' states are folded",
          "kernels/cuda/attention.cu",
          "  __syncthreads();\n  const int first_page", "  const int first_page", KERNELS),
    Fault("missing `__syncthreads`", "prefill attention, before the values are read",
          "kernels/cuda/attend_chunk_tensor_cores.cu",
          "    __syncthreads();  // the values are there, and the keys have been read\n", "", KERNELS),
    Fault("missing `__syncthreads`", "merge, between the warps' maxima and their readers",
          "kernels/cuda/merge.cu",
          "warp_max[warp_index()] = largest;\n  __syncthreads();", "warp_max[warp_index()] = largest;", KERNELS),
    Fault("missing `__syncthreads`", "products on tensor cores (Q8_0, Q4_0, Q4_1), once a step",
          "kernels/cuda/matmul_quantized.cu",
          "    __syncthreads();  // the step has arrived for all, and all have done with the stage that is fetched "
          "into next\n", "", KERNELS),
    Fault("missing `__syncthreads`", "products on tensor cores (F16, BF16), once a step",
          "kernels/cuda/matmul_half.cu",
          "    __syncthreads();  // the step has arrived for all, and all have done with the stage that is fetched "
          "into next\n", "", KERNELS),
    Fault("missing `__syncwarp`", "products on tensor cores (block formats), unpacked weights",
          "kernels/cuda/matmul_blocks.cu",
          "kBlockWords);\n    __syncwarp();\n", "kBlockWords);\n", KERNELS),
    Fault("missing wait", "products on tensor cores (Q8_0, Q4_0, Q4_1): for one `cp.async` group too few",
          "kernels/cuda/matmul_quantized.cu",
          "wait_for_copies<kStages - 2>();", "wait_for_copies<kStages - 1>();", KERNELS),
    Fault("index off by one", "decode attention: a token more of a span's last page",
          "kernels/cuda/attention.cu",
          "left < kPageTokens ? left : kPageTokens;", "left < kPageTokens ? left + 1 : kPageTokens;", KERNELS),
    Fault("index off by one", "RMS norm: the end of a row of odd length",
          "kernels/cuda/norm.cu",
          "if (first + 3 < cols) row[first + 3]", "if (first + 3 <= cols) row[first + 3]", KERNELS),
    Fault("index off by one", "products on tensor cores: a row past the weight's last",
          "kernels/cuda/matmul.cuh",
          "if (row >= weight.rows || x_row >= rows_of_x) return;\n  float* out",
          "if (row > weight.rows || x_row >= rows_of_x) return;\n  float* out", KERNELS),
    Fault("index off by one", "products: an element of 16 bits past the tensor's end",
          "kernels/cuda/matvec.cuh",
          "if (left >= 16) return 16;", "if (left >= 14) return 16;", KERNELS),
    Fault("missing event wait", "`CudaDeviceStream::wait_for`: the device waits for no other stream",
          "kernels/cuda_stream.cpp",
          "if (!other->known_done(submitted.ticket)) {", "if (false) {", ENGINE),
    Fault("missing event wait", "`CopyLane`: a copy does not wait until its place is free",
          "prefetch/copy_engine.cpp",
          "    for (const Event& event : after) stream->wait_for(event);\n", "", ENGINE),
    Fault("missing event wait", "`CopyLane`: a staging piece is filled again while it is copied from",
          "prefetch/copy_engine.cpp",
          "    piece_free[piece].wait();\n    return piece;", "    return piece;", ENGINE),
    Fault("missing event wait", "`CopyLane`: a page goes to the disk before it has left the device",
          "prefetch/copy_engine.cpp",
          "to_host->record().wait();", "to_host->record();", ENGINE),
    Fault("missing event wait", "`Pass`: a product does not wait for its weights",
          "runtime/pass.cpp",
          "    if (lease.moves()) p_.compute.wait_for(lease.ready());\n    MatmulPart", "    MatmulPart", ENGINE),
    Fault("missing event wait", "`Pass`: a decode step's attention does not wait for its pages",
          "runtime/pass_attention.cpp",
          "    if (group.lease.moves()) p_.compute.wait_for(group.lease.ready());\n    for (const", "    for (const",
          ENGINE),
    Fault("missing event wait", "`Pass`: a chunk's attention does not wait for its pages",
          "runtime/pass_attention.cpp",
          "    if (group.lease.moves()) p_.compute.wait_for(group.lease.ready());\n    read(", "    read(", ENGINE),
    Fault("missing event", "`Pass`: weights are given back before they have been read",
          "runtime/pass.cpp",
          "if (lease.moves()) lease.release(p_.compute.record());", "if (lease.moves()) lease.release(Event{});", ENGINE),
    Fault("stale graph", "`CudaReplay`: a graph is launched whatever its calls' arguments",
          "kernels/cuda_replay.cpp",
          "if (run.calls != calls_) continue;", "if (run.calls.size() != calls_.size()) continue;", ENGINE),
    Fault("wrong rehearsal", "the basis of another layer", "runtime/rehearsal.cpp",
          "int number = p_.spec.layers[layer].from_start;", "int number = p_.spec.layers[layer].from_start - 1;", MASS),
    Fault("wrong rehearsal", "the basis of another KV head", "kernels/cpu/key_scores.cpp",
          "call.basis.queries.row(kv_head * call.format.rank);",
          "call.basis.queries.row((call.format.kv_heads - 1 - kv_head) * call.format.rank);", MASS),
    Fault("wrong rehearsal", "a query that is not turned to its position", "runtime/pass_attention.cpp",
          "if (!rotations_.empty()) {\n      p_.ops.rotate(p_.compute, q,", "if (false) {\n      p_.ops.rotate(p_.compute, q,",
          MASS),
    Fault("wrong rehearsal", "the input of an earlier layer or token", "runtime/pass_attention.cpp",
          "    norm_for_matmul(x_, norm.attn_norm, norm.attn_norm_bias, h);\n", "", MASS),
    Fault("wrong rehearsal", "the bias of the queries forgotten", "runtime/pass_attention.cpp",
          "    add_bias(q, r.bias(layer).data != nullptr ? r.bias(layer) : v.q_bias);\n", "", MASS),
    Fault("wrong rehearsal", "query heads dealt out to the KV heads one by one", "kernels/cpu/key_scores.cpp",
          "call.q.f32() + kv_head * group * head_dim;\n  product.x_stride = ",
          "call.q.f32() + kv_head * head_dim;\n  product.x_stride = static_cast<uint64_t>(call.format.kv_heads) * ", MASS),
    Fault("wrong rehearsal", "a group's weights added up, not their shares of softmaxes", "kernels/cpu/key_scores.cpp",
          "shares[2 * i] /= total;", "shares[2 * i] /= 1.0f;", SCORES),
    Fault("wrong rehearsal", "sinks not always chosen", "runtime/kv_selection.cpp",
          "const int first = (kSinkTokens + size - 1) / size;", "const int first = 0 * size;", CHOICE),
    Fault("wrong rehearsal", "the newest tokens not always chosen", "runtime/kv_selection.cpp",
          "  int last = recent;\n", "  int last = 0;\n", CHOICE),
]


class Copy:
    def __init__(self, folder):
        self.folder = folder
        self.environment = dict(os.environ, CCACHE_BASEDIR=str(folder), CCACHE_NOHASHDIR="1")

    def make(self):
        files = subprocess.run(["git", "-C", ROOT, "ls-files", "-co", "--exclude-standard", "-z"], check=True,
                               capture_output=True, text=True).stdout
        for name in filter(None, files.split("\0")):
            source, to = ROOT / name, self.folder / name
            if source.is_file() and not (to.is_file() and to.read_bytes() == source.read_bytes()):
                to.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(source, to)
        self.call("cmake", "--preset", "cpu")

    def call(self, *command, seconds=None):
        return subprocess.run(command, cwd=self.folder, env=self.environment, text=True, errors="replace",
                              stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=seconds, check=False)

    def build(self, *targets):
        result = self.call("cmake", "--build", "--preset", "cpu", "-j2", "--target", *targets)
        if result.returncode != 0:
            sys.exit(f"the copy does not build:\n{result.stdout[-3000:]}")

    def test(self, program, names):
        """Null if all passed; else (test, message) of the first that did not."""
        try:
            result = self.call(f"build/cpu/tests/{program}", f"--gtest_filter={names}", "--gtest_fail_fast",
                               seconds=SECONDS)
        except subprocess.TimeoutExpired:
            return program, f"not done after {SECONDS} s"
        if result.returncode == 0:
            return None
        return failure_of(result.stdout, result.returncode)


# What is torn down after a fault complains as well.
AFTERMATH = ("memory is released while", "memory is unpinned while", "a stream is destroyed while")


def failure_of(output, code):
    failed = re.search(r"^\[  FAILED  \] ([^\s,]+)", output, re.M)
    test = failed[1] if failed else (re.findall(r"^\[ RUN      \] (\S+)", output, re.M) or ["before the first test"])[-1]
    said = re.findall(r"emulated CUDA: [^\n\"]*|AddressSanitizer: [^\n]*|Check failed[^\n]*", output)
    said = [words for words in said if not any(after in words for after in AFTERMATH)] or said
    if not said:
        said = re.findall(r"(?:Expected|Value of|Which|The difference between)[^\n]*(?:\n  [^\n]*)*", output)
    return test, " ".join((said[0] if said else f"exit code {code}").split())


def try_fault(copy, fault):
    path = copy.folder / fault.file
    right = path.read_text()
    if right.count(fault.right) != 1:
        sys.exit(f"{fault.file}: what the fault \"{fault.what}\" replaces stands there {right.count(fault.right)} times")
    try:
        path.write_text(right.replace(fault.right, fault.wrong))
        copy.build(fault.tests[0])
        return copy.test(*fault.tests)
    finally:
        path.write_text(right)


def check():
    gone = [f"{f.file}: what \"{f.what}\" replaces stands there {count} times"
            for f in FAULTS if (count := (ROOT / f.file).read_text().count(f.right)) != 1]
    print("\n".join(gone) or f"each of {len(FAULTS)} faults can be put in")
    return 1 if gone else 0


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=pathlib.Path, default=pathlib.Path(tempfile.gettempdir()) / "spillway-faults")
    parser.add_argument("--only", default="", help="faults whose kind, file or description holds these words")
    parser.add_argument("--table", type=pathlib.Path)
    parser.add_argument("--check", action="store_true", help="put nothing in")
    options = parser.parse_args()
    if options.check:
        return check()
    options.work.mkdir(parents=True, exist_ok=True)
    copy = Copy(options.work.resolve())
    copy.make()
    chosen = [f for f in FAULTS if options.only.lower() in f"{f.kind} {f.file} {f.what}".lower()]
    for tests in dict.fromkeys(f.tests for f in chosen):
        copy.build(tests[0])
        if (failure := copy.test(*tests)) is not None:
            sys.exit(f"without a fault, {failure[0]} fails: {failure[1]}")
    lines = ["| fault | where | found by | words |", "|---|---|---|---|"]
    missed = 0
    for fault in chosen:
        found = try_fault(copy, fault)
        missed += found is None
        test, words = found or ("**nothing**", "")
        lines.append(f"| {fault.kind} | {fault.what} | {test} | {words[:240]} |")
        print(lines[-1], flush=True)
    print(f"{len(chosen) - missed} of {len(chosen)} faults found")
    if options.table:
        options.table.write_text("\n".join(lines) + "\n")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
