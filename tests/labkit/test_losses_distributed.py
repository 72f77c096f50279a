"""Batches encoded in chunks, in two processes that share their gradients."""

import torch
from torch import distributed, nn
from torch.nn.parallel import DistributedDataParallel

from labkit.train.losses import encode_in_chunks, info_nce


class Step(nn.Module):
    """A whole step as one call, which is how labkit.train.fit shows it to DDP."""

    def __init__(self, chunks):
        super().__init__()
        torch.manual_seed(0)
        self.encoder = nn.Sequential(nn.Linear(6, 16), nn.Tanh(), nn.Dropout(0.3), nn.Linear(16, 4)).double()
        self.chunks = chunks

    def forward(self, queries, docs):
        if self.chunks:
            vectors = [encode_in_chunks(self.encoder, x.split(4)) for x in (queries, docs)]
        else:
            vectors = [torch.cat([self.encoder(part) for part in x.split(4)]) for x in (queries, docs)]
        return info_nce(*vectors, temperature=0.5)


def work(rank, folder):
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
    generator = torch.Generator().manual_seed(rank)
    rows = torch.randn(2, 10, 6, generator=generator, dtype=torch.float64)
    found = []
    for chunks in (True, False):
        step = DistributedDataParallel(Step(chunks), find_unused_parameters=True)
        torch.manual_seed(rank)  # dropout of its own in each process
        step(*rows).backward()
        found.append([parameter.grad for parameter in step.parameters()])
    torch.save(found, f"{folder}/{rank}.pt")
    distributed.destroy_process_group()


def test_chunks_under_ddp_give_the_gradient_of_whole_batches(tmp_path):
    torch.multiprocessing.spawn(work, (str(tmp_path),), nprocs=2)
    (chunked, whole), (other, _) = (torch.load(tmp_path / f"{rank}.pt") for rank in (0, 1))
    for ours, theirs, elsewhere in zip(chunked, whole, other, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-14)
        assert torch.equal(ours, elsewhere), "both processes have the mean of their gradients"
        assert ours.abs().sum() > 0
