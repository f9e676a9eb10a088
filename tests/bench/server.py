"""A long-running side of the comparison, asked line by line."""

import json
import os
import queue
import signal
import subprocess
import threading


class Refused(Exception):
    """What a side said instead of an answer."""


class Server:
    """`command` as a process that answers one line of JSON with one."""

    def __init__(self, command, log, environment=None):
        self.command = [str(part) for part in command]
        self.log = open(log, "a")
        self.environment = {**os.environ, **(environment or {})}
        self.start()

    def start(self):
        # A group of its own: torch.compile starts workers, which must end with it.
        self.child = subprocess.Popen(
            self.command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.log,
            text=True,
            env=self.environment,
            start_new_session=True,
        )
        self.lines = queue.Queue()
        threading.Thread(target=self.read, args=(self.child, self.lines), daemon=True).start()

    @staticmethod
    def read(child, lines):
        for line in child.stdout:
            lines.put(line)
        lines.put(None)

    def ask(self, timeout=600, **request):
        """The answer. A process that takes too long is ended, and a new one started."""
        self.child.stdin.write(json.dumps(request) + "\n")
        self.child.stdin.flush()
        try:
            line = self.lines.get(timeout=timeout)
        except queue.Empty:
            self.stop()
            self.start()
            raise Refused(f"no answer within {timeout} s")
        if line is None:
            code = self.child.wait()
            self.start()
            raise Refused(f"the process ended with {code}; see {self.log.name}")
        answer = json.loads(line)
        if "error" in answer:
            raise Refused(answer["error"])
        return answer

    def stop(self):
        if self.child.poll() is None:
            os.killpg(self.child.pid, signal.SIGKILL)
        self.child.wait()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.stop()
        self.log.close()
