"""One thread and fixed seeds, so that numbers and times are those of any other run."""

import multiprocessing

import pytest
import torch

# tests that start processes fork them from one that has imported all, which takes some ten seconds
multiprocessing.set_forkserver_preload(["study.run.trainer"])


@pytest.fixture(autouse=True)
def _one_thread_and_a_fixed_seed():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    yield
    torch.set_num_threads(threads)
