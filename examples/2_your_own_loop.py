"""A rule in a training loop of your own: any PyTorch network, any optimizer."""

from __future__ import annotations

import torch
from sklearn.datasets import load_digits
from torch import nn

import ruledsl
from ruledsl_torch import advance, convert


class Net(nn.Module):
    """A network as anybody would write it."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 8, 3, padding=1)
        self.fc1 = nn.Linear(8 * 4 * 4, 64)
        self.fc2 = nn.Linear(64, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """x: [batch, 1, 8, 8]; returns logits [batch, 10]."""
        x = nn.functional.max_pool2d(torch.relu(self.conv(x)), 2)
        return self.fc2(torch.relu(self.fc1(x.flatten(1))))


def angle(a: torch.Tensor, b: torch.Tensor) -> float:
    """Between two maps, in degrees. Feedback maps are stored like W, so that B and W.T compare entry by entry."""
    return float(torch.rad2deg(torch.arccos(nn.functional.cosine_similarity(a.flatten(), b.flatten(), dim=0))))


if __name__ == "__main__":
    torch.manual_seed(0)
    digits = load_digits()
    x = torch.tensor(digits.images[:, None] / 16, dtype=torch.float32)
    t = torch.tensor(digits.target)

    rule = ruledsl.load("kolen_pollack", decay=0.02)
    # net.fc1.B is the feedback weight that the rule calls B; the example shows which layer is at the output.
    net = convert(Net(), rule, output="backprop", example=x[:2])
    opt = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)

    print(f"{'epoch':>5}  {'loss':>6}  {'error':>6}  angle between B and W.T in fc1")
    for epoch in range(8):
        for batch in torch.randperm(1500).split(50):
            opt.zero_grad()
            loss = nn.functional.cross_entropy(net(x[batch]), t[batch])
            loss.backward()  # pseudo-gradients of W, b and B arrive in .grad
            opt.step()
            advance(net)  # everything that is no pseudo-gradient: nothing, for this rule
        with torch.no_grad():
            error = (net(x[1500:]).argmax(1) != t[1500:]).float().mean()
        degrees = angle(net.fc1.B.detach(), net.fc1.weight.detach())
        print(f"{epoch + 1:>5}  {loss.item():6.3f}  {100 * error.item():5.1f}%  {degrees:.1f} degrees")
