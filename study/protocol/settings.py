"""What a protocol file may say about one run: data, model, training, method. Nothing here imports torch."""

from typing import Annotated, Any, Literal, get_args

from pydantic import AfterValidator, Field, Tag, model_validator
from pydantic_core import PydanticCustomError

from study.protocol.table import OWN_OR_BUILT_IN, Own, Table

Scenario = Literal["task", "domain", "class"]
SCENARIOS: tuple[Scenario, ...] = get_args(Scenario)


def _between(least: float, most: float, *, or_zero: bool = False) -> AfterValidator:
    """Numbers from ``least`` to ``most``, and 0 if ``or_zero``."""
    allowed = f"allowed: {'0, or ' if or_zero else ''}from {least:g} to {most:g}"

    def check(value: float) -> float:
        if not (least <= value <= most or (or_zero and value == 0)):
            raise PydanticCustomError("range", allowed)
        return value + 0.0  # 0.0 and -0.0 are one value

    return AfterValidator(check)


# Beyond these bounds nothing can be trained: float32 overflows or vanishes, memory or years run out. They are far from
# all that was published, and turn a slip of the pen into an error before the first step.
Fraction = Annotated[float, _between(1e-3, 0.999)]
Positive = Annotated[int, Field(ge=1, le=10**9)]
Bytes = Annotated[int, Field(ge=1, le=10**15)]
Width = Annotated[int, Field(ge=1, le=10**5)]
LAST_SEED = 2**32 - 1  # NumPy takes no larger one
Seed = Annotated[int, Field(ge=0, le=LAST_SEED)]
Scale = Annotated[float, _between(1e-18, 1e18)]
Strength = Annotated[float, _between(1e-18, 1e18, or_zero=True)]
Pixel = Annotated[float, _between(-1e6, 1e6)]
Spread = Annotated[float, _between(1e-6, 1e6)]
Fisher = Literal["exact", "sample", "predicted", "empirical", "batched"]


class Benchmark(Table):
    """A data set, and how it is split into experiences.

    Attributes:
        name: the digits are scikit-learn's 1,797 images of 8 x 8 pixels, "split_fmnist" is Fashion-MNIST,
            "split_cifar10_jpeg" CIFAR-10 recompressed as JPEG files of quality 75. A "split_" benchmark is split by
            class; in a "permuted_" one each experience has all digits, under its own permutation of the pixels.
        experiences: how many; of a split benchmark an equal share of the classes each.
        class_order: of a split benchmark, that of the labels or one that each seed draws.
        padding: pixels of zeros added at each side of an image, before it is normalised.
        mean, std: pixels, in [0, 1], are normalised to (pixel - mean) / std; one number, or one per channel.
        test_fraction: share of each class kept for testing; only for the digits, which have no test set.
        split_seed: of the stratified splits, the same for every run.
    """

    name: Literal[
        "split_digits",
        "permuted_digits",
        "split_mnist",
        "split_fmnist",
        "permuted_mnist",
        "split_cifar10",
        "split_cifar10_jpeg",
        "split_cifar100",
    ]
    experiences: Annotated[int, Field(ge=2, le=10**4)]
    class_order: Literal["labels", "random"] = "labels"
    padding: Annotated[int, Field(ge=0, le=1000)] = 0
    mean: Pixel | list[Pixel] = 0.0
    std: Spread | list[Spread] = 1.0
    test_fraction: Fraction | None = None
    split_seed: Seed = 0

    @property
    def permuted(self) -> bool:
        return self.name.startswith("permuted_")

    @property
    def classes(self) -> int:
        """Classes of the data."""
        return 100 if self.name == "split_cifar100" else 10

    @model_validator(mode="after")
    def _fits_the_data(self) -> "Benchmark":
        n = self.classes
        if not self.permuted and n % self.experiences:
            allowed = ", ".join(str(each) for each in range(2, n + 1) if n % each == 0)
            raise ValueError(f"experiences = {self.experiences}: {self.name} has {n} classes; allowed: {allowed}")
        if (self.test_fraction is not None) != self.name.endswith("_digits"):
            problem = "it is missing" if self.test_fraction is None else f"{self.name} comes with a test set"
            raise ValueError(f"test_fraction is for digits, which need it: {problem}")
        if self.permuted and self.class_order != "labels":
            raise ValueError(f"class_order = {self.class_order!r}: every experience of {self.name} has all classes")
        channels = 3 if "cifar" in self.name else 1
        for key, value in (("mean", self.mean), ("std", self.std)):
            if isinstance(value, list) and len(value) != channels:
                raise ValueError(f"{key} = {value}: images of {self.name} have {channels} channel(s)")
        return self


class OwnBenchmark(Own):
    """A function that returns an Avalanche benchmark, as ``benchmark_from_datasets`` does.

    Its streams "train" and "test" have as many experiences; datasets have ``targets``, from 0. It gets ``seed``,
    ``scenario`` and ``data_root`` where it names them.
    """


AnyBenchmark = Annotated[
    Annotated[Benchmark, Tag("(built-in)")] | Annotated[OwnBenchmark, Tag("(own)")], OWN_OR_BUILT_IN
]


class Model(Table):
    """The network; in the task-incremental scenario with a head for each experience, otherwise with one.

    Attributes:
        name: "mlp", with ReLU; "cnn", 3 x 3 convolutions with ReLU, every second one followed by max-pooling over 2 x 2
            pixels; "resnet18_reduced", with 20 channels in the first stage instead of 64 (Lopez-Paz and
            Ranzato 2017); "wrn28_2", a wide ResNet of depth 28 and width 2 (Zagoruyko and Komodakis 2016).
        hidden: widths of the hidden layers of "mlp", channels of the convolutions of "cnn".
        unseen_classes: whether outputs of classes that no experience has shown yet are masked out of softmax and loss,
            in the class-incremental scenario.
    """

    name: Literal["mlp", "cnn", "resnet18_reduced", "wrn28_2"]
    hidden: Annotated[list[Width], Field(min_length=1, max_length=1000)] | None = None
    unseen_classes: Literal["masked", "shown"] = "masked"

    @model_validator(mode="after")
    def _hidden_layers_are_of_a_plain_network(self) -> "Model":
        if (self.hidden is not None) != (self.name in ("mlp", "cnn")):
            raise ValueError("hidden is for the models 'mlp' and 'cnn', which need it")
        return self


class OwnModel(Own):
    """A module's class, or a function that returns one: (N, …) -> logits (N, classes).

    It gets ``n_classes`` (or ``num_classes``), ``benchmark`` and ``scenario`` where it names them. In the
    task-incremental scenario it takes task labels, as a module of Avalanche's ``MultiTaskModule``.
    """


AnyModel = Annotated[Annotated[Model, Tag("(built-in)")] | Annotated[OwnModel, Tag("(own)")], OWN_OR_BUILT_IN]


class Training(Table):
    """How each experience is trained on. Joint training makes as many updates in all as a continual learner does.

    Attributes:
        epochs, iterations: the length of an experience; exactly one of the two. An epoch ends with a batch of what is
            left over; iterations have full batches only, reshuffled whenever fewer samples are left.
        batch_size: samples in a batch.
        optimizer: "adam", "sgd" or "adagrad".
        learning_rate: of the optimizer.
        momentum: of SGD; 0 by default.
        optimizer_state: "keep" over experiences, or "reset" at the start of each.
    """

    epochs: Positive | None = None
    iterations: Positive | None = None
    batch_size: Positive
    optimizer: Literal["adam", "sgd", "adagrad"]
    learning_rate: Annotated[float, _between(1e-12, 1e3)]
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.0
    optimizer_state: Literal["keep", "reset"] = "keep"

    @model_validator(mode="after")
    def _has_one_length(self) -> "Training":
        if (self.epochs is None) == (self.iterations is None):
            both = "; --set training.epochs= or --set training.iterations= removes the other" if self.epochs else ""
            raise ValueError(f"exactly one of epochs and iterations says how long an experience is trained on{both}")
        if self.momentum and self.optimizer != "sgd":
            raise ValueError(f"momentum = {self.momentum}: only the optimizer 'sgd' has one")
        return self


class Unregularized(Table):
    """Fine-tuning ("naive"), training on all data so far ("cumulative"), or on all experiences at once ("joint")."""

    kind: Literal["naive", "joint", "cumulative"]


class Replay(Table):
    """Rehearsal of stored examples: see :class:`study.run.baselines.ReplayMemory`.

    Attributes:
        storage: the type that a pixel is stored in; what is replayed is the same.
        examples, memory_bytes, copies: the size of the memory, exactly one of the three: a number of examples, a
            number of bytes, or the bytes of this many float32 copies of the model's parameters (2: what importance and
            anchor of a regularizer take).
    """

    kind: Literal["replay"]
    storage: Literal["float32", "uint8"] = "float32"
    examples: Positive | None = None
    memory_bytes: Bytes | None = None
    copies: Positive | None = None

    @model_validator(mode="after")
    def _has_one_size(self) -> "Replay":
        if sum(size is not None for size in (self.examples, self.memory_bytes, self.copies)) != 1:
            raise ValueError("exactly one of examples, memory_bytes and copies says how large the memory is")
        return self


class LwF(Table):
    """Learning without Forgetting (Li and Hoiem 2016), by Avalanche's plugin; its alpha is the strength."""

    kind: Literal["lwf"]
    temperature: Scale = 2.0


class L2(Table):
    kind: Literal["l2"]


Draws = Annotated[Positive, Field(le=2**16, exclude_if=lambda draws: draws == 1)]
"""Labels that the Fisher "sample" draws per sample; 1 is left out, so that earlier records keep their names."""


def _only_sample_draws(method: Any) -> Any:
    if method.draws > 1 and method.fisher != "sample":
        raise ValueError(f"draws = {method.draws}: only the Fisher 'sample' draws labels, not {method.fisher!r}")
    return method


class EWC(Table):
    kind: Literal["ewc"]
    fisher: Fisher = "exact"
    n_samples: Positive | None = None
    batch_size: Positive | None = None
    draws: Draws = 1

    _draws_labels = model_validator(mode="after")(_only_sample_draws)


class OnlineEWC(Table):  # not an EWC: records keep the order of these keys
    kind: Literal["online_ewc"]
    gamma: Annotated[float, Field(ge=0, le=1)] = 1.0
    fisher: Fisher = "exact"
    n_samples: Positive | None = None
    batch_size: Positive | None = None
    draws: Draws = 1

    _draws_labels = model_validator(mode="after")(_only_sample_draws)


class KFAC(Table):
    kind: Literal["kfac"]
    gamma: Annotated[float, Field(ge=0, le=1)] = 1.0
    fisher: Literal["exact", "sample", "predicted", "empirical"] = "exact"
    merge: Literal["nearest"] = "nearest"  # what records say; there is no other
    weight_sharing: Literal["expand", "reduce"] = "expand"
    n_samples: Positive | None = None
    batch_size: Positive | None = None


class MAS(Table):
    kind: Literal["mas"]
    output: Literal["squared_norm", "mean_square", "vector"] = "squared_norm"
    accumulate: Literal["average", "sum"] = "average"
    per_sample: bool = True


class SI(Table):
    kind: Literal["si"]
    xi: Scale = 0.1
    gradient: Literal["task", "total"] = "task"
    clip: bool = True


class AvalancheEWC(Table):
    """Avalanche's own ``EWCPlugin``; its ``ewc_lambda`` is the strength."""

    kind: Literal["avalanche_ewc"]
    mode: Literal["separate", "online"] = "separate"
    decay_factor: Annotated[float, Field(ge=0, le=1)] | None = None

    @model_validator(mode="after")
    def _online_decays(self) -> "AvalancheEWC":
        if (self.decay_factor is not None) != (self.mode == "online"):
            raise ValueError("decay_factor is for the mode 'online', which needs it")
        return self


class AvalancheSI(Table):
    """Avalanche's own ``SynapticIntelligencePlugin``; its ``si_lambda`` is the strength.

    Attributes:
        eps: its damping.
        mended: see :class:`study.run.methods.SynapticIntelligenceOnCopies`; false has no effect on a CPU.
    """

    kind: Literal["avalanche_si"]
    eps: Scale = 1e-7
    mended: bool = False


class OwnMethod(Own):
    """A plugin or a strategy of Avalanche's kind. It gets ``seed`` where it names one.

    Attributes:
        strength_argument: the keyword for λ, by default "reg_lambda" if the protocol gives it a strength.
    """

    strength_argument: str | None = None


BuiltInMethod = Unregularized | Replay | LwF | L2 | EWC | OnlineEWC | KFAC | MAS | SI | AvalancheEWC | AvalancheSI
Method = Annotated[
    Annotated[BuiltInMethod, Field(discriminator="kind"), Tag("(built-in)")] | Annotated[OwnMethod, Tag("(own)")],
    OWN_OR_BUILT_IN,
]


def takes_strength(method: Method) -> bool:
    if isinstance(method, OwnMethod):
        return method.strength_argument is not None
    return not isinstance(method, Unregularized | Replay)


def is_reference(method: Method) -> bool:
    """Whether the method sees all data again, which makes it an upper reference and no continual learner."""
    return method.kind in ("joint", "cumulative")
