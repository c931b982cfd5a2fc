"""What a command would run on, composed without running it."""

from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from omegaconf import OmegaConf

from certtrain.config.instantiate import plain
from certtrain.system.files import conf_dir


def composed(*overrides: str, command: str = "train") -> dict:
    """The configuration as plain containers, with the choices of its groups."""
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        found = compose(command, overrides=list(overrides), return_hydra_config=True)
    choices = {key: value for key, value in found.hydra.runtime.choices.items() if not key.startswith("hydra/")}
    ours = OmegaConf.masked_copy(found, [key for key in found if key != "hydra"])
    return {**plain(ours), "choices": choices}
