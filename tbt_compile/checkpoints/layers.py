"""How each linear layer and embedding of a checkpoint is stored, and what quantizes its input."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn
from transformers import PreTrainedModel

from tbt_compile.checkpoints.bitnet import BitNetLinears, byte_activation
from tbt_compile.checkpoints.source import Checkpoint
from tbt_compile.checkpoints.stored_weights import stored_weight
from tbt_compile.encoding import Encoding
from tbt_compile.errors import FormatError
from tbt_compile.modules.frozen import FrozenWeight
from tbt_compile.quantizers import ActivationQuantizer, WeightQuantizer


@dataclass(frozen=True)
class Layer:
    """A layer with a stored weight.

    Attributes:
        name: dotted name of its module.
        weight: the packed weight; layers that share one have the same object.
        activation: the quantizer of its input; None for an embedding.
    """

    name: str
    weight: FrozenWeight
    activation: nn.Module | None


def read_layers(
    model: PreTrainedModel,
    checkpoint: Checkpoint,
    activation_bits: int | None,
    embedding_bits: int | None,
) -> tuple[list[Layer], set[str]]:
    """Read the weights of all linear layers and embeddings, one at a time.

    Args:
        model: without weights.
        checkpoint: its tensors.
        activation_bits: 8 to quantize the inputs of layers with packed weights that the checkpoint leaves in
            full precision.
        embedding_bits: 8 to quantize embeddings and the output projection by row.

    Returns:
        The layers, and the names of the tensors that they were read from. Layers in float32 are left out.

    Raises:
        FormatError: a weight is missing or of another shape, or a layer cannot have 8-bit activations.
    """
    config = getattr(model.config, "quantization_config", None)
    bitnet = BitNetLinears(config, model, checkpoint.tensor) if config else None
    names = _names_of_weights(model)
    head = model.get_output_embeddings()
    packed: dict[int, FrozenWeight | None] = {}
    layers, used = [], set()
    for name, module in model.named_modules():
        weight = module._parameters.get("weight")
        if not isinstance(module, nn.Linear | nn.Embedding) or weight is None:
            continue
        converted = bitnet is not None and name in bitnet.names
        if id(weight) not in packed:
            if bitnet is not None and converted:
                packed[id(weight)] = bitnet.read(name, weight.shape)
                used |= {f"{name}.{part}" for part in ("weight", "weight_scale", "rms_norm.weight")}
            else:
                stored, read = _read(checkpoint, names[id(weight)], weight)
                used.add(read)
                is_table = isinstance(module, nn.Embedding) or module is head
                packed[id(weight)] = _packed(stored, embedding_bits if is_table else None)
        found = packed[id(weight)]
        if found is None:
            continue
        activation: nn.Module | None = None
        if bitnet is not None and converted:
            activation = bitnet.activation(name, weight.shape[1])
        elif isinstance(module, nn.Linear):
            activation = _activation(name, found, activation_bits, checkpoint.input_floor)
        layers.append(Layer(name, found, activation))
    return layers, used


def _names_of_weights(model: nn.Module) -> dict[int, list[str]]:
    """The names of every parameter; a tied one has several."""
    names: dict[int, list[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        names.setdefault(id(parameter), []).append(name)
    return names


def _read(checkpoint: Checkpoint, names: list[str], weight: Tensor) -> tuple[Tensor, str]:
    """Read a weight under the name that the checkpoint has it by."""
    name = next((name for name in names if name in checkpoint.names), names[0])
    stored = checkpoint.tensor(name)
    if stored.shape != weight.shape or not stored.is_floating_point():
        dtype = str(stored.dtype).removeprefix("torch.")
        raise FormatError(
            f"{name} in {checkpoint.path} is {dtype} {list(stored.shape)}: expected floats "
            f"{list(weight.shape)}, or a quantization_config of the method 'bitnet' that says what it is"
        )
    return stored, name


def _packed(weight: Tensor, bits: int | None) -> FrozenWeight | None:
    if bits == Encoding.INT8.bits:
        return FrozenWeight.from_quantizer(WeightQuantizer(Encoding.INT8), weight)
    return stored_weight(weight)


def _activation(name: str, weight: FrozenWeight, bits: int | None, floor: float | None) -> nn.Module:
    """The quantizer of the input of a layer of which no quantization config speaks.

    8-bit weights of one scale per row are multiplied with 8-bit activations in any case.
    """
    if weight.encoding is Encoding.INT8:
        return byte_activation()
    if (bits is None and floor is None) or not weight.encoding.quantized:
        return ActivationQuantizer(Encoding.FLOAT)
    if weight.scale.shape[1] > 1:
        raise FormatError(
            f"{name} has a scale for every {weight.columns // weight.scale.shape[1]} columns: 8-bit "
            "activations need one scale per row; leave activation_bits out"
        )
    return byte_activation(floor=floor or 0.0)
