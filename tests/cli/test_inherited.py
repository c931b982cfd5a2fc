"""What a command takes over from a run into its own command line: plain values, quoted, each in its place."""

import pytest

from certtrain.cli.inherited import kept_overrides, literal, option, typed_trust
from certtrain.config.overrides import quoted
from certtrain.errors import UserError

NASTY = [
    "a\\",
    "\\\\'x\\\\",
    "a\nb",
    "a'b",
    "a\\'b",
    "$",
    "a,b=c [x] {y: z}",
    "\\",
    "a b",
    "ä\u2028",
    "$x",
    "C:\\data",
    '"',
    "",
]


@pytest.mark.parametrize("value", [*NASTY, NASTY, 0.1, 1e-9, 3, None, True, [0.1, "2/255"]])
def test_plain_values_arrive_as_they_are_or_are_refused(value):
    from hydra import compose, initialize_config_dir
    from hydra.core.global_hydra import GlobalHydra

    from certtrain.system.files import conf_dir

    GlobalHydra.instance().clear()
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        found = compose("certify", ["run=x", literal("radii", value, "run")])["radii"]
    expected = value if not isinstance(value, list) else list(value)
    assert (list(found) if isinstance(value, list) else found) == expected


@pytest.mark.parametrize("value", [*NASTY, "${oc.env:TOKEN}", "\\${n}", "'${n}\\'"])
def test_a_quoted_value_is_the_value(value):
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from omegaconf import OmegaConf

    parsed = OverridesParser.create().parse_override(quoted("name", value)).value()
    assert OmegaConf.to_container(OmegaConf.create({"n": 1, "name": parsed}), resolve=True)["name"] == value


@pytest.mark.parametrize("text", ["../x", "a/../b", "/a", "a//b", "a b", "", ".hidden", "a@b", None, 3])
def test_an_option_stays_in_its_group(text):
    with pytest.raises(UserError, match="is not the name of an option"):
        option("certifier", text, "run")
    assert option("certifier", "paper/row_0.1", "run") == "certifier=paper/row_0.1"


def test_settings_are_kept_and_what_is_typed_replaces_them():
    overrides = ["data=digits", "model.hidden=[16]", "eps=${train_eps}", "radii=[1/255,0.3]", "data_dir=../data"]
    overrides += ["+tuned.a='x'", "~trainer.devices", "seed=hydra.evil"]
    assert kept_overrides(overrides, ["seed"], "run") == overrides[:-1]
    assert typed_trust(["epochs=3"]) == []
    typed = ["trust=[a,b.c]", "model._target_=mine.Net", "+data={_target_: 'yours.Data', x: 1}"]
    assert typed_trust(typed) == ["trust=[a,b.c,mine.Net,yours.Data]"]
