"""The settings that rebuild a checkpoint's classifier in another process."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from ltx.classifier.classifier import Classifier
from ltx.classifier.own_modules import is_import_path
from ltx.classifier.settings import ClassifierConfig
from ltx.runtime.errors import InputError

OBJECT = "object:"
"""Prefix of the name of a classifier that was given as an object and cannot be rebuilt."""


def rebuild_settings(classifier: Classifier) -> ClassifierConfig:
    """The settings of a classifier, for a checkpoint's configuration.

    The names of the classes are stored themselves, since their file may not be where the checkpoint is used. A module
    that was given as an object, or with a `forward` function, is only named: `object:NAME`.
    """
    setup = classifier.setup
    request, layers = setup.request, setup.layers
    rebuildable = isinstance(request.name, str) and setup.forward is None
    return ClassifierConfig(
        name=str(request.name) if rebuildable else f"{OBJECT}{classifier.name}",
        weights=None if request.weights is None else str(request.weights),
        num_classes=setup.num_classes,
        class_names=None if setup.class_names is None else list(classifier.class_names),
        head=setup.head,
        input_size=None if request.size is None else list(request.size),
        mean=None if setup.mean is None else list(setup.mean),
        std=None if setup.std is None else list(setup.std),
        precision=setup.precision,
        channels=request.channels,
        weights_key=request.weights_key,
        options=dict(request.options),
        features=None if layers.features is None else list(layers.features),
        head_layer=layers.head,
        grid=None if layers.grid is None else list(layers.grid),
        prefix_tokens=layers.prefix_tokens,
    )


def rebuild(folder: Path, settings: ClassifierConfig, changes: dict[str, Any], trust: bool) -> Classifier:
    """Build the classifier of a checkpoint.

    Args:
        folder: the checkpoint, for messages.
        settings: as stored in its configuration.
        changes: settings that differ; None or an empty dictionary = as stored, but precision `"fp32"`.
        trust: whether a function that only the checkpoint names may be imported and called.

    Raises:
        InputError: an object that cannot be rebuilt, a function that is not trusted, or see `ltx.Classifier`.
    """
    changed = {key: value for key, value in changes.items() if value is not None and value != {}}
    classes = changed.get("num_classes", settings.num_classes)
    if classes != settings.num_classes and "class_names" not in changed:
        changed["class_names"] = None  # the stored names are those of other classes
    if "name" not in changed and settings.name.startswith(OBJECT):
        raise InputError(
            f"checkpoint={folder} was trained for a {settings.name.removeprefix(OBJECT)} that was given as an object; "
            "pass the classifier, ltx.load(FOLDER, classifier), or name a function that builds the module, "
            "classifier.name=package.module:function"
        )
    if "name" not in changed and is_import_path(settings.name) and not trust:
        raise InputError(
            f"checkpoint={folder} builds its classifier by importing and calling {settings.name}, which runs that "
            "code; if you trust it, set trust=true"
        )
    if "class_names" not in changed and isinstance(settings.class_names, str):
        # Training stores the names themselves. A path could be that of any file of the user.
        raise InputError(
            f"checkpoint={folder} names a file of class names, {settings.class_names}, instead of the names; give "
            "classifier.class_names=FILE if they are those of the classifier"
        )
    try:
        return replace(settings, **{"precision": "fp32", **changed}).build()
    except InputError as error:  # the stored settings may be the wrong ones, and not those that the user gave
        raise InputError(f"checkpoint={folder}: its classifier cannot be built: {error}") from error
    except TypeError as error:
        raise InputError(f"ltx.load({str(folder)!r}): {error}; changes are settings of ltx.Classifier") from error
