"""Where things are: the programs of a bundle or of a checkout's build, the CUDA module, a folder for models."""

import json
import os
import pathlib
import platform
import re
import shutil
import subprocess

ROOT = pathlib.Path(__file__).resolve().parents[2]
FOLDERS = ("bin", "apps", "perf", "tests")  # of a bundle, and of a build
EMULATED_DEVICE = "CUDA, emulated on the CPU"


class NotHere(Exception):
    """A program or a module that this run cannot do without."""


class Places:
    def __init__(self, build=None, work=None):
        self.build = pathlib.Path(build).resolve() if build else self._find_build()
        self.work = pathlib.Path(work or os.environ.get("TMPDIR", "/tmp")) / (
            "" if work else f"spillway-gpu-run-{os.getuid()}"
        )
        self.work.mkdir(parents=True, exist_ok=True)

    @staticmethod
    def _find_build():
        if (ROOT / "bin" / "spillway").exists():
            return ROOT
        for preset in ("cuda", "cpu"):
            if (ROOT / "build" / preset / "apps" / "spillway").exists():
                return ROOT / "build" / preset
        raise NotHere(
            f"no spillway in {ROOT}: unpack a bundle, or build (cmake --preset cuda), or name a build with --build"
        )

    def program(self, name):
        """The program's path, or None."""
        for folder in FOLDERS:
            path = self.build / folder / name
            if path.is_file():
                return path
        return None

    def emulated_module(self):
        for folder in ("lib/spillway", "lib", "tests/support/cuda_modules", "tests/support/cuda_emulation"):
            for path in sorted((self.build / folder).glob("*cuda_emulat*.so")):
                return path
        raise NotHere("there is no emulated CUDA module here: build with -DSPILLWAY_TESTS=ON")

    def module(self):
        return self.build / "lib" / "spillway" / "spillway_cuda.so"

    def without_paths(self, text):
        """What is kept names no folder of this machine."""
        for path, name in ((self.work, "WORK"), (self.build, "BUILD"), (ROOT, "ROOT")):
            text = text.replace(str(path), name)
        return text

    def build_facts(self):
        """Commit and CUDA compiler of what runs: a bundle carries them, a checkout is asked."""
        carried = ROOT / "share" / "spillway" / "build.json"
        if carried.is_file():
            return json.loads(carried.read_text())
        commit = output(["git", "-C", ROOT, "describe", "--always", "--dirty", "--abbrev=12"]) or "unknown"
        cache = self.build / "CMakeCache.txt"
        text = cache.read_text() if cache.is_file() else ""
        architectures = re.search(r"^CMAKE_CUDA_ARCHITECTURES:\w+=(.*)$", text, re.M)
        return {"commit": commit.strip(), "cuda_architectures": architectures[1] if architectures else ""}


def output(command):
    """stdout of a command that may not be there, or may fail: then an empty text."""
    try:
        done = subprocess.run(
            [str(word) for word in command],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=60,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout if done.returncode == 0 else ""


def gpu_facts(gpu):
    """Of one GPU: device, driver and CUDA version as nvidia-smi tells them; empty texts where it is not there."""
    line = output(
        [
            "nvidia-smi",
            f"--id={gpu}",
            "--query-gpu=name,driver_version,memory.total,pcie.link.gen.max,pcie.link.width.max",
            "--format=csv,noheader,nounits",
        ]
    ).splitlines()
    fields = [field.strip() for field in line[0].split(",")] if line else [""] * 5
    version = re.search(r"CUDA Version:\s*([\d.]+)", output(["nvidia-smi"]))
    return {
        "device": fields[0],
        "driver": fields[1],
        "device_memory_mib": fields[2],
        "pcie": f"gen {fields[3]} x{fields[4]}" if len(fields) > 4 and fields[3] else "",
        "cuda": version[1] if version else "",
    }


def gpu_state(gpu):
    """Clocks, power and temperature now; nothing where nvidia-smi is not there."""
    names = ("pstate", "clocks.sm", "clocks.mem", "power.draw", "power.limit", "temperature.gpu")
    asked = ["nvidia-smi", f"--id={gpu}", f"--query-gpu={','.join(names)}", "--format=csv,noheader"]
    line = output(asked).splitlines()
    return dict(zip(names, (field.strip() for field in line[0].split(",")))) if line else None


def host_facts():
    processor = re.search(r"^model name\s*:\s*(.*)$", pathlib.Path("/proc/cpuinfo").read_text(), re.M)
    memory = re.search(r"^MemTotal:\s*(\d+) kB", pathlib.Path("/proc/meminfo").read_text(), re.M)
    return {
        "processor": processor[1] if processor else platform.machine(),
        "cores": os.cpu_count(),
        "memory_gib": round(int(memory[1]) / (1 << 20), 1) if memory else 0,
        "kernel": platform.release(),
    }


def tool(name):
    """A tool of the CUDA toolkit, from the PATH or where toolkits lie; None where it is not here."""
    found = shutil.which(name)
    if found:
        return found
    for path in sorted(pathlib.Path("/usr/local").glob(f"cuda*/bin/{name}"), reverse=True):
        return str(path)
    return None
