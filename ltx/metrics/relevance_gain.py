"""Symmetric relevance gain: one figure for both orders of removal.

POS and DEL alone reward scattered pixels, NEG and INS alone reward smooth maps. Their difference rewards neither: it is
the gain of removing the least relevant pixels first over removing the most relevant ones first. Random maps score 0 in
expectation, and reversing the order of a map negates its score.

Blücher et al., Decoupling Pixel Flipping and Occlusion Strategy for Consistent XAI Benchmarks, TMLR 2024,
arXiv:2401.06654, equation 3 (SRG = LIF - MIF).
"""

BLUECHER = (
    "symmetric relevance gain of Blücher et al., Decoupling Pixel Flipping and Occlusion Strategy for Consistent XAI "
    "Benchmarks, TMLR 2024"
)
