"""Build, fit, certify, plot: ten lines without Hydra. `python examples/python_api.py`, about a minute on two cores."""

import certtrain
from certtrain.bounds import NativeEngine
from certtrain.certifiers import BoundCertifier
from certtrain.data import Digits
from certtrain.methods import CrownIBP, Ramp
from certtrain.models import zhang_3layer

data = Digits(val_size=0, batch_size=64)
data.setup()
steps = data.steps_per_epoch()
network = zhang_3layer(data.input_shape, data.num_classes, data.mean, data.std, width=4)
certtrain.fit(network, CrownIBP("0.1", Ramp(2 * steps, 20 * steps), loss_fusion=True), data, epochs=30, lr=2e-3)
certifier = BoundCertifier(["ibp", "crown"], ["0.05", "0.1"], NativeEngine)
certificates = certtrain.certify(network, certifier, data.test)
print(certtrain.summarise(certificates, certifier)["certified"])
print(certtrain.plot({"ibp+crown": (certificates, certifier)}, "certified_accuracy.png"))
