"""Every table fits 100 columns and says what result.json says, failures included."""

import re
from dataclasses import replace

import pytest
from claims import LINF, SMOOTHED, STAGED
from rich.console import Console

from certtrain.reporting.tables import config_difference, config_tree, result_tables


def lines(renderable, width=100):
    console = Console(width=width, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(renderable)
    return [line.rstrip() for line in console.export_text().splitlines()]


def cells(printed, first):
    [line] = [line for line in printed if line.split()[:1] == [first]]
    return line.split()


def test_bounds_table_shows_every_number(bounds):
    printed = lines(result_tables(bounds))
    assert max(map(len, printed)) <= 100
    assert cells(printed, "2/255") == ["2/255", "96.25", "92.50", "93.00", "93.61", "95.00", "10,000"]
    assert cells(printed, "0.3") == ["0.3", "96.25", "10.00", "20.00", "30.00", "50.00", "10,000"]
    assert cells(printed, "seconds") == ["seconds"] + 3 * ["1,234.6"]
    header = next(line for line in printed if "radius" in line)
    assert re.findall(r"[\w-]*[A-Z][\w-]*", header) == ["IBP", "CROWN-IBP", "CROWN"]
    assert "upper bound" in header
    assert "l-inf" in "\n".join(printed)
    assert "UNSOUND" not in "\n".join(printed)
    assert "invalid" not in "\n".join(printed)


def test_radii_of_one_certifier_only(bounds):
    bounds["test_ibp"]["certified"] = {"0.1": 0.8472}
    assert cells(lines(result_tables(bounds)), "0.3")[2] == "–"


def test_no_attack_no_upper_bound(bounds):
    for entry in bounds.values():
        entry["pgd"] = None
    printed = "\n".join(lines(result_tables(bounds)))
    assert "PGD" not in printed


def test_failures_are_not_hidden(bounds):
    bounds["test_crown"] |= {"invalid": 7, "error": 2}
    printed = lines(result_tables(bounds))
    assert "CROWN: 7 of 10,000 invalid (NaN or infinite)" in printed
    assert "CROWN: 2 of 10,000 error (the certifier failed)" in printed


def test_more_than_pgd_leaves_standing_is_called_unsound(bounds):
    bounds["test_crown"]["certified"]["0.1"] = 0.9251
    assert "UNSOUND: CROWN certifies more at 0.1 than PGD leaves standing" in lines(result_tables(bounds))


def test_smoothing_table_shows_every_number(smoothing):
    printed = lines(result_tables(smoothing))
    assert max(map(len, printed)) <= 100
    text = "\n".join(printed)
    assert cells(printed, "0")[1] == "87.50"
    assert re.search(r"ACR +0\.4123$", text, re.M)  # never rounded up
    assert re.search(r"smoothed accuracy +87\.50 %", text)
    assert re.search(r"abstained +3 of 40 +\(7\.50 %\)", text)
    assert re.search(r"draws +n = 10,000 per image, after n0 = 100", text)
    assert re.search(r"alpha +0\.001", text)
    assert re.search(r"images +40$", text, re.M)
    assert re.search(r"sigma +0\.25$", text, re.M)
    assert re.search(r"seconds +33\.2", text)


def test_staged_draws_have_no_average_radius(smoothing):
    entry = smoothing["test_smoothing"] | {
        "certifier": "anytime",
        "claim": STAGED.to_dict(),
        "acr": None,
        "mean_draws": 412.5,
    }
    printed = lines(result_tables({"anytime": entry}))
    text = " ".join("\n".join(printed).split())
    assert max(map(len, printed)) <= 100
    assert "ACR none: a radius here is a target that was reached" in text
    assert "412 per image on average, 24.2 times fewer than the last look's 10,000; after n0 = 100" in text


def test_near_ties_are_reported(smoothing):
    smoothing["test_smoothing"]["near_ties"] = 3
    text = " ".join("\n".join(lines(result_tables(smoothing))).split())
    assert "near-ties 3 of 400,000 votes" in text


def test_a_budget_of_the_data_set_is_said(smoothing):
    smoothing["test_smoothing"]["claim"] = replace(SMOOTHED, budget="dataset").to_dict()
    assert "0.001 (any certificate is wrong" in " ".join("\n".join(lines(result_tables(smoothing))).split())


@pytest.mark.parametrize("count", [1, 5])
def test_many_certifiers_fit(bounds, count):
    entry = bounds["test_crown"]
    names = ("ibp", "crown_ibp", "crown", "alpha_crown", "ibp+crown_ibp+crown")[:count]
    printed = lines(result_tables({name: {**entry, "certifier": name} for name in names}))
    assert max(map(len, printed)) <= 100
    assert cells(printed, "0.1")[:3] == ["0.1", "96.25", "86.00"]
    alone = count == 1
    assert len(cells(printed, "0.1")) == 4 + count + 3 * alone
    assert ("85.3 to 86.7" in "\n".join(printed)) == alone  # the 95 % interval of 86.00 % of 10,000 images


def test_config_tree_is_compact_and_complete():
    engine = {"_target_": "certtrain.bounds.NativeEngine", "_partial_": True}
    config = {
        "seed": 3,
        "logger": {"wandb": None},
        "radii": [0.1, "2/255"],
        "resume": None,
        "data": {"_target_": "certtrain.data.digits", "batch_size": 64, "augment": False},
        "method": {"_target_": "certtrain.methods.CrownIBP", "kappa": {"start": 1.0, "end": 0.5}},
        "certifier": {
            "ibp": {"_target_": "certtrain.certifiers.BoundCertifier", "methods": ["ibp"]},
            "crown": {"_target_": "certtrain.certifiers.BoundCertifier", "methods": ["crown"], "engine": engine},
        },
        "milestones": list(range(50)),
        "long": {f"a_rather_long_key_{i}": i for i in range(20)},
    }
    printed = lines(config_tree(config))
    text = "\n".join(printed)
    assert max(map(len, printed)) <= 100
    assert len(printed) <= 20
    assert "seed=3  radii=[0.1,2/255]" in text  # brackets are no markup
    assert "data digits  batch_size=64  augment=false" in text
    assert "method CrownIBP  kappa.start=1.0  kappa.end=0.5" in text
    assert "crown BoundCertifier  methods=[crown]  engine=NativeEngine" in text
    assert "9,...50]" in text
    assert "resume" not in text
    assert "logger" not in text
    assert "_partial_" not in text


def test_falsified_certificates_show_no_figure(bounds, smoothing):
    broken = {"falsified": True, "falsification": {"hits": 2, "attacked": 50}}
    bounds["test_crown"] |= broken
    printed = lines(result_tables(bounds))
    assert cells(printed, "2/255") == ["2/255", "96.25", "92.50", "93.00", "–", "95.00", "10,000"]
    assert "CROWN (FALSIFIED): an attack broke 2 of 50 certificates" in printed
    name, entry = next(iter(smoothing.items()))
    text = "\n".join(lines(result_tables({name: {**entry, **broken}})))
    assert "smoothing (FALSIFIED): an attack broke 2 of 50 certificates" in text
    for radius, value in list(entry["certified"].items())[1:]:  # at 0 it is an accuracy
        assert f"{100 * value:.2f}" not in text, radius


def test_a_classifier_that_is_no_better_than_a_guess_is_named_below_its_table():
    entry = {
        "certifier": "ibp",
        "claim": LINF.to_dict(),
        "clean": 0.1,
        "certified": {"0.1": 0.1},
        "n": 40,
        "seconds": 1.0,
    }
    entry |= {"settings": {}, "indices_sha256": "a", "invalid": 0, "error": 0, "abstained": 0}
    guess = {**entry, "guessing": "it answers class 3 for every example"}
    assert "IBP: no better than a guess: it answers class 3" in "\n".join(lines(result_tables({"ibp": guess})))
    assert "guess" not in "\n".join(lines(result_tables({"ibp": entry})))


def test_the_tree_says_the_recipes_length_only_where_lengths_are_stretched_from_it():
    config = {"epochs": 3, "schedule": {"epochs": 20, "scale": False, "warmup": 1, "ramp": 10}}
    text = "\n".join(lines(config_tree(config)))
    assert "epochs=3" in text
    assert "epochs=20" not in text
    assert "schedule  warmup=1  ramp=10" in text
    config["schedule"]["scale"] = True
    assert "lengths=of a recipe of 20 epochs, for 3  warmup=1" in "\n".join(lines(config_tree(config)))


def test_of_a_further_run_what_differs_is_shown():
    before = {"seed": 0, "method": {"_target_": "a.IBP", "beta": 1, "l1": 0.0}, "schedule": {"epochs": 2, "ramp": 1}}
    now = {"seed": 1, "method": {"_target_": "a.IBP", "l1": 0.0}, "schedule": {"epochs": 3, "ramp": 1}, "epochs": 3}
    printed = lines(config_difference({**before, "epochs": 2}, now))
    assert printed == ["configuration as before, but  seed=1  epochs=3  method.beta=null"]
    assert lines(config_difference(now, now)) == ["configuration as before"]
