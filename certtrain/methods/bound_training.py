"""What training with bounds has in common: a clean and a robust loss, the radius's ramp, regularisers, L1."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from fractions import Fraction
from typing import ClassVar, Literal, NamedTuple, TypedDict, get_args

import torch.nn.functional as F
from torch import Tensor, nn

from certtrain.bounds.base import BoundEngine, Bounds
from certtrain.bounds.batchnorm import training_norms
from certtrain.bounds.union import United, united
from certtrain.data.batch import Batch
from certtrain.errors import UserError, nearest
from certtrain.methods.base import Context, Method, Objective, Streams, Value, non_negative
from certtrain.methods.initialisation import ibp_init
from certtrain.methods.losses import accuracy, add_l1
from certtrain.methods.regions import Prepared, Region, SmallBox, WholeBall
from certtrain.methods.regularisers import MIN_EPS, ShiRegulariser, normalised_radius
from certtrain.methods.robust import RobustLoss
from certtrain.methods.standard import natural_objective
from certtrain.methods.statistics import attack_success, tightness, unstable_share
from certtrain.models.evaluation import frozen
from certtrain.radii import parse_radius
from certtrain.schedules import Ramp, Schedule, Weight, as_schedule, share_at
from certtrain.threat import Linf, Threat, threat_of
from certtrain.threat.scales import Scales

Init = Literal["default", "ibp"]
BnSource = Literal["clean", "adversarial"]
Regulariser = ShiRegulariser | float | Literal["auto"] | None
SHI_WEIGHT = 0.5  # lambda of Shi et al. on MNIST and CIFAR-10
KAPPA = Weight(1.0, 0.5, "step")
UNSTABLE_EVERY = 10  # steps: to count over all neurons takes 3 % of a step of a small network
FIGURE_ROWS = 3200  # margins that CROWN-IBP bounds for the figures of a validation, of 32 examples at most


class Options(TypedDict, total=False):
    """What every such method takes beside `train_eps`, `ramp` and its own; see `BoundTraining`."""

    norm: str | Threat
    kappa: Schedule
    l1: float
    regulariser: Regulariser
    init: Init
    lower: float | None
    upper: float | None
    scales: Scales | None
    bn_source: BnSource | None


class Phase(NamedTuple):
    """What is computed at a step.

    Attributes:
        natural: the clean loss counts; else it is only logged, and no gradient is taken of it.
        robust: the robust loss.
        regularised: the regularisers.
        counted: the share of unstable neurons.
        methods: the bounds that the robust loss asks for.
    """

    natural: bool
    robust: bool
    regularised: bool
    counted: bool
    methods: tuple[str, ...]


class BoundTraining(Method):
    """`kappa CE(z(x), y) + (1 - kappa) L_robust`, plus the regularisers, plus `l1 ||w||_1`.

    L_robust is made of bounds over a region around x at eps_t = train_eps * ramp.fraction(step). While eps_t = 0 (the
    natural warm-up) the loss is the plain cross-entropy, which the formula would give too, at the cost of a bound pass;
    then, and while kappa = 1, no bound is computed unless the regulariser asks for it.

    A method is this frame with a robust loss and a region: values, which combine freely.

    Args:
        train_eps: the radius at the ramp's end, a number or a fraction such as `2/255`.
        ramp: the rise of eps.
        robust: which bounds are asked for, and the loss made of them.
        region: what is bounded; by default the whole ball.
        norm: `linf`, `l2` or a threat model.
        kappa: weight of the clean loss.
        l1: weight of the sum of |w| over linear and convolution weights.
        regulariser: those of Shi et al., for l-inf only; a number is their weight lambda, 0 for none, and `auto` 0.5
            over one box and none elsewhere.
        init: `default` keeps the network's weights, `ibp` draws those of Shi et al.
        lower: smallest admissible input value; None for no limit.
        upper: largest admissible input value; None for no limit.
        scales: sizes of the features of a table, which eps multiplies; None: 1 for all inputs.
        bn_source: the batch whose statistics BatchNorm has in the pass that is bounded: `clean` as in CTBench, where
            the logits at an adversarial input have them too, or `adversarial` as in the implementation of the
            expressive losses, where the clean loss has its own. None: `adversarial` for a loss at adversarial inputs.

    Raises:
        UserError: train_eps or l1 negative, an unknown norm or init, the regulariser or scales with an l2 ball, a
            threat model that the region or the robust loss refuses, a `bn_source` without an attack or without bounds.
    """

    needs_engine: ClassVar[bool] = True

    def __init__(
        self,
        train_eps: Fraction | float | str,
        ramp: Ramp,
        robust: RobustLoss,
        region: Region = WholeBall(),  # noqa: B008 - frozen
        norm: str | Threat = "linf",
        kappa: Schedule = KAPPA,
        l1: float = 0.0,
        regulariser: Regulariser = None,
        init: Init = "default",
        lower: float | None = 0.0,
        upper: float | None = 1.0,
        scales: Scales | None = None,
        bn_source: BnSource | None = None,
    ) -> None:
        if init not in get_args(Init):
            raise UserError(f"unknown init {init!r}", where="method.init", fix=nearest(str(init), get_args(Init)))
        self.train_eps = float(parse_radius(train_eps, where="train_eps"))
        self.threat = replace(
            threat_of(norm, scales=scales).check_bounded(), eps=self.train_eps, lower=lower, upper=upper
        )
        boxed = isinstance(self.threat, Linf)
        if regulariser == "auto":
            regulariser = SHI_WEIGHT if boxed and not self.threat.several else None
        if not isinstance(regulariser, ShiRegulariser):
            regulariser = ShiRegulariser(weight=regulariser) if regulariser else None
        self.kappa = as_schedule(kappa, "method.kappa")
        if regulariser is not None and not boxed:
            raise UserError(
                f"the regularisers of Shi et al. are defined for boxes, not for {self.threat.symbol}",
                where="method.regulariser",
                fix="method.regulariser=0 or norm=linf",
            )
        region.check(self.threat)
        robust.check(self.threat)
        self.ramp, self.regulariser, self.init = ramp, regulariser, init
        self.robust, self.region = robust, region
        self.bn_source, self._asked_source = self._checked_source(bn_source), bn_source is not None
        # A step of a small network is short: where nothing is prepared, nothing is asked for.
        self._searches = type(robust).search is not RobustLoss.search
        prepares = type(region).prepare is not Region.prepare or type(robust).prepare is not RobustLoss.prepare
        self._prepares = prepares or self._searches
        self.l1 = non_negative(l1, "method.l1")

    def _checked_source(self, given: BnSource | None) -> BnSource:
        """What BatchNorm's statistics come from."""
        if given is None:
            return "adversarial" if self.robust.attacked else "clean"
        fix = "method.bn_source=null"
        if given not in get_args(BnSource):
            raise UserError(
                f"unknown bn_source {given!r}", where="method.bn_source", fix=nearest(str(given), get_args(BnSource))
            )
        if not self.robust.methods(self.ramp.end, self.ramp):
            what = f"bn_source={given} with a method whose loss has no bounds"
            raise UserError(what, where="method.bn_source", fix=fix)
        if given == "adversarial" and not (self.robust.attacked or self.region.attacks):
            what = "bn_source=adversarial with a method that looks for no adversarial input"
            raise UserError(what, where="method.bn_source", fix=fix)
        return given

    def eps(self, step: int) -> float:
        """eps_t, the radius trained at."""
        return self.train_eps * self.ramp.fraction(step)

    def scheduled(self, step: int) -> dict[str, float]:
        """eps, kappa, and of the parts: the regulariser's weight when there is one, beta, ..."""
        return {"eps": self.eps(step), **super().scheduled(step)}

    def initialise(self, network: nn.Module) -> None:
        """Draw the weights of Shi et al. when `init` is `ibp`."""
        if self.init == "ibp":
            ibp_init(network)

    def phase(self, step: int, *, sparing: bool = True) -> Phase:
        """What is computed: bounds only where they count; sparing, unstable neurons are counted every tenth step."""
        kappa = share_at(self.kappa, step, self.ramp, "method.kappa")
        robust = self.eps(step) > 0 and kappa < 1
        regularised = self._regularised(step)
        counted = (robust or regularised) and (not sparing or step % UNSTABLE_EVERY == 0)
        methods = self.robust.methods(step, self.ramp) if robust else ()
        methods = methods or (("ibp",) if regularised else ())
        return Phase(not robust or kappa > 0, robust, regularised, counted, methods)

    def values(self, step: int) -> dict[str, float]:
        """What is scheduled; while the regulariser counts eps is at least MIN_EPS."""
        values = self.scheduled(step)
        return {**values, "eps": max(values["eps"], MIN_EPS)} if self._regularised(step) else values

    def _regularised(self, step: int) -> bool:
        return self.regulariser is not None and self.regulariser.at(step, self.ramp) > 0

    def prepare(
        self, network: nn.Module, engine: BoundEngine | None, batch: Batch, step: int, streams: Streams
    ) -> Prepared:
        """What the region, then the robust loss prepares and searches, while bounds are asked for."""
        inputs = Prepared(*batch)
        if not self._prepares:
            return inputs
        phase = self.phase(step)
        if not (phase.robust or phase.regularised):
            return inputs
        threat = self.threat.at(self.values(step)["eps"])
        inputs = self.region.prepare(network, inputs, threat, step, streams)
        if not phase.robust:
            return inputs
        inputs = self.robust.prepare(network, inputs, threat, step, streams)
        if not self._searches:
            return inputs
        assert engine is not None, "a bound-propagation method needs an engine"
        at, region = self._bounded(inputs, self.region.around(inputs, threat))
        found = self.robust.search(network, united(engine, region), at, region, phase.methods, step, streams)
        return found._replace(x=inputs.x)

    def batch_norm_at(self, inputs: Prepared, phase: Phase) -> tuple[Tensor, ...]:  # type: ignore[override]
        """x, or where statistics are adversarial x*, then x if the clean loss counts; and the robust loss's own."""
        if not phase.robust:
            return (inputs.x,)
        first = (inputs.x,)
        if self.bn_source == "adversarial":
            first = (inputs.points[0], *((inputs.x,) if phase.natural else ()))
        return (*first, *self.robust.batch_norm_at(inputs))

    def _bounded(self, inputs: Prepared, region: Threat) -> tuple[Prepared, Threat]:
        """What the robust loss bounds: the region, with x where BatchNorm takes its statistics."""
        if self.bn_source == "clean":
            return inputs, region
        return inputs._replace(x=inputs.points[0]), SmallBox(corners=region.box(inputs.x))

    def begin(self, context: Context) -> None:
        """Refuse what the robust loss is not defined for, before the first step."""
        if self._asked_source and not training_norms(context.network):
            raise UserError(
                f"bn_source={self.bn_source} with a network without BatchNorm",
                where="method.bn_source",
                fix="method.bn_source=null, or a model with BatchNorm",
            )
        if context.engine is not None:
            engine = united(context.engine, self.threat)
            if self._reads_clean_statistics:
                engine.splits()  # refused where the engine has no bounds inside the network, nor passes that go on
            self.robust.begin(engine, self.threat)

    @property
    def _reads_clean_statistics(self) -> bool:
        """Whether the logits at an adversarial input are computed with the statistics of the clean batch."""
        return self.robust.attacked and self.bn_source == "clean"

    def _refuse_several_boxes(self, network: nn.Module) -> None:
        """Statistics of a batch would be those of rows that nobody has, and the regularisers are of one box."""
        statistics = any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in network.modules())
        if statistics or self.regulariser is not None:
            raise UserError(
                "columns that may take any category with " + ("BatchNorm" if statistics else "the regularisers"),
                where="configuration key scales.categories",
                fix="a network without BatchNorm, method.regulariser=0; or train with the columns immutable",
            )

    def objective(  # type: ignore[override]
        self,
        network: nn.Module,
        engine: BoundEngine | None,
        inputs: Prepared,
        phase: Phase,
        values: Mapping[str, Value],
    ) -> Objective:
        """Parts: loss_natural and clean, unless the logits at x are neither in the loss nor come with the bounds; with
        bounds also, as far as they are computed, loss_robust, train_verified (the share correct and proved at eps_t),
        loss_tight, loss_relu, where it is counted unstable_relu; loss_l1 when there is one."""
        if not phase.robust and not phase.regularised:
            return natural_objective(network, inputs, self.l1)
        threat = self.region.around(inputs, self.threat.at(values["eps"]))
        bounds = self._bounds(network, engine, inputs, threat, phase)
        logits: Tensor | None = bounds.clean
        if phase.robust and self.bn_source == "adversarial":
            logits = network(inputs.x) if phase.natural else None
            if logits is not None and not self.robust.attacked:
                bounds = replace(bounds, clean=logits)
        elif phase.robust and self.robust.attacked:
            bounds = replace(bounds, clean=bounds.at["input"].logits(inputs.points[0]))
        parts: dict[str, Tensor] = {}
        if logits is not None:
            natural = F.cross_entropy(logits if phase.natural else logits.detach(), inputs.y)
            parts = {"loss_natural": natural.detach(), "clean": accuracy(logits, inputs.y)}
        if phase.counted and any(p.kink for p in bounds.pre_activations):
            parts["unstable_relu"] = unstable_share(bounds.pre_activations)
        if phase.robust:
            worst, more = self.robust.loss(network, bounds, inputs, phase.methods, values)
            loss = values["kappa"] * natural + (1 - values["kappa"]) * worst if phase.natural else worst
            parts |= {"loss_robust": worst.detach(), **more}
        else:
            loss = natural
        if phase.regularised:
            assert self.regulariser is not None
            terms = self.regulariser.terms(normalised_radius(network, inputs.x, threat), bounds.pre_activations)
            loss = loss + values["regulariser"] * (terms.tight + terms.relu)
            parts |= {"loss_tight": terms.tight.detach(), "loss_relu": terms.relu.detach()}
        return Objective(add_l1(loss, parts, network, self.l1), parts)

    def _bounds(
        self, network: nn.Module, engine: BoundEngine | None, inputs: Prepared, threat: Threat, phase: Phase
    ) -> Bounds:
        """What the phase asks for; the logits alone where it asks for no bounds."""
        if not phase.methods:
            return Bounds(network(inputs.points[0] if self.robust.attacked else inputs.x), {}, ())
        assert engine is not None, "a bound-propagation method needs an engine"
        engine = united(engine, threat)
        if isinstance(engine, United):
            self._refuse_several_boxes(network)
        if not phase.robust:
            return engine.bounds(inputs.x, inputs.y, threat, ("ibp",))
        inputs, threat = self._bounded(inputs, threat)
        more = {"at": ("input",)} if self._reads_clean_statistics else {}
        return self.robust.bounds(engine, inputs, threat, phase.methods, **more)

    def figures(
        self, network: nn.Module, engine: BoundEngine | None, batch: Batch, streams: Streams
    ) -> dict[str, float]:
        """Over the ball at train_eps, in eval mode: with bounds unstable_relu and tightness; with an attack
        attack_success. See `certtrain.methods.statistics`."""
        found: dict[str, float] = {}
        with frozen(network):
            clean = network(batch.x)
            few = max(1, min(32, FIGURE_ROWS // clean.shape[1]))
            x, y = batch.x[:few], batch.y[:few]
            if engine is not None and {"ibp", "crown_ibp"} <= set(engine.methods):
                bounds = united(engine, self.threat).bounds(x, y, self.threat, ("ibp", "crown_ibp"))
                if any(one.kink for one in bounds.pre_activations):
                    found["unstable_relu"] = float(unstable_share(bounds.pre_activations))
                found |= tightness(clean[:few], bounds, y)
            inputs = self.region.prepare(network, Prepared(*batch), self.threat, self.ramp.end, streams)
            inputs = self.robust.prepare(network, inputs, self.threat, self.ramp.end, streams)
            if inputs.points:
                found |= attack_success(clean, network(inputs.points[0]), batch.y)
        return found
