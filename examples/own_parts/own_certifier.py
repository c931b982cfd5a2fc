"""A custom certifier: the exact l2 distance to the decision boundary of a network that is linear in its input."""

import torch

from certtrain.certificates import Certificates
from certtrain.certifiers import Certifier
from certtrain.claim import Claim
from certtrain.errors import UserError
from certtrain.models.evaluation import frozen
from certtrain.radii import parse_radii
from certtrain.threat import threat_of


class ExactLinear(Certifier):
    """`min_j (z_y - z_j) / ||grad (z_y - z_j)||_2`, which is exact where the logits are linear in the input."""

    name, fixed_norm, radii_are = "exact_linear", "l2", "continuous"

    def __init__(self, radii) -> None:
        self.radii, self.threat = parse_radii(radii), threat_of("l2")

    def claim(self) -> Claim:
        proof, linear = "Proved by the distance to the nearest boundary.", "The network, which is linear in its input,"
        return Claim.about(self.threat, "deterministic", closed=False, radii="continuous", subject=linear, proof=proof)

    def certify(self, network, batch) -> Certificates:
        with frozen(network), torch.enable_grad():
            x = torch.cat([batch.x, torch.zeros_like(batch.x[:1])]).requires_grad_()
            logits = network(x)
            rows = [torch.autograd.grad(z.sum(), x, retain_graph=True)[0].flatten(1) for z in logits.T]
        slopes, logits = torch.stack(rows, 1).double(), logits.detach().double()[:-1]
        if not torch.allclose(slopes, slopes[:1].expand_as(slopes)):  # they depend on the input
            raise UserError("the network is not linear", where="certifier=exact_linear", fix="certifier=crown")
        slopes, top = slopes[:-1], logits.argmax(1)
        gaps = logits.gather(1, top[:, None]) - logits
        steep = (slopes.gather(1, top[:, None, None].expand(-1, 1, slopes.shape[2])) - slopes).norm(dim=2)
        radius = (gaps / steep).scatter(1, top[:, None], torch.inf).amin(1) * (1 - 1e-6)
        predict, label = top.cpu().numpy(), batch.y.cpu().numpy()
        seconds = torch.zeros(len(label)).numpy()
        return Certificates(batch.index.cpu().numpy(), label, predict, radius.numpy(), predict == label, seconds)
