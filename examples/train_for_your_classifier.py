# ---
# jupyter:
#   jupytext:
#     text_representation: {extension: .py, format_name: percent}
#   kernelspec: {display_name: Python 3, language: python, name: python3}
# ---

# %% [markdown]
# # Train an explainer for your own classifier
#
# This notebook trains a classifier of ten classes, explains it with a shipped explainer, trains an explainer for it,
# and compares the two. It takes about ten minutes on two CPU cores.
#
# The photographs are [Imagenette](https://github.com/fastai/imagenette), ten easy classes of ImageNet. Set the
# environment variable `LTX_PHOTOS` to use your own: a folder with `train/CLASS/*.jpg` and `val/CLASS/*.jpg`. Training
# an explainer needs no labels; only the classifier does.

# %%
import os
import random
from pathlib import Path

import torch
from IPython.display import Markdown
from torch import nn

import ltx
from ltx.data.finding import find_images
from ltx.data.reading import load_images
from ltx.evaluation.run import evaluate
from ltx.evaluation.settings import EvaluationConfig

if "LTX_PHOTOS" in os.environ:
    photos = Path(os.environ["LTX_PHOTOS"])
else:
    from torchvision.datasets import Imagenette

    Imagenette("out/photos", split="train", size="160px", download=not Path("out/photos/imagenette2-160").exists())
    photos = Path("out/photos/imagenette2-160")

out = Path("out/train_for_your_classifier")
out.mkdir(parents=True, exist_ok=True)
folders = sorted(folder.name for folder in (photos / "train").iterdir() if folder.is_dir())
folders

# %% [markdown]
# The folders of Imagenette have WordNet numbers as names. These are their classes, in the same order.

# %%
imagenette = ["tench", "English springer", "cassette player", "chain saw", "church"]
imagenette += ["French horn", "garbage truck", "gas pump", "golf ball", "parachute"]
class_names = imagenette if folders[0] == "n01440764" else folders

# %% [markdown]
# ## A classifier
#
# A linear head on the frozen trunk of EfficientNet-Lite0, trained on the features of 60 photographs of each class.
# Any timm model that you finetuned yourself works in the same way: its weights in a file, and the number and names of
# its classes.

# %%
draws = random.Random(0)
files, labels = [], []
for label, folder in enumerate(folders):
    found = find_images(photos / "train" / folder)
    chosen = draws.sample(found, min(60, len(found)))
    files += chosen
    labels += [label] * len(chosen)

trunk = ltx.Classifier("tf_efficientnet_lite0")
features = []
with torch.no_grad():
    for first in range(0, len(files), 32):
        images = load_images(files[first : first + 32], trunk.input_size)
        _, maps = trunk.logits_and_features(images)
        features.append(maps.final.mean((2, 3)))
features, labels = torch.cat(features), torch.tensor(labels)
features.shape

# %%
torch.manual_seed(0)
head = nn.Linear(features.shape[1], len(folders))
optimiser = torch.optim.AdamW(head.parameters(), lr=1e-2)
for _ in range(200):
    loss = nn.functional.cross_entropy(head(features), labels)
    optimiser.zero_grad()
    loss.backward()
    optimiser.step()

weights = trunk.model.state_dict() | {"classifier.weight": head.weight.detach(), "classifier.bias": head.bias.detach()}
torch.save(weights, out / "classifier.pth")

# %%
settings = {
    "weights": str(out / "classifier.pth"),
    "num_classes": len(folders),
    "class_names": class_names,
}
classifier = ltx.Classifier("tf_efficientnet_lite0", **settings)
held_out = [file for folder in folders for file in find_images(photos / "val" / folder)[:4]]
images = load_images(held_out, classifier.input_size)
truth = torch.tensor([folders.index(file.parent.name) for file in held_out])
accuracy = (classifier(images).argmax(1) == truth).float().mean()
print(f"accuracy on {len(held_out)} held-out photographs: {accuracy:.0%}")

# %% [markdown]
# ## Explain it without training
#
# The shipped explainer reads the features of the trunk and the class's row of the head. The trunk is the same, so it
# explains this head, which it has never seen.

# %%
shipped = ltx.load("tf_efficientnet_lite0", **settings)
shipped.explain(images).plot(0)

# %% [markdown]
# ## Train an explainer for it
#
# The explainer learns from the training photographs, without their labels. `ltx train classifier.weights=…
# data.images=…` is the same from the command line. Use more steps for an explainer that you want to rely on.

# %%
explainer = ltx.pretrain(
    classifier, images=files, steps=150, out=out / "explainer", settings=["trainer.progress=false"]
)

# %%
explainer.explain(images).plot(0)

# %% [markdown]
# ## Compare them
#
# On held-out photographs, with Grad-CAM and random scores as controls. With so few photographs and steps, only large
# differences mean something.

# %%
config = EvaluationConfig(
    methods=[f"trained=ltx:{out / 'explainer'}", "shipped=ltx:tf_efficientnet_lite0", "gradcam", "random"],
    images=[str(file) for file in held_out],
    protocol="ltx",
    out=str(out / "scores"),
)
config.classifier.weights = settings["weights"]
config.classifier.num_classes = settings["num_classes"]
config.classifier.class_names = class_names
scores = evaluate(config)

# %%
rows = ["| | POS ↓ | NEG ↑ | DEL ↓ | INS ↑ |", "|---|---|---|---|---|"]
for method, metrics in scores["methods"].items():
    values = (f"{metrics[key]['mean']:.1f}" for key in ("POS", "NEG", "DEL", "INS"))
    rows.append(f"| {method} | {' | '.join(values)} |")
Markdown("\n".join(rows))

# %% [markdown]
# After 150 steps the trained explainer is close to Grad-CAM. The shipped one has seen many more images and is ahead of
# both. To improve on it, train longer, on more photographs, or start from its weights:
# `settings=["init=tf_efficientnet_lite0"]`.

# %% [markdown]
# ## Use it
#
# The folder is a checkpoint: `ltx.load`, `ltx finetune checkpoint=…` and `ltx evaluate methods=[ltx:…]` take it.

# %%
sorted(file.name for file in (out / "explainer").iterdir())
