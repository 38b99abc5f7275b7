"""Files of models made for tests, good ones and others."""

import json
import os

import pytest
from safetensors.torch import save

from perceptual_ops.recipes import StyleNet, load_model
from perceptual_ops.recipes.model_file import KEY

FACTS = {"version": 1, "kind": "style", "scale": 1, "multiple": 1, "network": "StyleNet"}
FACTS["arguments"] = {"width": 1, "blocks": 0}
REMOVED = object()


def content(**changes):
    """The bytes of a model file with other facts."""
    facts = {name: value for name, value in {**FACTS, **changes}.items() if value is not REMOVED}
    return with_text(json.dumps(facts))


def with_text(text):
    return save(StyleNet(1, 0).state_dict(), {KEY: text})


def with_weights(change):
    weights = StyleNet(1, 0).state_dict()
    change(weights)
    return save(weights, {KEY: json.dumps(FACTS)})


def refusal(path, **options):
    """The sentence in which a file is refused."""
    with pytest.raises((OSError, ValueError)) as caught:
        load_model(path, **options)
    text = str(caught.value)
    assert text and text.isprintable() and os.fspath(path) in text
    return text
