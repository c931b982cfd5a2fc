"""Parts of a user's own, of kinds that certtrain has not: a threat model, a certifier, a method, a schedule."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F

from certtrain.certificates import Certificates
from certtrain.certifiers import Certifier
from certtrain.claim import Claim
from certtrain.errors import UserError
from certtrain.evaluation import frozen
from certtrain.methods import Method, Objective, Schedule
from certtrain.radii import parse_radii
from certtrain.threat import Threat


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
