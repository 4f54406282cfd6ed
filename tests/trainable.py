"""Small torch models with batch norm, and their captured graphs written by hand. Used by the tests of quant.

A graph here is what `ir.capture` would make: batch norms unfolded, relus alone, names of the modules.
"""

import torch
from torch import nn

from dyadiq.ir.execute import run_node
from dyadiq.ir.graph import Graph, Node, TensorInfo

__all__ = ["MODELS", "Features", "Joins", "Perceptron", "Residual", "captured", "randomize_batchnorm_", "samples_of"]


class _Captured:
    """Adds nodes that call submodules by path; every method returns the name of the tensor it makes."""

    def __init__(self, model, shape):
        self.model, self.nodes = model, []
        self.params = {n: v.detach() for n, v in model.state_dict().items() if v.is_floating_point()}
        self.values = {"x": torch.zeros(1, *shape)}

    def add_node(self, name, op, inputs, **attrs):
        node = Node(name, op, tuple(inputs), name, attrs)
        self.values[name] = run_node(node, [{**self.params, **self.values}[i] for i in inputs])
        self.nodes.append(node)
        return name

    def call(self, path, x):
        module = self.model.get_submodule(path)
        own = [f"{path}.{name}" for name in ("weight", "bias") if getattr(module, name, None) is not None]
        if isinstance(module, nn.Conv2d):
            names = ("stride", "padding", "dilation")
            attrs = {name: tuple(getattr(module, name)) for name in names}
            return self.add_node(path, "conv2d", (x, *own), groups=module.groups, **attrs)
        if isinstance(module, nn.Linear):
            return self.add_node(path, "linear", (x, *own))
        if isinstance(module, (nn.BatchNorm1d, nn.BatchNorm2d)):
            statistics = (f"{path}.running_mean", f"{path}.running_var")
            return self.add_node(path, "batch_norm", (x, *own, *statistics), eps=module.eps)
        return self.add_node(path, "relu", (x,))

    def chain(self, x, *paths):
        for path in paths:
            x = self.call(path, x)
        return x

    def pool(self, op, name, x, size):
        attrs = {"kernel": (size, size), "stride": (size, size), "padding": (0, 0)}
        extra = {"dilation": (1, 1), "ceil_mode": False} if op == "max_pool2d" else {"count_include_pad": True}
        return self.add_node(name, op, (x,), **attrs, **extra)

    def build(self, *outputs):
        used = {i for node in self.nodes for i in node.inputs}
        params = {n: v.numpy().copy() for n, v in self.params.items() if n in used}
        tensors = {n: TensorInfo(tuple(v.shape[1:])) for n, v in self.values.items()}
        return Graph("float", ("x",), outputs, tuple(self.nodes), tensors, params)


class Residual(nn.Module):
    """Stem, one block with a projected shortcut (two wide branches), one with identity, pools, classifier."""

    shape = (2, 8, 8)

    def __init__(self):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(2, 4, 3, padding=1, bias=False), nn.BatchNorm2d(4)
        self.relu = nn.ReLU()
        self.layer1 = nn.Sequential(self._block(4, 6, 2), self._block(6, 6, 1))
        self.fc = nn.Linear(6, 3)

    @staticmethod
    def _block(n_in, n_out, stride):
        parts = {
            "conv1": nn.Conv2d(n_in, n_out, 3, stride, padding=1, bias=False),
            "bn1": nn.BatchNorm2d(n_out),
            "relu": nn.ReLU(),
            "conv2": nn.Conv2d(n_out, n_out, 3, padding=1, bias=True),
            "bn2": nn.BatchNorm2d(n_out),
            "relu2": nn.ReLU(),
        }
        if n_in != n_out:
            parts["down"] = nn.Sequential(nn.Conv2d(n_in, n_out, 1, stride, bias=False), nn.BatchNorm2d(n_out))
        return nn.ModuleDict(parts)

    def forward(self, x):
        x = self.relu(self.bn1(self.conv1(x)))
        for block in self.layer1:
            y = block["relu"](block["bn1"](block["conv1"](x)))
            y = block["bn2"](block["conv2"](y))
            x = block["relu2"](y + (block["down"](x) if "down" in block else x))
        x = nn.functional.avg_pool2d(nn.functional.max_pool2d(x, 2), 2)
        return self.fc(torch.flatten(x, 1))

    def graph(self):
        g = _Captured(self, self.shape)
        x = g.chain("x", "conv1", "bn1", "relu")
        for i, block in enumerate(self.layer1):
            p = f"layer1.{i}"
            y = g.chain(x, f"{p}.conv1", f"{p}.bn1", f"{p}.relu", f"{p}.conv2", f"{p}.bn2")
            shortcut = g.chain(x, f"{p}.down.0", f"{p}.down.1") if "down" in block else x
            x = g.call(f"{p}.relu2", g.add_node(f"{p}.add", "add", (y, shortcut)))
        x = g.pool("avg_pool2d", "avgpool", g.pool("max_pool2d", "maxpool", x, 2), 2)
        return g.build(g.call("fc", g.add_node("flatten", "flatten", (x,))))


class Perceptron(nn.Module):
    """The jet classifier in small: linear, two batch norms on [N, C], relu, linear without bias."""

    shape = (8,)

    def __init__(self):
        super().__init__()
        self.fc1, self.bn1, self.bn2 = nn.Linear(8, 12), nn.BatchNorm1d(12), nn.BatchNorm1d(12)
        self.act, self.fc2 = nn.ReLU(), nn.Linear(12, 4, bias=False)

    def forward(self, x):
        return self.fc2(self.act(self.bn2(self.bn1(self.fc1(x)))))

    def graph(self):
        g = _Captured(self, self.shape)
        return g.build(g.chain("x", "fc1", "bn1", "bn2", "act", "fc2"))


class Features(nn.Module):
    """Batch norms on [N, C] before linears: on the input, two in a row after a relu, and one on a shared tensor."""

    shape = (8,)

    def __init__(self):
        super().__init__()
        self.norm0, self.fc1, self.act = nn.BatchNorm1d(8), nn.Linear(8, 12), nn.ReLU()
        self.norm1, self.norm2, self.fc2 = nn.BatchNorm1d(12), nn.BatchNorm1d(12), nn.Linear(12, 6, bias=False)
        self.norm3, self.norm4, self.fc3 = nn.BatchNorm1d(6), nn.BatchNorm1d(6), nn.Linear(6, 6)

    def forward(self, x):
        x = self.act(self.fc1(self.norm0(x)))
        x = self.norm3(self.fc2(self.norm2(self.norm1(x))))
        return self.fc3(self.norm4(x)) + x

    def graph(self):
        g = _Captured(self, self.shape)
        x = g.chain("x", "norm0", "fc1", "act", "norm1", "norm2", "fc2", "norm3")
        return g.build(g.add_node("sum", "add", (g.chain(x, "norm4", "fc3"), x)))


class Joins(nn.Module):
    """Concat of a convolution, an average pool and a tensor with two readers; batch norm after it; a lone relu."""

    shape = (3, 4, 4)

    def __init__(self):
        super().__init__()
        self.stem, self.left = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1, groups=2)
        self.relu, self.norm, self.act = nn.ReLU(), nn.BatchNorm2d(12), nn.ReLU()
        self.head = nn.Linear(12 * 16, 5)

    def forward(self, x):
        stem = self.stem(x)
        pooled = nn.functional.avg_pool2d(stem, 1)
        x = torch.cat([self.left(self.relu(stem)), stem, pooled], dim=1)
        return self.head(torch.flatten(self.act(self.norm(x)), 1))

    def graph(self):
        g = _Captured(self, self.shape)
        stem = g.call("stem", "x")
        pooled = g.pool("avg_pool2d", "pool", stem, 1)
        x = g.add_node("cat", "concat", (g.chain(stem, "relu", "left"), stem, pooled))
        return g.build(g.call("head", g.add_node("flatten", "flatten", (g.chain(x, "norm", "act"),))))


MODELS = {"residual": Residual, "perceptron": Perceptron, "features": Features, "joins": Joins}


def randomize_batchnorm_(model, seed=0):
    """Give batch norms statistics, signs and offsets that folding must get right."""
    generator = torch.Generator().manual_seed(seed)
    for module in model.modules():
        if isinstance(module, (nn.BatchNorm1d, nn.BatchNorm2d)):
            n = module.num_features
            with torch.no_grad():
                module.weight.copy_(torch.randn(n, generator=generator))
                module.bias.copy_(torch.randn(n, generator=generator) / 4)
                module.running_mean.copy_(torch.randn(n, generator=generator) / 4)
                module.running_var.copy_(torch.rand(n, generator=generator) + 0.5)


def captured(name, seed=0):
    """Return a model in eval mode and its captured graph."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = MODELS[name]().eval()
    randomize_batchnorm_(model, seed)
    return model, model.graph()


def samples_of(model, n, seed=0):
    """Return standard normal inputs."""
    return torch.randn(n, *model.shape, generator=torch.Generator().manual_seed(seed))
