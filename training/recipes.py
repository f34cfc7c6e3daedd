"""One recipe per network: everything that decides the outcome, apart from the code, is here.

Invariant: a recipe is data, with its seed; two runs of one recipe differ only by the arithmetic
of the machine. `teachers` names recipes that have to be trained before.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Augmentation:
    """A random affine and elastic distortion; each figure is the bound of a uniform draw."""

    degrees: float = 10.0
    scale: float = 0.12  # factor within 1 +- scale, each axis on its own
    shear: float = 0.12
    shift: float = 2.0  # pixels
    elastic: float = 1.0  # pixels: standard deviation of the displacement at 6x6 knots


@dataclass(frozen=True)
class Convolution:
    """A hidden layer of a student with shared weights: a dense layer, most of it zeros."""

    channels: int
    kernel: int
    stride: int = 1
    padding: int = 0

    def __str__(self) -> str:
        size = f"{self.channels} channels of {self.kernel}x{self.kernel}"
        return f"{size} (stride {self.stride}, padding {self.padding})"


@dataclass(frozen=True)
class Recipe:
    """How one network is made. `widths` is empty for a convolutional teacher."""

    name: str
    widths: tuple[int, ...]
    activation: str = "relu"
    epochs: int = 60  # of the learning rate's schedule
    stop: int = 0  # the last one that is trained, if not the schedule's
    batch: int = 250
    learning_rate: float = 2e-3
    weight_decay: float = 1e-4
    augmentation: Augmentation | None = Augmentation()
    plain_epochs: int = 0  # the last ones, without distortion
    batch_norm: bool = False  # folded away at export
    average: float = 0.999  # decay of the running average of weights, per step
    teachers: tuple[str, ...] = ()
    temperature: float = 2.0
    teacher_share: float = 0.9  # of the loss; the labels have the rest
    copies: int = 60  # distorted copies of the digits that the teachers answer, used in turn
    jitter: int = 0  # pixels that a batch is moved by, beside the distortion
    wobble: Augmentation | None = None  # of copies, anew each time, so small that answers hold
    dropout: float = 0.0  # of hidden layers
    convolutions: tuple[Convolution, ...] = ()  # the first layers of `widths`, with shared weights
    seed: int = 1
    refit: bool = False  # fitted, once all is chosen, to the digits that chose as well
    n_conv: int = 0  # channels of the first stage of a teacher with pooling
    kernel: int = 0  # width of the convolutions of a teacher without
    channels: tuple[int, ...] = ()  # of each of those

    @property
    def is_teacher(self) -> bool:
        """A convolutional network that is not written out as dense layers, nor released."""
        return not self.widths

    @property
    def last(self) -> int:
        """The last epoch that is trained."""
        return self.stop or self.epochs

    @property
    def run(self) -> str:
        """The name of its run: the folder of what training leaves."""
        return f"{self.name}-{self.seed}{'-refit' if self.refit else ''}"


_TEACHERS = ("teacher-1", "teacher-2", "teacher-3")
_BETTER = ("teacher-4", "teacher-5")
_STRIDED = ("strided-1", "strided-2", "strided-3")
_UNPOOLED = {  # kernel, channels; two of each
    name + more: kind
    for more in ("", "-b")
    for name, kind in {
        "teacher-3x3": (3, tuple(range(32, 177, 16))),
        "teacher-5x5": (5, (32, 64, 96, 128, 160)),
        "teacher-7x7": (7, (48, 96, 144, 192)),
    }.items()
}
_MILD = Augmentation(degrees=7.0, scale=0.08, shear=0.08, shift=1.0, elastic=0.6)
_BETTER_SEE = Augmentation(degrees=9.0, scale=0.1, shear=0.1, shift=1.8, elastic=0.9)
_STUDENTS = Augmentation(degrees=8.0, scale=0.1, shear=0.1, shift=1.5, elastic=0.8)
_DISTILLED = {
    "teachers": _TEACHERS, "augmentation": _STUDENTS, "batch_norm": True, "average": 0.9995,
    "temperature": 1.0,
}  # fmt: skip
_NARROW = {**_DISTILLED, "batch": 1000, "learning_rate": 2e-2}
_WIDE = {**_DISTILLED, "batch": 500, "jitter": 1}
_LABELLED = {  # networks of strided convolutions that learn from the labels
    "batch_norm": True, "augmentation": _BETTER_SEE, "batch": 250, "learning_rate": 4e-3,
    "weight_decay": 5e-4, "dropout": 0.3,
}  # fmt: skip
_THREE = (Convolution(24, 5, 2), Convolution(48, 5, 2, 1), Convolution(64, 3, 1, 1))
_FIVE = (Convolution(24, 5, 2), Convolution(56, 5, 2, 1), Convolution(64, 3, 1, 1),
         Convolution(96, 3), Convolution(192, 3))  # fmt: skip
_WIDEST = {
    **_DISTILLED, "teachers": tuple(_UNPOOLED), "batch": 500, "epochs": 480, "plain_epochs": 40,
    "copies": 120,
    "wobble": Augmentation(degrees=4.0, scale=0.05, shear=0.05, shift=1.0, elastic=0.5),
}  # fmt: skip

RECIPES = {
    recipe.name: recipe
    for recipe in (
        Recipe("mnist-linear", (784, 10), epochs=30, augmentation=None, learning_rate=1e-3),
        Recipe("mnist-sigmoid", (784, 10, 10), "sigmoid", epochs=40, augmentation=None,
               learning_rate=3e-3, weight_decay=0.0),
        Recipe("mnist-small-plain", (784, 128, 10), epochs=60, augmentation=_MILD),
        # No teachers: so few units learn as much from the labels, and it is made in minutes.
        Recipe("mnist-tiny", (784, 32, 10), epochs=160, plain_epochs=8, batch=500,
               learning_rate=1e-2, augmentation=_MILD, batch_norm=True, average=0.9995),
        Recipe("mnist-small", (784, 128, 10), epochs=600, plain_epochs=100, **_NARROW),
        Recipe("mnist-deep", (784, 128, 64, 10), epochs=500, plain_epochs=80, **_NARROW),
        Recipe("mnist-mid", (784, 512, 512, 10), epochs=240, plain_epochs=30, learning_rate=1e-2,
               **_WIDE),
        Recipe("mnist-large-plain", (784, 1000, 1000, 500, 10), epochs=150, plain_epochs=20,
               learning_rate=1e-2, **_WIDE),
        # Convolutions while they are trained, dense layers afterwards.
        Recipe("mnist-large", (784, 3456, 1400, 1600, 864, 192, 10), epochs=140, stop=72,
               plain_epochs=15,
               convolutions=_FIVE, **{**_WIDE, "teachers": _STRIDED, "augmentation": _BETTER_SEE,
                                      "batch": 250, "learning_rate": 4e-3, "weight_decay": 2e-2}),
        Recipe("mnist-large-shallow", (784, 3456, 1200, 1600, 256, 10), epochs=200,
               plain_epochs=20, learning_rate=4e-3, convolutions=_THREE,
               **{**_WIDE, "teachers": _BETTER, "batch": 250}),
        Recipe("strided-1", (784, 3456, 1400, 1600, 864, 192, 10), epochs=45, seed=31,
               convolutions=_FIVE, **{**_LABELLED, "weight_decay": 2e-2}),
        Recipe("strided-2", (784, 3456, 1200, 1600, 1600, 256, 10), epochs=70, seed=32,
               convolutions=(*_THREE, Convolution(64, 3, 1, 1)), **_LABELLED),
        Recipe("strided-3", (784, 6272, 2352, 3136, 2400, 256, 10), epochs=65, seed=33,
               convolutions=(Convolution(32, 5, 2, 2), Convolution(48, 5, 2, 2),
                             Convolution(64, 3, 1, 1), Convolution(96, 3)), **_LABELLED),
        # Not trained yet: its teachers and its copies want a GPU.
        Recipe("mnist-large-gpu", (784, 2048, 2048, 1024, 10), learning_rate=3e-3, **_WIDEST),
        *(Recipe(name, (), epochs=30, batch=200, learning_rate=3e-3, weight_decay=5e-4,
                 average=0.998, n_conv=24, seed=seed)
          for seed, name in enumerate(_TEACHERS, start=11)),
        *(Recipe(name, (), epochs=50, batch=200, learning_rate=3e-3, weight_decay=5e-4,
                 average=0.999, n_conv=32, augmentation=_BETTER_SEE, seed=seed)
          for seed, name in enumerate(_BETTER, start=14)),
        *(Recipe(name, (), epochs=40, batch=250, learning_rate=3e-3, weight_decay=5e-4,
                 average=0.999, kernel=kernel, channels=channels, seed=seed)
          for seed, (name, (kernel, channels)) in enumerate(_UNPOOLED.items(), start=21)),
    )
}  # fmt: skip
