"""A network of one's own: any nn.Module from inputs in [0, 1] to logits; it normalises by itself, first."""

from torch import Tensor, nn

from certtrain.models import Normalize


class TwoBranches(nn.Module):
    """A linear branch beside a convolutional one, added."""

    def __init__(self, input_shape, num_classes, mean, std, width: int = 8) -> None:
        super().__init__()
        channels, height, image_width = input_shape
        self.normalize = Normalize(mean, std, input_shape)
        self.conv = nn.Conv2d(channels, width, 3, stride=2, padding=1)
        size = width * ((height + 1) // 2) * ((image_width + 1) // 2)
        self.deep = nn.Sequential(nn.ReLU(), nn.Flatten(), nn.Linear(size, num_classes))
        self.wide = nn.Sequential(nn.Flatten(), nn.Linear(channels * height * image_width, num_classes))

    def forward(self, x: Tensor) -> Tensor:
        x = self.normalize(x)
        return self.deep(self.conv(x)) + self.wide(x)
