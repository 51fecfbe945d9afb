"""Threads and memory of a run."""

import platform
import subprocess
import sys

import pytest
import torch

from onnxprune.training.tuning import resources as room
from onnxprune.training.tuning.resources import resources


class Library:
    """Stands for the C library."""

    def __init__(self):
        self.told = []

    def mallopt(self, parameter, value):
        self.told.append((parameter, value))

    def malloc_trim(self, pad):
        self.told.append(("trim", pad))


@pytest.mark.parametrize("threads", [0, 1, 2])
def test_threads_are_those_asked_for_and_then_as_before(threads):
    before = torch.get_num_threads()
    with resources(threads):
        assert torch.get_num_threads() == (threads or before)
    assert torch.get_num_threads() == before


def test_memory_is_kept_within_the_block_and_given_back_behind_it_though_it_fails(monkeypatch):
    library = Library()
    monkeypatch.setattr(room, "_glibc", lambda: library)

    def failing():
        with resources(1):
            assert library.told == [("trim", 0), (-4, 0), (-1, 2**31 - 1)]
            raise RuntimeError("a step")

    with pytest.raises(RuntimeError, match="a step"):
        failing()
    assert library.told[3:] == [(-4, 2**16), (-3, 2**25), (-1, 2**26), ("trim", 0)]


def test_other_c_libraries_stay_as_they_are(monkeypatch):
    monkeypatch.setattr(room.sys, "platform", "darwin")
    assert room._glibc() is None
    with resources(1):
        pass


TENSORS = """
import mmap
from pathlib import Path
import torch
from onnxprune.training.tuning.resources import resources

def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * mmap.PAGESIZE

before = resident()
with resources(1):
    torch.ones(2**25)
    print(resident() - before > 2**26)
print(resident() - before < 2**26)
torch.ones(2**25)
print(resident() - before < 2**26)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library")
def test_what_a_tensor_leaves_stays_with_the_process_until_the_block_ends():
    # in a process of its own: where other memory is in use above it, the C library cannot give a gap in its heap back
    done = subprocess.run([sys.executable, "-c", TENSORS], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["True", "True", "True"]
