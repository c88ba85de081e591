# ---
# jupyter:
#   jupytext:
#     text_representation: {extension: .py, format_name: percent}
#   kernelspec: {display_name: Python 3, language: python, name: python3}
# ---

# %% [markdown]
# # Explain a photograph
#
# A shipped explainer shows which pixels EfficientNet-Lite0 relies on: in one forward pass, for any class, sharpened on this
# photograph, and as masks of any area. Everything here runs on a CPU and without a network connection.

# %%
import ltx
from ltx.data.finding import find_images
from ltx.data.reading import load_images

explainer = ltx.load("tf_efficientnet_lite0")
classifier = explainer.classifier

# %% [markdown]
# Images are float tensors in [0, 1] at the input size of the classifier. Use your own file instead of these photographs, which
# come with scikit-image.

# %%
files = [file for file in find_images("scikit-image") if file.stem in ("chelsea", "coffee")]
images = load_images(files, classifier.input_size)
images.shape

# %% [markdown]
# ## One forward pass
#
# `explain` returns an `Explanation` for the whole batch. Its mask is 1 where pixels are kept. The title of the picture shows the
# probability of the class for the full image, with the kept pixels alone, and without them.

# %%
explanation = explainer.explain(images)
explanation.plot(0)

# %%
explanation.plot(1)

# %%
for name, label, p, kept, removed in zip(
    files,
    explanation.labels,
    explanation.probability,
    explanation.probability_kept,
    explanation.probability_removed,
    strict=True,
):
    print(f"{name.stem}: {label} {p:.2f}, kept {kept:.2f}, removed {removed:.2f}")

# %% [markdown]
# ## Another class
#
# The explainer is conditioned on the class, so you can ask for any of them, by name or by index. Here: the second most likely class of the
# first photograph.

# %%
second = classifier(images[:1]).argsort(descending=True)[0, 1]
explainer.explain(images[:1], classifier.label(int(second))).plot(0)

# %% [markdown]
# ## Sharpen it on this image
#
# Finetuning adapts a copy of the decoder to each image. Compare *kept* and *removed* with those of the single pass.

# %%
finetuned = ltx.finetune(explainer, images, steps=25)
finetuned.plot(0)

# %% [markdown]
# ## Masks of any area
#
# A second shipped explainer takes the area as an input. It was trained with blurred pixels in place of removed ones.

# %%
by_area = ltx.load("tf_efficientnet_lite0_inr").explain(images, fill="blur")
by_area.plot_areas(0)

# %% [markdown]
# How small can the mask be and still preserve half of the probability?

# %%
smallest = by_area.by_area.smallest_sufficient(share=0.5)
for name, area, p in zip(files, smallest.areas, smallest.probability, strict=True):
    print(f"{name.stem}: {area:.0%} of the image gives a probability of {p:.2f}")

# %% [markdown]
# ## Save the results
#
# Each image gets a picture, an `.npz` with image, map and mask, and a line of `explanations.jsonl`. `ltx finetune images=…` writes
# the same files from the command line.

# %%
[file.name for file in finetuned.save("out/explain_a_photograph")]
