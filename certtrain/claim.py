"""What a certificate says: made by its certifier, kept in its card and in `result.json`, and read from there by all.

A table, plot, audit, report or prediction asks the claim of what kind a certificate is, of which set its radius speaks
and what its radii are; none infers it from columns, settings or the certifier's name.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal, get_args

from certtrain.errors import UserError
from certtrain.threat import Threat

Kind = Literal["deterministic", "probabilistic"]
Radii = Literal["continuous", "grid", "targets", "count"]
Budget = Literal["example", "dataset"]


@dataclass(frozen=True)
class Claim:
    """What rows of a certificate claim.

    Attributes:
        kind: `deterministic`, or `probabilistic` when a claim holds with confidence 1 - alpha.
        threat: name of the threat model. Certificates of two never stand in one table or on one axis.
        symbol: the same as it is printed: `l-inf`.
        region: the set of a radius around an input, in words that follow "every input of".
        radii: what the column `radius` holds. `continuous`: the largest that was proved. `grid`: the largest of the
            radii that were asked for; larger ones in between may hold. `targets`: likewise, and drawing or proving
            stopped once they were decided. `count`: whole numbers of pixels, bytes or examples.
        subject: whose class is claimed: the network, or what is made of it.
        proof: how it was proved, and what it does not speak of.
        closed: whether a radius r proves distances up to r; an open one proves distances < r alone.
        brief: the subject and the proof in a few words, for headings.
        unit: what a radius counts, where that is not the threat's own measure: `multiples of NAME (HASH)`.
        alpha: the probability with which a probabilistic claim may be false; None of a log that does not say.
        budget: whether alpha is of each `example`, or of all of the `dataset` together.
        note: a sentence on the region.
    """

    kind: Kind
    threat: str
    symbol: str
    region: str
    radii: Radii
    subject: str
    proof: str
    closed: bool = True
    brief: str = "deterministic"
    unit: str = ""
    alpha: float | None = None
    budget: Budget | None = None
    note: str = ""

    def __post_init__(self) -> None:
        for key, known in (("kind", Kind), ("radii", Radii)):
            if getattr(self, key) not in get_args(known):
                raise ValueError(f"{key} is one of {', '.join(get_args(known))}, not {getattr(self, key)!r}")
        if (self.alpha is None) != (self.budget is None) or (self.alpha is not None and not self.probabilistic):
            raise ValueError("a probabilistic claim, and no other, has an alpha together with its budget")
        if self.alpha is not None and not 0 < self.alpha < 1:
            raise ValueError(f"alpha = {self.alpha!r} is not a probability between 0 and 1")

    @classmethod
    def about(cls, threat: Threat, kind: Kind, *, closed: bool = True, **parts: Any) -> Claim:
        """A claim about a threat model, which says itself what it is called and which set a radius stands for.

        Args:
            threat: of the radii.
            kind: of the claim.
            closed: whether a radius r proves distances up to r.
            parts: `radii`, `subject`, `proof`, and what else a claim has.
        """
        said = {"threat": threat.name, "symbol": threat.symbol, "unit": threat.unit, "note": threat.note}
        return cls(kind, region=threat.described(closed=closed), closed=closed, **said, **parts)

    @property
    def probabilistic(self) -> bool:
        """Whether it may be false with a probability alpha."""
        return self.kind == "probabilistic"

    @property
    def mean_radius(self) -> str | None:
        """The name of the mean of correct * radius: `acr`; `acr_grid` for a grid's; None where there is none."""
        return {"continuous": "acr", "count": "acr", "grid": "acr_grid", "targets": None}[self.radii]

    @property
    def axis(self) -> str:
        """The label of an axis of radii."""
        return f"radius, in {self.unit}" if self.unit else f"{self.symbol} radius"

    def sentence(self) -> str:
        """The claim in words."""
        note = f" {self.note}" if self.note else ""
        if not self.probabilistic:
            return f"{self.subject} classifies every input of {self.region} as the label.{note} {self.proof}"
        constant = f"the class of {self.subject} is constant in {self.region} around"
        if self.budget == "dataset":
            return (
                f"With probability at least 1 - alpha over all the noise drawn, {constant} each certified example of "
                f"this list: alpha holds for all of them together.{note} {self.proof}"
            )
        return (
            f"With probability at least 1 - alpha over the noise drawn for an example, {constant} it. alpha holds per "
            f"example.{note} {self.proof}"
        )

    def plain(self) -> tuple[str, ...]:
        """What a reader needs to take it neither for more nor for less, in plain sentences."""
        if self.probabilistic:
            return (
                f"It is about {self.subject}: {self.brief}. A single forward pass of the network has no certificate.",
                "Abstaining is an answer: too few votes agreed for a claim. It counts as not certified.",
            )
        return (
            "It is a proof, not a test: no attack of any kind within the radius changes the class of a verified "
            "example.",
            "Unknown is neither safe nor unsafe: it was not proved, and no attack broke it. Falsified: an attack found "
            "an input inside the certified set with another class.",
        )

    def to_dict(self) -> dict[str, Any]:
        """As the card holds it, with the sentence."""
        stated = {key: value for key, value in asdict(self).items() if value is not None and value != ""}
        return {**stated, "says": self.sentence()}

    @classmethod
    def from_dict(cls, stated: object) -> Claim:
        """The inverse of `to_dict`.

        Raises:
            ValueError: it states no claim; its sentence is another one's.
        """
        if not isinstance(stated, Mapping):
            raise ValueError("there is no claim")
        values = {key: value for key, value in stated.items() if key != "says"}
        known = {field.name: field for field in fields(cls)}
        if strange := sorted(set(values) - set(known)):
            raise ValueError(f"a claim has no {', '.join(map(str, strange))}")
        kinds: dict[str, type | tuple[type, ...]] = {"closed": bool, "alpha": (int, float)}
        for key, value in values.items():
            if not isinstance(value, kinds.get(key, str)) or (key == "alpha" and isinstance(value, bool)):
                raise ValueError(f"{key} of a claim is not {value!r}")
        try:
            claim = cls(**values)
        except TypeError as error:
            raise ValueError(f"the claim is not whole: {error}") from error
        if stated.get("says", claim.sentence()) != claim.sentence():
            raise ValueError("the claim's sentence is not what its parts say")
        return claim


def claim_of(stated: Mapping[str, Any], where: object = "certificate card") -> Claim:
    """The claim of a card or of an entry of `result.json`.

    Raises:
        UserError: it has none.
    """
    try:
        return Claim.from_dict(stated.get("claim"))
    except ValueError as error:
        raise UserError(f"what is claimed cannot be read: {error}", where=str(where), fix="certify again") from error
