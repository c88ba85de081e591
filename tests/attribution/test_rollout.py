import pytest
import torch

from ltx import Classifier
from ltx.attribution.attention import attention_chain
from ltx.attribution.attribute import attribute
from ltx.attribution.rollout import roll_out
from tests.support.reference_vit import ReferenceViT, as_map, rollout
from tests.support.toy_models import vit


def test_rollout_of_two_blocks_by_hand():
    first = torch.tensor([[[0.0, 1.0], [0.5, 0.5]]])
    last = torch.tensor([[[0.5, 0.5], [1.0, 0.0]]])
    start = torch.tensor([1.0, 0.0])
    # Normalised C + I: first = [[1/2, 1/2], [1/4, 3/4]], last = [[3/4, 1/4], [1/2, 1/2]]; row 0 of last @ first.
    assert roll_out([first, last], start) == pytest.approx(torch.tensor([[0.4375, 0.5625]]))
    # Without normalisation: row 0 of [[1.5, .5], [1, 1]] @ [[1, 1], [.5, 1.5]].
    assert roll_out([first, last], start, normalise=False) == pytest.approx(torch.tensor([[1.75, 2.25]]))


def test_attention_methods_equal_full_matrix_products(transformer, wide_images):
    reference, targets = ReferenceViT(transformer), [1, 4, 0]
    maps = {m: attribute(m, transformer, wide_images, targets) for m in ("gradient_rollout", "gae")}
    maps["attention_rollout"] = attribute("attention_rollout", transformer, wide_images)
    for row, target in enumerate(targets):
        relevances = reference.relevances(reference.normalise(wide_images[row : row + 1]), target)
        expected = {
            "attention_rollout": rollout([a[0].mean(0).detach() for a in reference.attention]),
            "gradient_rollout": rollout(relevances),
        }
        joint = torch.eye(7, dtype=torch.float64)
        for relevance in relevances:
            joint = joint + relevance @ joint
        expected["gae"] = joint[0, 1:]
        for method, tokens in expected.items():
            torch.testing.assert_close(maps[method][row : row + 1].double(), as_map(tokens), rtol=1e-5, atol=1e-6)


def test_last_matrix_may_have_only_the_rows_that_are_read():
    generator = torch.Generator().manual_seed(0)
    first, last = torch.rand(2, 3, 5, 5, generator=generator)
    start = torch.tensor([0.5, 0.5, 0, 0, 0])
    for normalise in (True, False):
        narrow = roll_out([first, last[:, :2]], start, normalise)
        torch.testing.assert_close(narrow, roll_out([first, last], start, normalise))


def test_rollout_starts_at_every_token_read_by_attention_pooling():
    """This model's pooling also reads the class token: the head's gradient at the last block is nowhere zero."""
    classifier = Classifier("test_vit3", weights="random", num_classes=5, input_size=64)
    outputs = []
    handle = classifier.model.blocks[-1].register_forward_hook(lambda _, __, output: outputs.append(output))
    images = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0)).requires_grad_()
    score = classifier(images)[0, 0]
    handle.remove()
    (gradient,) = torch.autograd.grad(score, outputs)
    rows_read = gradient[0].abs().sum(1) > 0
    assert rows_read.all()
    assert torch.equal(attention_chain(classifier).start > 0, rows_read)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, [1, 0, 0, 0, 0, 0, 0]),
        ({"distilled": True}, [0.5, 0.5, 0, 0, 0, 0, 0, 0]),
        ({"reg_tokens": 2}, [1, 0, 0, 0, 0, 0, 0, 0, 0]),
        ({"global_pool": "avg"}, [0] + [1 / 6] * 6),
        ({"global_pool": "max"}, [0] + [1 / 6] * 6),
        ({"global_pool": "map", "class_token": False}, [1 / 6] * 6),
    ],
)
def test_rollout_starts_at_the_tokens_that_the_head_reads(options, expected, wide_images):
    classifier = Classifier(vit(**options), input_size=(16, 24))
    assert attention_chain(classifier).start.tolist() == pytest.approx(expected)
    maps = attribute("gradient_rollout", classifier, wide_images)
    assert maps.shape == (3, 1, 16, 24)
    assert maps.std() > 0


def test_an_untrained_head_of_zeros_is_read_at_the_class_token():
    model = vit()
    torch.nn.init.zeros_(model.head.weight)
    assert attention_chain(Classifier(model, input_size=(16, 24))).start.tolist() == [1, 0, 0, 0, 0, 0, 0]
