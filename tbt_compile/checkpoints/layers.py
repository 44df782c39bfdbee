"""How each linear layer and embedding of a checkpoint is stored, and what quantizes its input."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn
from transformers import PreTrainedModel

from tbt_compile.adapters import adapter_for
from tbt_compile.checkpoints.bitnet import BitNetLinears, byte_activation
from tbt_compile.checkpoints.source import Checkpoint
from tbt_compile.checkpoints.stored_weights import stored_weight
from tbt_compile.dtypes import dtype_name
from tbt_compile.encoding import Encoding
from tbt_compile.errors import FormatError
from tbt_compile.modules.family import replaces_forward
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
) -> list[Layer]:
    """Read the weights of all linear layers and embeddings, one at a time.

    Args:
        model: without weights.
        checkpoint: its tensors.
        activation_bits: 8 to quantize the inputs of layers with packed weights that the checkpoint leaves in
            full precision.
        embedding_bits: 8 to quantize the token embedding and the output projection by row.

    Returns:
        The layers. Those in float32 are left out, and those whose class computes in its own way.

    Raises:
        FormatError: a weight is missing or of another shape, or a layer cannot have 8-bit activations.
    """
    config = getattr(model.config, "quantization_config", None)
    bitnet = BitNetLinears(config, model, checkpoint.tensor) if config else None
    names = names_of_parameters(model)
    ends = (model.get_input_embeddings(), model.get_output_embeddings())
    tables = {id(module.weight) for module in ends if module is not None}
    packed: dict[int, FrozenWeight | None] = {}
    layers = []
    for name, module in model.named_modules():
        weight = module._parameters.get("weight")
        if weight is None or not _is_layer(model, module):
            continue
        converted = bitnet is not None and name in bitnet.names
        if id(weight) not in packed:
            if bitnet is not None and converted:
                packed[id(weight)] = bitnet.read(name, weight.shape)
            else:
                stored = _read(checkpoint, names[id(weight)], weight)
                packed[id(weight)] = _packed(stored, embedding_bits if id(weight) in tables else None)
        found = packed[id(weight)]
        if found is None:
            continue
        activation: nn.Module | None = None
        if bitnet is not None and converted:
            activation = bitnet.activation(name, weight.shape[1])
        elif isinstance(module, nn.Linear):
            activation = _activation(name, found, activation_bits, checkpoint.input_floor)
        layers.append(Layer(name, found, activation))
    return layers


def names_of_parameters(model: nn.Module) -> dict[int, list[str]]:
    """The names of every parameter by its identity; a tied one has several."""
    names: dict[int, list[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        names.setdefault(id(parameter), []).append(name)
    return names


def _is_layer(model: nn.Module, module: nn.Module) -> bool:
    """Whether a module is a linear layer or embedding that computes as its base class does."""
    if not isinstance(module, nn.Linear | nn.Embedding):
        return False
    form = adapter_for(model).quantized_form(module)
    return form is not None and not replaces_forward(type(module), form)


def _read(checkpoint: Checkpoint, names: list[str], weight: Tensor) -> Tensor:
    """Read a weight of real values."""
    stored = checkpoint.tied(names)
    if not stored.is_floating_point():
        raise FormatError(
            f"{names[0]} in {checkpoint.path} is {dtype_name(stored.dtype)}: expected floats, or a "
            "quantization_config of the method 'bitnet' that says what it is"
        )
    if stored.shape != weight.shape:
        raise FormatError(
            f"{names[0]} in {checkpoint.path} is {list(stored.shape)}: expected {list(weight.shape)}"
        )
    return stored


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
