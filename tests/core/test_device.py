import pytest
import torch

from udig_recon.core.device import select_device
from udig_recon.core.errors import ReconstructionError


def test_auto_is_a_gpu_where_there_is_one():
    assert select_device("auto").type == ("cuda" if torch.cuda.is_available() else "cpu")
    assert select_device("cpu") == torch.device("cpu")


@pytest.mark.parametrize("name", ["gpu", "cuda:99"])
def test_a_device_that_is_not_there_is_refused_with_what_would_do(name):
    with pytest.raises(ReconstructionError, match=f"device: found {name}, expected .*cpu"):
        select_device(name)
