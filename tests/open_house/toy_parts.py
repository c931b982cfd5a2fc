"""Parts of a user's own, of kinds that certtrain has not: a threat model, certifier, noise, methods, schedule."""

import math
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F

from certtrain.certificates import Certificates
from certtrain.certifiers import Certifier, SmoothingCertifier
from certtrain.claim import Claim
from certtrain.errors import UserError
from certtrain.methods import Method, Objective, Schedule
from certtrain.models.evaluation import frozen
from certtrain.radii import parse_radii
from certtrain.randomness import check_range, key, words
from certtrain.smoothing.distribution import Noise
from certtrain.smoothing.noise import PURPOSES, SPLITS
from certtrain.threat import Threat
from certtrain.threat.l1 import L1


@dataclass(frozen=True)
class ToyL1(Threat):
    norm = "toy-l1"

    @property
    def symbol(self):
        return "toy l1"

    def described(self, *, closed=True):
        return "the toy l1 ball of the stated radius"

    def distance(self, offset):
        return offset.flatten(1).abs().sum(1)


class ToyExact(Certifier):
    """`min_j (z_y - z_j) / ||grad (z_y - z_j)||_inf` of a network that is linear in its input."""

    name, fixed_norm, radii_are = "toy_exact", "toy-l1", "continuous"

    def __init__(self, radii):
        self.radii, self.threat = parse_radii(radii), ToyL1()

    def claim(self):
        parts = {"radii": "continuous", "subject": "The toy network", "proof": "Proved by its slopes."}
        return Claim.about(self.threat, "deterministic", brief="toy, exact", **parts)

    def settings(self):
        return {"toy": True}

    def certify(self, network, batch):
        with frozen(network), torch.enable_grad():
            x = torch.cat([batch.x, torch.zeros_like(batch.x[:1])]).requires_grad_()
            logits = network(x)
            slopes = torch.stack(
                [torch.autograd.grad(z.sum(), x, retain_graph=True)[0].flatten(1) for z in logits.T], 1
            )
        if not torch.allclose(slopes, slopes[:1].expand_as(slopes)):
            raise UserError("the network is not linear", where="certifier=toy_exact", fix="model.hidden=[]")
        slopes, logits = slopes[:-1].double(), logits.detach()[:-1].double()
        top = logits.argmax(1)
        gaps = logits.gather(1, top[:, None]) - logits
        steep = (slopes.gather(1, top[:, None, None].expand_as(slopes)) - slopes).abs().amax(2)
        radius = (gaps / steep).scatter(1, top[:, None], torch.inf).amin(1) * (1 - 1e-6)
        predict, label = top.cpu().numpy(), batch.y.cpu().numpy()
        seconds = torch.zeros(len(label)).numpy()
        return Certificates(batch.index.cpu().numpy(), label, predict, radius.numpy(), predict == label, seconds)


class ToyFade(Schedule):
    """From `first` to 0 within `length`, whatever the ramp does."""

    lengths = {"length": 1}  # noqa: RUF012

    def __init__(self, first, length):
        self.first, self.length = first, length

    def at(self, step, ramp):
        return self.first * max(0.0, 1 - step / self.length)


class ToyMethod(Method):
    """Cross-entropy with soft labels, which become hard."""

    def __init__(self, softness):
        self.softness = softness

    def objective(self, network, engine, inputs, phase, values):
        loss = F.cross_entropy(network(inputs.x), inputs.y, label_smoothing=values["softness"])
        return Objective(loss, {"loss": loss.detach()})


class ToyLaplace(Noise):
    """Laplace noise, for l1: with its scale b = sigma / sqrt(2), `R = -b log(2 (1 - p))` (Teng et al. 2020)."""

    name, law, threat = "toy_laplace", "toy Laplace noise", L1()

    @property
    def scale(self):
        return self.sigma / math.sqrt(2)

    def rows(self, seed, purpose, split, index, draw, shape):
        if purpose not in PURPOSES or split not in SPLITS:
            raise UserError(f"no stream {purpose} of {split}", where="toy noise")
        size, device = math.prod(shape), index.device
        index, draw = index.cpu(), draw.cpu()  # where logarithms are rounded alike, whatever is trained on
        check_range("blocks of an input", 0, (size + 3) // 4)
        block = torch.arange((size + 3) // 4)
        lanes = words(key(seed, "toy noise", purpose, split), index[:, None], draw[:, None], block)
        bits = torch.stack(lanes, dim=-1).reshape(len(index), -1)[:, :size]
        share = (bits + 0.5).double() / 2**31 - 1  # in (-1, 1), and never 0
        return (-self.scale * share.sign() * torch.log1p(-share.abs())).float().reshape(-1, *shape).to(device)

    def radius(self, p):
        return -self.scale * np.log(2 * (1 - np.asarray(p))) * (1 - 1e-12)

    def between(self, p_a, p_b):
        with np.errstate(divide="ignore"):
            ratio = np.log(p_a) / 2 - np.log(p_b) / 2
            return self.scale * np.maximum(ratio, -np.log(1 - np.asarray(p_a) + p_b)) * (1 - 1e-12)

    def test(self, device, *, seed, precision):
        index = torch.arange(100_000, device=device)
        numbers = self.rows(seed, "selftest", "predict", index, index * 0, (4,)).double() / self.scale
        found = {"mean": float(numbers.mean()), "mean_size": float(numbers.abs().mean())}
        repeated = len(torch.unique(numbers, dim=0)) < 100_000
        if repeated or abs(found["mean"]) > 0.02 or abs(found["mean_size"] - 1) > 0.01:
            raise UserError(f"the toy noise of {device} is broken: {found}", where="toy noise")
        return found


class ToySmoothing(SmoothingCertifier):
    """The network smoothed by toy noise."""

    fixed_norm, noise_kind = "l1", ToyLaplace


class ToyNoisyMethod(Method):
    """Cross-entropy under toy noise, whose draw's number is the step."""

    def __init__(self, sigma):
        self.noise = ToyLaplace(sigma)

    def prepare(self, network, engine, batch, step, streams):
        draw = torch.full_like(batch.index, step)
        noise = self.noise.rows(streams.seed, "train", streams.split, batch.index, draw, batch.x.shape[1:])
        return batch._replace(x=batch.x + noise.to(batch.x))

    def objective(self, network, engine, inputs, phase, values):
        loss = F.cross_entropy(network(inputs.x), inputs.y)
        return Objective(loss, {"loss_noisy": loss.detach()})
