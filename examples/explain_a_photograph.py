# ---
# jupyter:
#   jupytext:
#     text_representation: {extension: .py, format_name: percent}
#   kernelspec: {display_name: Python 3, language: python, name: python3}
# ---

# %% [markdown]
# # Explain a photograph
#
# A shipped explainer shows which pixels EfficientNet-Lite0 relies on: in one forward pass, for any class, sharpened
# on this photograph, and as masks of any area. Everything here runs on a CPU and without a network connection.

# %%
import ltx
from ltx.data.finding import find_images
from ltx.data.reading import load_images

explainer = ltx.load("tf_efficientnet_lite0")
classifier = explainer.classifier

# %% [markdown]
# Images are float tensors in [0, 1] at the input size of the classifier. Use your own file instead of these
# photographs, which come with scikit-image.

# %%
files = [file for file in find_images("scikit-image") if file.stem in ("chelsea", "coffee")]
names = [file.name for file in files]
images = load_images(files, classifier.input_size)
images.shape

# %% [markdown]
# ## One forward pass
#
# `explain` returns an `Explanation` for the whole batch. Its mask is 1 where pixels are kept. The title of the
# picture shows the probability of the class for the full image, with the kept pixels alone, and without them.

# %%
explanation = explainer.explain(images, names=names)
explanation.plot(1)

# %% [markdown]
# The three probabilities tell how good an explanation is. For the espresso, the kept pixels preserve the prediction,
# and the image without them loses it. For the cat, one pass is not enough: the mask misses pixels that the prediction
# relies on.

# %%
explanation.plot(0)

# %% [markdown]
# ## Another class
#
# The explainer is conditioned on the class, so you can ask for any of them, by name or by index. Here: the second
# most likely class of the first photograph.

# %%
second = classifier(images[:1]).argsort(descending=True)[0, 1]
explainer.explain(images[:1], classifier.label(int(second))).plot(0)

# %% [markdown]
# ## Sharpen it on this image
#
# Finetuning adapts a copy of the decoder to each image of the batch. Compare *kept* and *removed* with those of the
# single pass.

# %%
finetuned = ltx.finetune(explainer, images, steps=25, names=names)
finetuned.plot(0)

# %%
for index in range(len(images)):
    for record in (explanation.record(index), finetuned.record(index)):
        kept, removed = record["probability_kept"], record["probability_removed"]
        print(f"{record['label']:14} {record['steps']:2} steps: kept {kept:.2f}, removed {removed:.2f}")

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
for name, area, p in zip(names, smallest.areas, smallest.probability, strict=True):
    print(f"{name}: {area:.0%} of the image gives a probability of {p:.2f}")

# %% [markdown]
# ## Save the results
#
# Each image gets a picture, an `.npz` with image, map and mask, and a line of `explanations.jsonl`. `ltx finetune
# images=…` writes the same files from the command line, and a page, `index.html`.

# %%
[file.name for file in finetuned.save("out/explain_a_photograph")]
