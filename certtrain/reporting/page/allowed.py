"""What a certificate over sizes of features lets each feature do, in its own units."""

from __future__ import annotations

from certtrain.errors import UserError
from certtrain.reporting.page.evidence import Certified
from certtrain.reporting.page.table import Table
from certtrain.threat.features import Feature, features_from_list
from certtrain.threat.scales import Scales


def allowed(certificate: Certified) -> tuple[str, Table | None] | None:
    """A title and the table of the features' changes at radius 1; None for a certificate without such sizes.

    Where the card cannot be read, the title says so and there is no table.
    """
    stated = certificate.settings.get("scales")
    if stated is None:
        return None
    try:
        scales = Scales.from_dict(stated)
        listed = certificate.card.get("input_contract", {}).get("features")
        features = features_from_list(listed) if listed else ()
    except (KeyError, TypeError, ValueError, AttributeError, UserError) as error:
        return f"What may change cannot be read from the card: {type(error).__name__}: {error}", None
    known: dict[str, Feature] = {feature.name: feature for feature in features}
    lines, still = [], {*scales.immutable}
    for name, size, whole in zip(scales.names, scales.values, scales.whole):
        none = "none" if name in still else "any category"
        feature, line = known.get(name), [name, f"± {100 * float(size):.4g}" if size else none]
        if feature is None:
            line += ["–", "–"]
        else:
            change = float(size) * feature.width
            told = f"± {change:.6g}" if size else none
            line += [told + ", whole numbers" * bool(whole), f"{feature.minimum:.6g} to {feature.maximum:.6g}"]
        lines.append(line)
    changing = len(scales.names) - len(still)
    title = f"What may change: {changing} of {len(scales.names)} features, {scales.label}"
    header = ["feature", "at radius 1 (% of its range)", "at radius 1, in its own units", "range in the training part"]
    caption = f"{certificate.name}: how far each feature may move at radius 1, all at once; in proportion at others"
    return title, Table(caption, header, lines, words=(0,))
