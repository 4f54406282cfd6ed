"""Weights with blocks of zeros, for tests of kernels that leave them out."""

__all__ = ["thin"]


def thin(b, rng, density, outputs=16):
    """Zero all but some blocks of 16 outputs, or fewer, by 4 inputs of the last dot product of a `ProgramBuilder`."""
    weight = b.params[b.nodes[-1].inputs[1]]
    n_out, n_in, *kernel = weight.shape
    kept = rng.random((-(-n_out // outputs), -(-n_in // 4), *kernel)) < density
    weight *= kept.repeat(outputs, axis=0)[:n_out].repeat(4, axis=1)[:, :n_in]
