"""The examples in the docstrings of public callables run, and their sections name every argument.

An example finds a finished model in outputs/demo/model, a picture in picture.png and captioned pictures in pictures;
`pipe`, `vqlm`, `torch` and `transformers` stand for what earlier examples have loaded and imported.
"""

import doctest
import inspect
import pkgutil
import re
import warnings
from pathlib import Path

import pytest
import torch
import transformers

import vqlm

# By their names in `vqlm`: a function, a class, a method (`VQVAE.encode`), or a class with all public methods (`.*`).
# Functions of a module that `vqlm` does not name: `module:function`.
DOCUMENTED = [
    "TextToImagePipeline.*",
    "TextToImageProcessor.*",
    "MixedRowLogitsProcessor.*",
    "VQVAE",
    "VQVAE.forward",
    "VQVAE.encode",
    "VQVAE.decode_codes",
    "VQVAE.from_pretrained",
    "VQVAE.save_pretrained",
    "VQVAE.fingerprint",
    "VQVAE.flatten_codes",
    "VQVAEImageProcessor",
    "VQVAEImageProcessor.preprocess",
    "load_image_tokenizer",
    "train_vq",
    "load_collection",
    "load_pictures",
    "prepare",
    "PreparedSet",
    "PreparedSet.load",
    "PreparedSet.load_image_tokenizer",
    "PreparedSet.codes_of",
    "PreparedSet.code_parts",
    "PreparedSet.pictured",
    "Vocabulary",
    "Vocabulary.build",
    "Vocabulary.train",
    "Vocabulary.extend",
    "Vocabulary.encode_text",
    "Vocabulary.decode_text",
    "Vocabulary.codes_to_ids",
    "Vocabulary.ids_to_codes",
    "Vocabulary.save_pretrained",
    "Vocabulary.from_pretrained",
    "train_lm",
    "vqlm.lm.evaluate.report:evaluate",
    "vqlm.lm.decoding.stepper:Stepper",
]
OPTIONS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE


def documented_callables() -> dict[str, object]:
    """The functions, classes and methods of our package that `DOCUMENTED` names, by name."""
    callables = {}
    for entry in DOCUMENTED:
        if ":" in entry:
            callables[entry] = pkgutil.resolve_name(entry)
            continue
        name, _, method = entry.partition(".")
        thing = getattr(vqlm, name)
        if method not in ("", "*"):
            callables[entry] = getattr(thing, method)
            continue
        callables[name] = thing
        if method == "*":
            callables |= {
                f"{name}.{member}": value
                for member, value in inspect.getmembers(thing, callable)
                if (member == "__call__" or not member.startswith("_")) and _is_ours(value)
            }
    return callables


def _is_ours(value: object) -> bool:
    return (getattr(value, "__module__", None) or "").startswith("vqlm.")


CALLABLES = documented_callables()


@pytest.fixture
def names(demo_pipeline, picture_folder) -> dict[str, object]:
    """What the examples may use, in a working folder that holds what they read."""
    assert Path("pictures").is_dir()  # `picture_folder`
    return {"pipe": demo_pipeline, "vqlm": vqlm, "torch": torch, "transformers": transformers}


@pytest.mark.parametrize("name", CALLABLES)
def test_examples_run(name, names):
    text = inspect.getdoc(CALLABLES[name]) or ""
    example = doctest.DocTestParser().get_doctest(text, names, name, None, None)
    assert example.examples, f"{name} has no example"
    report: list[str] = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about a model of a few weights
        failed, _ = doctest.DocTestRunner(optionflags=OPTIONS).run(example, out=report.append)
    assert not failed, "".join(report)


@pytest.mark.parametrize("name", CALLABLES)
def test_every_argument_is_described(name):
    thing = CALLABLES[name]
    text = inspect.getdoc(thing) or ""
    signature = inspect.signature(thing.__init__ if inspect.isclass(thing) else thing)
    arguments = [
        argument for argument in signature.parameters if argument not in ("self", "cls", "_", "args", "kwargs")
    ]
    if arguments:
        assert "Args:" in text
        described = text.split("Args:")[1].split("\n\n")[0]
        missing = [argument for argument in arguments if not re.search(rf"\b{argument}\b", described)]
        assert not missing, f"{name} does not describe {missing}"
    if not inspect.isclass(thing) and signature.return_annotation not in (None, "None", inspect.Signature.empty):
        assert "Returns:" in text
