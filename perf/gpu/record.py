"""One stage's JSON: its parts, what each said, and which of them need not run again."""

import json
import os
import pathlib
import signal
import subprocess
import sys
import time

# A part that ended so is not run again; a failure is, for it may have been mended.
DONE = ("passed", "missing", "refused", "skipped")
LAST_WORDS = 2000


class Unread(Exception):
    """What a program printed is not what was expected of it."""


class Record:
    """A stage under way. `facts` (device, commit, ...) stand at the top of the file; parts of other facts are forgotten."""

    IDENTITY = ("device", "commit", "emulated")
    FOUND = 9  # exit code of a tool that has found errors in what it looked at

    def __init__(self, path, stage, facts, context):
        self.path, self.context = path, context
        self.begin, self.deadline = time.monotonic(), time.monotonic() + context.stage_seconds
        self.data = {
            "stage": stage,
            **facts,
            "command": context.command,
            "wall_s": 0.0,
            "status": "unfinished",
            "parts": {},
        }
        before = self._load(path)
        if before and all(before.get(key) == facts.get(key) for key in self.IDENTITY):
            self.data["parts"] = before.get("parts", {})
            self.data["wall_s"] = before.get("wall_s", 0.0)
        self.wall_before = self.data["wall_s"]
        self.asked = []
        self.write()

    @staticmethod
    def _load(path):
        try:
            return json.loads(path.read_text())
        except (OSError, ValueError):
            return None

    def left(self):
        """Seconds of the stage's time that are left."""
        return self.deadline - time.monotonic()

    def parts(self):
        return self.data["parts"]

    def write(self):
        self.data["wall_s"] = round(self.wall_before + time.monotonic() - self.begin, 1)
        text = json.dumps(self.data, indent=1) + "\n"
        temporary = self.path.with_name(self.path.name + ".part")
        temporary.write_text(self.context.places.without_paths(text))
        os.replace(temporary, self.path)

    def note(self, name, status, why="", result=None, **more):
        """A part that needed no command, or whose command has ended."""
        if name not in self.asked:
            self.asked.append(name)
        part = {"status": status, **({"why": why} if why else {}), **more}
        if result is not None:
            part["result"] = result
        self.parts()[name] = part
        self.write()
        print(f"  {name}: {status}" + (f" ({why.splitlines()[0][:160]})" if why else ""), file=sys.stderr, flush=True)
        return part

    def done(self, name):
        return self.parts().get(name, {}).get("status") in DONE

    def result(self, name):
        part = self.parts().get(name, {})
        return part.get("result") if part.get("status") == "passed" else None

    def run(self, name, command, limit=120, read=None, env=None, refused=(), not_yet=None):
        """Runs a command as a part of the stage, unless it is done, and returns its result (None where there is none).

        read(stdout, stderr) makes the result of a command that ended well; Unread makes it a failure. Words of `refused`
        in what a failing command says make it a refusal of the machine. Without time left, the part is left for later.
        An exit code `not_yet` says that the caller will try another way.
        """
        command = [str(word) for word in command]
        self.asked.append(name)
        if self.done(name) and self.parts()[name].get("command") == self.context.places.without_paths(
            " ".join(command)
        ):
            return self.result(name)
        if self.left() < min(limit, 5):
            self.note(name, "left", "no time left in this stage")
            return None
        began = time.monotonic()
        status, code, out, err = self._wait(command, min(limit, self.left()), env)
        spent = {"command": " ".join(command), "exit": code, "seconds": round(time.monotonic() - began, 2)}
        words = (err.strip() or out.strip())[-LAST_WORDS:]
        if status == "failed" and code == not_yet:
            status = "not yet"
        if status == "failed" and read is not None:
            try:
                spent["result"] = read(out, err)
            except (Unread, ValueError, KeyError, IndexError, OSError):
                pass
        # What has told a result, or found errors, has run.
        ran = "result" in spent or code == self.FOUND
        if status == "failed" and not ran and any(word in out + err for word in refused):
            status = "refused"
        if status != "passed":
            # A limit cut short by the end of the stage is no failure of the command.
            if status == "timed out" and spent["seconds"] < limit - 1:
                status = "left"
            self.note(name, status, words or status, **spent)
            return None
        try:
            result = read(out, err) if read else None
        except (Unread, ValueError, KeyError, IndexError, OSError) as error:
            self.note(name, "failed", f"{type(error).__name__}: {error}; it said: {words[-400:]}", **spent)
            return None
        self.note(name, "passed", result=result, **spent)
        return result

    def _wait(self, command, seconds, env):
        try:
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                errors="replace",
                start_new_session=True,
                env={**os.environ, **self.context.environment, **(env or {})},
            )
        except OSError as error:
            return "missing", None, "", str(error)
        try:
            out, err = process.communicate(timeout=seconds)
        except subprocess.TimeoutExpired:
            # Of our own making, with all that it has started.
            os.killpg(process.pid, signal.SIGKILL)
            out, err = process.communicate()
            return "timed out", process.returncode, out, f"{err}\nstopped after {seconds:.0f} s"
        return ("passed" if process.returncode == 0 else "failed"), process.returncode, out, err

    def finish(self):
        """passed, failed or unfinished; of the parts of this call."""
        states = [self.parts()[name]["status"] for name in self.asked if name in self.parts()]
        if any(state in ("failed", "timed out", "not yet") for state in states):
            self.data["status"] = "failed"
        elif "left" in states:
            self.data["status"] = "unfinished"
        else:
            self.data["status"] = "passed"
        self.write()
        return self.data["status"]


def read_json(out, _err):
    """What a program printed, as JSON."""
    return json.loads(out)


def write_atomically(path, text):
    path = pathlib.Path(path)
    temporary = path.with_name(path.name + ".part")
    temporary.write_text(text)
    os.replace(temporary, path)
