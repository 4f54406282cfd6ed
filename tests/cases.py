"""Torch models for the tests of capture, passes and sites: plain user code, as found in model zoos.

`CASES` maps a name to a factory and an input shape; the comment says what the case adds. `build` gives a model with
reproducible weights and batch norms that are no identities.
"""

import torch
import torch.nn.functional as F  # noqa: N812 - the usual name
from torch import nn

__all__ = ["CASES", "Function", "build"]


class BasicBlock(nn.Module):
    """As in torchvision's ResNet: one inplace relu called twice, in-place add."""

    def __init__(self, n_in, n_out, stride=1):
        super().__init__()
        self.conv1 = nn.Conv2d(n_in, n_out, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(n_out)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(n_out, n_out, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(n_out)
        self.downsample = None
        if stride != 1 or n_in != n_out:
            self.downsample = nn.Sequential(nn.Conv2d(n_in, n_out, 1, stride, bias=False), nn.BatchNorm2d(n_out))

    def forward(self, x):
        identity = x if self.downsample is None else self.downsample(x)
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        out += identity
        return self.relu(out)


class ResNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(3, 4, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(4)
        self.layer1 = nn.Sequential(BasicBlock(4, 4))
        self.layer2 = nn.Sequential(BasicBlock(4, 6, 2), BasicBlock(6, 6))
        self.avgpool = nn.AdaptiveAvgPool2d((1, 1))
        self.fc = nn.Linear(6, 5)

    def forward(self, x):
        x = F.relu(self.bn1(self.conv1(x)))
        x = self.layer2(self.layer1(x))
        return self.fc(torch.flatten(self.avgpool(x), 1))


class DenseNet(nn.Module):
    """Pre-activation: batch norms after a concat cannot be folded backwards."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3, padding=1)
        self.norms = nn.ModuleList([nn.BatchNorm2d(4), nn.BatchNorm2d(7)])
        self.convs = nn.ModuleList([nn.Conv2d(n, 3, 3, padding=1, bias=False) for n in (4, 7)])
        self.last = nn.BatchNorm2d(10)
        self.head = nn.Linear(10, 5)

    def forward(self, x):
        features = [self.stem(x)]
        for norm, conv in zip(self.norms, self.convs, strict=True):
            features.append(conv(F.relu(norm(torch.cat(features, 1)))))
        x = F.relu(self.last(torch.cat(features, 1)))
        return self.head(x.mean((2, 3)))


class Fire(nn.Module):
    def __init__(self, n_in, n_squeeze, n_expand):
        super().__init__()
        self.squeeze = nn.Conv2d(n_in, n_squeeze, 1)
        self.expand1x1 = nn.Conv2d(n_squeeze, n_expand, 1)
        self.expand3x3 = nn.Conv2d(n_squeeze, n_expand, 3, padding="same")
        self.activation = nn.ReLU(inplace=True)

    def forward(self, x):
        x = self.activation(self.squeeze(x))
        return torch.cat([self.activation(self.expand1x1(x)), self.activation(self.expand3x3(x))], dim=1)


def squeezenet():
    features = nn.Sequential(
        nn.Conv2d(3, 6, 3, stride=2), nn.ReLU(), nn.MaxPool2d(3, 2, ceil_mode=True), Fire(6, 3, 4), nn.Dropout(0.5)
    )
    classifier = nn.Sequential(nn.Conv2d(8, 5, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    return nn.Sequential(features, classifier)


class VGG(nn.Module):
    def __init__(self):
        super().__init__()
        layers = []
        for n_in, n_out in ((3, 4), (4, 6)):
            layers += [nn.Conv2d(n_in, n_out, 3, padding=1), nn.BatchNorm2d(n_out), nn.ReLU(True), nn.MaxPool2d(2)]
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Sequential(nn.Linear(24, 8), nn.ReLU(True), nn.Dropout(), nn.Linear(8, 5))

    def forward(self, x):
        x = self.features(x)
        return self.classifier(x.view(x.size(0), -1))


class SharedLayer(nn.Module):
    """A convolution called twice with a batch norm of its own for each call."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 3, padding=1, bias=False)
        self.bns = nn.ModuleList([nn.BatchNorm2d(3), nn.BatchNorm2d(3)])

    def forward(self, x):
        for bn in self.bns:
            x = F.relu(bn(self.conv(x)))
        return x


class SharedActivation(nn.Module):
    """One activation with three readers, two of them joins; a layer with a batch norm and another reader."""

    def __init__(self):
        super().__init__()
        self.a = nn.Conv2d(3, 4, 1)
        self.bn = nn.BatchNorm2d(4)
        self.b = nn.Conv2d(4, 4, 3, padding=1)

    def forward(self, x):
        raw = self.a(x)
        a = F.relu(self.bn(raw))
        b = self.b(a)
        return torch.cat([a + b, a, raw], 1)


class Functional(nn.Module):
    """No submodule but for parameters: everything by functions."""

    def __init__(self):
        super().__init__()
        self.kernel = nn.Parameter(torch.randn(4, 3, 3, 3))
        self.matrix = nn.Parameter(torch.randn(5, 16))
        self.offset = nn.Parameter(torch.randn(5))

    def forward(self, image):
        x = F.relu(F.conv2d(image, self.kernel, stride=2, padding=1))
        x = torch.relu_(F.avg_pool2d(x, 2))
        return F.linear(
            F.dropout(x.reshape(x.shape[0], -1).contiguous(), training=self.training), self.matrix, self.offset
        )


class Pools(nn.Module):
    """Every kind of pooling."""

    def forward(self, x):
        x = F.max_pool2d(x, 3, stride=2, padding=1, ceil_mode=True)
        x = F.max_pool2d(x, (2, 1), stride=1, dilation=(2, 1))
        x = F.avg_pool2d(x, 3, stride=1, padding=1)
        x = F.avg_pool2d(x, (1, 2), ceil_mode=True, count_include_pad=False)
        return F.adaptive_avg_pool2d(x, (5, 1)).flatten(1)


class TwoInputs(nn.Module):
    """Several inputs, several outputs, and code that reaches no output."""

    def __init__(self):
        super().__init__()
        self.left, self.right, self.unused = nn.Linear(4, 3), nn.Linear(2, 3), nn.Linear(3, 3)

    def forward(self, left, right):
        total = self.left(left) + self.right(right)
        self.unused(total)
        return {"sum": total, "active": [F.relu(total)]}


class Nested(nn.Sequential):
    """Containers in containers, identities, a batch norm without affine parameters, two batch norms in a row."""

    def __init__(self):
        block = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Sequential(nn.BatchNorm2d(4, affine=False), nn.BatchNorm2d(4)))
        super().__init__(block, nn.Identity(), nn.Sequential(nn.Sequential(nn.ReLU()), nn.Dropout2d()))


def mlp():
    return nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 5))


def mlp_batchnorm():
    return nn.Sequential(nn.Linear(6, 8, bias=False), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 5))


def depthwise():
    return nn.Sequential(
        nn.Conv2d(3, 6, 3, stride=2, padding=(1, 0), dilation=(1, 2), groups=3), nn.BatchNorm2d(6), nn.ReLU()
    )


class Function(nn.Module):
    """A model from a function of its input, with two layers to call."""

    def __init__(self, function):
        super().__init__()
        self.function, self.fc, self.conv = function, nn.Linear(3, 3), nn.Conv2d(3, 3, 3, padding=1)

    def forward(self, x):
        return self.function(self, x)


CASES = {
    "mlp": (mlp, [(6,)]),  # the smallest network
    "mlp_batchnorm": (mlp_batchnorm, [(6,)]),  # folding without a bias, on [N, C]
    "depthwise": (depthwise, [(3, 9, 9)]),  # groups, strides, dilation, uneven padding
    "resnet": (ResNet, [(3, 8, 8)]),  # residual adds, downsampling branch, one relu module used twice
    "densenet": (DenseNet, [(3, 6, 6)]),  # concat with several readers, batch norm that cannot be folded
    "squeezenet": (squeezenet, [(3, 11, 11)]),  # Fire modules, ceil_mode, padding="same"
    "vgg": (VGG, [(3, 8, 8)]),  # max pool, view to [N, F]
    "shared_layer": (SharedLayer, [(3, 5, 5)]),  # one weight, two folded copies
    "shared_activation": (SharedActivation, [(3, 5, 5)]),  # several readers
    "functional": (Functional, [(3, 8, 8)]),  # no modules
    "pools": (Pools, [(2, 12, 10)]),  # no parameters
    "two_inputs": (TwoInputs, [(4,), (2,)]),  # several inputs and outputs
    "nested": (Nested, [(3, 5, 5)]),  # containers
}


def build(name, n_rows=2):
    """Return the model of a case, in train mode, and its example inputs."""
    factory, shapes = CASES[name]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(len(name))
        model = factory()
        for module in model.modules():
            if isinstance(module, (nn.Conv2d, nn.Linear)):
                nn.init.kaiming_normal_(module.weight)  # so that the signal survives to the end
            if isinstance(module, (nn.BatchNorm1d, nn.BatchNorm2d)):
                nn.init.normal_(module.running_mean, std=0.3)
                nn.init.uniform_(module.running_var, 0.5, 2.0)
                if module.affine:
                    nn.init.normal_(module.weight)  # negative factors too
                    nn.init.normal_(module.bias, std=0.3)
        return model, tuple(torch.randn(n_rows, *shape) for shape in shapes)
