# ---
# jupyter:
#   jupytext:
#     text_representation: {extension: .py, format_name: percent}
#   kernelspec: {display_name: Python 3, language: python, name: python3}
# ---

# %% [markdown]
# # Compare methods
#
# Look at several methods side by side, then measure them on the same images under the same protocol, with controls.
# Nine photographs are far too few for conclusions; use hundreds of images that neither the classifier nor the
# explainer was trained on.

# %%
import matplotlib.pyplot as plt
from IPython.display import Image, Markdown

import ltx
from ltx.data.finding import find_images
from ltx.data.reading import load_images
from ltx.evaluation.run import evaluate
from ltx.evaluation.settings import EvaluationConfig

explainer = ltx.load("tf_efficientnet_lite0")
classifier = explainer.classifier
names = ("chelsea", "coffee", "rocket")
files = [file for file in find_images("scikit-image") if file.stem in names]
images = load_images(files, classifier.input_size)

# %% [markdown]
# ## Look at them
#
# `ltx.attribute` computes a map `[B, 1, H, W]` with any method of the registry. The scale of a map depends on the
# method, so each picture has its own colour range.

# %%
maps = {"ltx, one pass": explainer.explain(images).maps, "ltx, 25 steps": ltx.finetune(explainer, images).maps}
for method in ("gradcam", "iia2", "integrated_gradients"):
    maps[method] = ltx.attribute(method, classifier, images)

# %%
labels = [classifier.label(int(index)) for index in classifier(images).argmax(1)]
figure, axes = plt.subplots(len(images), 1 + len(maps), figsize=(13, 7.2), layout="constrained")
for row, image in enumerate(images):
    pixels = (image.permute(1, 2, 0) * 255).byte().numpy()
    axes[row, 0].imshow(pixels)
    axes[row, 0].set_title(labels[row], size=9)
    for axis, (method, values) in zip(axes[row, 1:], maps.items(), strict=True):
        axis.imshow(pixels.mean(2), cmap="gray")
        axis.imshow(values[row, 0].numpy(), cmap="inferno", alpha=0.65)
        axis.set_title(method, size=9)
for axis in axes.flat:
    axis.set_axis_off()

# %% [markdown]
# ## Measure them
#
# `evaluate` is what `ltx evaluate` runs. POS and DEL should be low, NEG and INS high. `random` and `gaussian` are
# controls: a method that does not beat them on a metric has shown nothing on it.

# %%
config = EvaluationConfig(
    methods=["ltx:tf_efficientnet_lite0", "gradcam", "iia2", "integrated_gradients", "random", "gaussian"],
    images="scikit-image",
    protocol="ltx",
    out="out/compare_methods",
)
scores = evaluate(config)

# %%
rows = ["| | POS ↓ | NEG ↑ | DEL ↓ | INS ↑ |", "|---|---|---|---|---|"]
for method, metrics in scores["methods"].items():
    values = (f"{metrics[key]['mean']:.1f}" for key in ("POS", "NEG", "DEL", "INS"))
    rows.append(f"| {method} | {' | '.join(values)} |")
Markdown("\n".join(rows))

# %% [markdown]
# `curves.png` shows the probability of the class while pixels are removed, most important first and least important
# first. `scores.md` has all tables with confidence intervals and paired differences.

# %%
Image("out/compare_methods/curves.png")

# %% [markdown]
# ## Is it adversarial?
#
# Integrated Gradients has the lowest POS and DEL: scattered black pixels destroy a prediction soonest. Its NEG and
# INS are those of random scores, so the same pixels do not preserve the prediction. The differences NEG - POS and
# INS - DEL do not reward this: a scattered map loses in NEG and INS what it gains in POS and DEL.

# %%
for method, metrics in scores["methods"].items():
    mean = {key: metrics[key]["mean"] for key in ("POS", "NEG", "DEL", "INS")}
    print(f"{method:28} NEG - POS {mean['NEG'] - mean['POS']:6.1f}   INS - DEL {mean['INS'] - mean['DEL']:6.1f}")
