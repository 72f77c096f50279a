"""Random inputs for the losses, and written gradients against autograd's."""

import torch


def draw(*shape, seed=0, scale=1.0):
    generator = torch.Generator().manual_seed(seed)
    return (scale * torch.randn(*shape, generator=generator, dtype=torch.float64)).requires_grad_()


def same(written, loss, *inputs):
    written = written if isinstance(written, tuple) else (written,)
    for ours, theirs in zip(written, torch.autograd.grad(loss, inputs), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-12)
