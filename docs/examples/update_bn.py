"""PyTorch's update_bn and exact statistics, on digits that lie in the order of their classes.

A torch network with two hidden layers is trained on shuffled digits.  `update_bn` then sets its moving
averages from batches in order; beside it stand the means and variances of all samples, layer by layer.
Needs torch.
"""

import argparse
from pathlib import Path

import numpy as np
import torch
from torch.optim.swa_utils import update_bn

from nbnorm import Standardizer, load_digits, train_test_split


def exact(net: torch.nn.Sequential, x: torch.Tensor) -> None:
    """Set the averages of each batch norm to mean and variance of its input over all samples."""
    for layer in net:
        if isinstance(layer, torch.nn.BatchNorm1d):
            layer.running_mean, layer.running_var = x.mean(0), x.var(0, correction=0)
        x = layer.eval()(x)


def main() -> None:
    """Print the table and write it into --out."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--short", action="store_true", help="one epoch")
    parser.add_argument("--out", type=Path, help="folder for update_bn.txt")
    options = parser.parse_args()

    torch.manual_seed(0)
    torch.set_num_threads(1)
    x, x_test, y, y_test = train_test_split(*load_digits(), seed=0)
    scaler = Standardizer().fit(x)
    x, x_test = (torch.tensor(scaler.transform(part), dtype=torch.float32) for part in (x, x_test))
    labels = torch.tensor(y)
    layers: list[torch.nn.Module] = []
    for _ in range(2):
        layers += [torch.nn.Linear(64, 64), torch.nn.ReLU(), torch.nn.BatchNorm1d(64)]
    net = torch.nn.Sequential(*layers, torch.nn.Linear(64, 10))
    optimizer = torch.optim.SGD(net.parameters(), lr=0.05, momentum=0.9)
    for _ in range(1 if options.short else 10):
        for rows in torch.randperm(len(x)).split(32):
            optimizer.zero_grad()
            if len(rows) > 1:
                torch.nn.functional.cross_entropy(net(x[rows]), labels[rows]).backward()
                optimizer.step()

    def measure(name: str) -> str:
        net.eval()
        with torch.no_grad():
            z = net(x_test)
        loss = torch.nn.functional.cross_entropy(z, torch.tensor(y_test)).item()
        ratio = [np.median((a / b)[b > 0]) for a, b in zip(variances(), wanted, strict=True)]
        accuracy = (z.argmax(1).numpy() == y_test).mean()
        return f"{name:30}{ratio[0]:12.3f}{ratio[1]:12.3f}{loss:12.4f}{accuracy:12.4f}"

    def variances() -> list[np.ndarray]:
        return [l.running_var.numpy().copy() for l in net if isinstance(l, torch.nn.BatchNorm1d)]

    with torch.no_grad():
        moving = variances()
        state = {k: v.clone() for k, v in net.state_dict().items()}
        exact(net, x)
        wanted = variances()
        lines = [f"{'':30}{'median of variance / exact':>24}", f"{'':30}{'layer 1':>12}{'layer 2':>12}"]
        lines[1] += f"{'test loss':>12}{'accuracy':>12}"
        results = [measure("exact statistics")]
        net.load_state_dict(state)
        assert all(np.array_equal(a, b) for a, b in zip(variances(), moving, strict=True))
        lines.append(measure("moving averages of training"))
        for name, order in (
            ("shuffled", torch.randperm(len(x))),
            ("ordered by class", labels.argsort(stable=True)),
        ):
            batches = [x[rows] for rows in order.split(32) if len(rows) > 1]
            update_bn(batches, net)
            lines.append(measure(f"update_bn, {name}"))
    text = "\n".join(lines + results)
    print(text)
    if options.out:
        options.out.mkdir(parents=True, exist_ok=True)
        (options.out / "update_bn.txt").write_text(text + "\n", "utf-8")


if __name__ == "__main__":
    main()
