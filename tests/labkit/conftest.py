"""What many tests of labkit share."""

import pytest
import torch


@pytest.fixture
def one_thread():
    """A model this small gains nothing from a second thread, and waits for it on a busy machine."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
