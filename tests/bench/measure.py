"""Runs programs and says how long they took and how much memory they had.

The standard library alone: a child's peak memory counts the parent's from before `exec`, so
the parent has to stay small.
"""

import os
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

COMPARE = Path(__file__).with_name("compare.py")


@dataclass
class Sample:
    """One run of a program."""

    seconds: float
    peak: int
    output: str


def run(command):
    """Runs `command` to its end. Peak memory is the largest resident set, in bytes."""
    command = [str(part) for part in command]
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        start = time.perf_counter()
        child = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=out, stderr=err)
        _, status, usage = os.wait4(child.pid, 0)
        seconds = time.perf_counter() - start
        child.returncode = os.waitstatus_to_exitcode(status)
        texts = []
        for file in (out, err):
            file.seek(0)
            texts.append(file.read().decode(errors="replace"))
    if child.returncode != 0:
        sys.exit(f"{' '.join(command)}\nended with {child.returncode}: {texts[1][-2000:]}")
    unit = 1 if sys.platform == "darwin" else 1024
    return Sample(seconds, usage.ru_maxrss * unit, texts[0])


def interleaved(commands, rounds):
    """Runs the commands in turn, A B A B ..., after one round that is not counted.

    `commands` maps a name to a command; gives its samples by name.
    """
    samples = {name: [] for name in commands}
    for number in range(rounds + 1):
        for name, command in commands.items():
            sample = run(command)
            if number > 0:
                samples[name].append(sample)
    return samples


def distance(a, b):
    """Relative L2 distance of two saved maps."""
    return float(run([sys.executable, COMPARE, a, b]).output)


def spread(values):
    """Median, smallest and largest."""
    values = list(values)
    return {"median": statistics.median(values), "min": min(values), "max": max(values)}
