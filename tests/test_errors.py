"""Messages: what was wrong in one line, what is near in a few, commands as a shell takes them."""

from certtrain.errors import MOST_CHARACTERS, UserError, command_line, in_one_line, nearest


def test_what_is_wrong_in_one_line():
    error = UserError(
        "the run it exists with another configuration:\n    eps: 0.1 there, 0.2 now", where="runs/it", fix="x"
    )
    assert in_one_line(str(error)) == "the run it exists with another configuration: eps: 0.1 there, 0.2 now"
    assert in_one_line(str(UserError("too long", fix="x"))) == "too long"
    assert in_one_line("KeyError: 'l1'") == "KeyError: 'l1'"


def test_the_nearest_or_the_first_of_all():
    assert nearest("ibpp", ["ibp", "crown"]) == "did you mean ibp?"
    assert nearest("x", ["b", "a"]) == "available: a, b"
    many = [f"option_{n:03}" for n in range(200)]
    shown = nearest("zzz", many)
    assert len(shown) < MOST_CHARACTERS + 30
    named = shown.removeprefix("available: ").split(" and ")[0].split(", ")
    assert named == many[: len(named)]
    assert shown.endswith(f" and {200 - len(named)} more")
    assert nearest("zzz", ["y" * 500]) == "available: " + "y" * 500


def test_a_command_can_be_copied_into_a_shell():
    assert command_line("certtrain", "certify", "run=runs/a-eps=0.1,0.2") == "certtrain certify run=runs/a-eps=0.1,0.2"
    assert command_line("certtrain", "certify", "run=my runs/it's") == """certtrain certify 'run=my runs/it'"'"'s'"""
