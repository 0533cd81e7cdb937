"""The losses of TRL's DPO trainer beside DPO's own."""

from typing import Any, ClassVar

from isoalign import Conditions, Lab, Paper, Rows, register, trl
from isoalign.baselines.trl_dpo import TRLDPO

LOSSES = (
    "sigmoid", "hinge", "ipo", "exo_pair", "nca_pair", "robust", "bco_pair", "sppo_hard", "aot", "aot_unpaired", "apo_zero",
    "apo_down", "discopop", "sigmoid_norm",
)  # fmt: skip
SCORED = ("sigmoid", "sigmoid_norm", "hinge", "ipo", "exo_pair", "robust", "discopop")
UNWEIGHED = ("aot", "aot_unpaired", "hinge")  # TRL 1.16 multiplies in place what the hinge keeps for its gradient
DIVERGENCES = ("reverse_kl", "forward_kl", "js_divergence", "alpha_divergence")
AOT = ("Melnyk et al.", "Distributional Preference Alignment of LLMs via Optimal Transport", 2024, "2406.05882")
APO = ("D'Oosterlinck et al.", "Anchored Preference Optimization and Contrastive Revisions", 2024, "2408.06266")
F_DPO = (
    "Wang et al.", "Beyond Reverse KL: Generalizing Direct Preference Optimization with Diverse Divergence Constraints", 2023,
    "2309.16240",
)  # fmt: skip


def row(*paper: Any, **told: Any) -> dict[str, Any]:
    """A loss of a paper; none but DPO's own has a closed form to hold ``beta`` to."""
    parity = "test_trl_pairs.py: the paper's first loss"
    return {"paper": Paper(*paper, family="pairs", learns_from="pairs", parity=parity, **told), "kl_price": ""}


@register
class TRLPairs(TRLDPO):
    """``trl.DPOTrainer`` with any loss that it has; by default that of Lambert et al. 2024, "Tulu 3", which
    is DPO's on log-ratios per token.

    ``loss_type``: one of its losses; ``label_smoothing``: probability that a verdict is wrong (exo_pair, robust, aot).
    ``discopop_tau``: temperature of discopop. ``f_divergence``: the penalty on the distance from the base, with
    ``alpha`` of the alpha-divergence. ``ld_alpha``: weight of what an answer has beyond the length of the shorter one
    (1: all). ``weighting``: pairs count by their likelihood under the policy. ``sft_weight``: of the likelihood of the chosen
    answers, averaged over all their tokens. The other settings are those of ``trl_dpo``.
    """

    kl_price: ClassVar[str] = ""
    acts_with: ClassVar[Conditions] = {
        "label_smoothing": ("loss_type", ("exo_pair", "robust", "aot", "aot_unpaired")),
        "discopop_tau": ("loss_type", ("discopop",)),
        "f_divergence": ("loss_type", SCORED),
        "alpha": ("f_divergence", ("alpha_divergence",)),
        "weighting": ("loss_type", tuple(each for each in LOSSES if each not in UNWEIGHED)),
    }

    paper: ClassVar[Paper] = Paper(
        "Lambert et al.", "Tulu 3: Pushing Frontiers in Open Language Model Post-Training", 2024, "2411.15124",
        "section 5.1, length-normalized DPO", family="pairs", learns_from="pairs, by log-ratios per token",
        values={"beta": "5", "batch_size": "128", "lr": "5e-7"}, parity="test_trl_pairs.py: the paper's first loss",
    )  # fmt: skip

    rows: ClassVar[Rows] = {
        "trl_hinge": row(
            "Zhao et al.", "SLiC-HF: Sequence Likelihood Calibration with Human Feedback", 2023, "2305.10425",
            "section 2, with log-ratios to the base", values={"batch_size": "512", "lr": "1e-4"},
        ),
        "trl_exo": row(
            "Ji et al.", "Towards Efficient Exact Optimization of Language Model Alignment", 2024, "2402.00856", "eq. 16",
            values={"beta": "0.1 to 0.5", "batch_size": "64", "lr": "1e-6"},
        ),
        "trl_nca": row(
            "Chen et al.", "Noise Contrastive Alignment of Language Models with Explicit Rewards", 2024, "2402.05369",
            "section 4.1, for pairs", values={"beta": "0.01", "batch_size": "32", "lr": "5e-6"},
        ),
        "trl_bco_pair": row(
            "Jung et al.", "Binary Classifier Optimization for Large Language Model Alignment", 2024, "2404.04656",
            "section 4, without the reward shift", values={"beta": "0.01", "batch_size": "128", "lr": "5e-7"},
        ),
        "trl_sppo_hard": row(
            "Wu et al.", "Self-Play Preference Optimization for Language Model Alignment", 2024, "2405.00675",
            "eq. 4.7, with hard verdicts and the base as opponent", values={"batch_size": "64", "lr": "5e-7"},
        ),
        "trl_aot": row(*AOT, "section 3, paired"),
        "trl_aot_unpaired": row(*AOT, "section 3, unpaired"),
        "trl_apo_zero": row(*APO, "eq. 7", values={"beta": "0.1", "batch_size": "64", "lr": "2e-7"}),
        "trl_apo_down": row(*APO, "eq. 8", values={"beta": "0.1", "batch_size": "64", "lr": "2e-7"}),
        "trl_discopop": row(
            "Lu et al.", "Discovering Preference Optimization Algorithms with and for Large Language Models", 2024,
            "2406.08414", "eq. 5", values={"beta": "0.05", "discopop_tau": "0.05", "batch_size": "64", "lr": "5e-7"},
        ),
        "trl_rpo": row(
            "Pang et al.", "Iterative Reasoning Preference Optimization", 2024, "2404.19733", "eq. 1",
            values={"beta": "0.1", "sft_weight": "1"},
        ),
        "trl_wpo": row(
            "Zhou et al.", "WPO: Enhancing RLHF with Weighted Preference Optimization", 2024, "2406.11827", "eq. 2",
            values={"beta": "0.01", "lr": "5e-7"},
        ),
        "trl_ld_dpo": row(
            "Liu et al.", "Length Desensitization in Direct Preference Optimization", 2024, "2409.06411",
            "section 4, the decoupled likelihood",
        ),
        "trl_forward_kl": row(*F_DPO, "theorem 1, forward KL"),
        "trl_js": row(*F_DPO, "theorem 1, Jensen-Shannon"),
        "trl_alpha": row(*F_DPO, "theorem 1, alpha-divergence", values={"alpha": "0.3 to 0.7"}),
    }  # fmt: skip

    beta: float = 2.0
    loss_type: str = "sigmoid_norm"
    label_smoothing: float = 0.0
    discopop_tau: float = 0.05
    f_divergence: str = "reverse_kl"
    alpha: float = 0.5
    ld_alpha: float = 1.0
    weighting: bool = False
    sft_weight: float = 0.0

    def __post_init__(self) -> None:
        if self.loss_type not in LOSSES:
            raise ValueError(f"loss_type must be one of {', '.join(LOSSES)}, not {self.loss_type!r}")
        if self.f_divergence not in DIVERGENCES:
            raise ValueError(f"f_divergence must be one of {', '.join(DIVERGENCES)}, not {self.f_divergence!r}")
        if not 0 <= self.label_smoothing < 0.5:
            raise ValueError(f"label_smoothing must lie in [0, 0.5), not {self.label_smoothing}")
        if self.loss_type == "exo_pair" and not self.label_smoothing:
            raise ValueError("label_smoothing must be above 0: exo_pair has its logarithm")
        if not 0 <= self.ld_alpha <= 1 or self.discopop_tau <= 0 or self.sft_weight < 0:
            raise ValueError("ld_alpha must lie in [0, 1], discopop_tau be above 0 and sft_weight 0 or more")
        if self.weighting and self.sft_weight:
            raise ValueError("weighting and sft_weight exclude one another: TRL's trainer can't weigh its SFT loss")

    def train(self, lab: Lab) -> None:
        """Train on the pairs of ``dpo``, in the same order."""
        sft = {"loss_type": [self.loss_type, "sft"], "loss_weights": [1.0, self.sft_weight]}
        loss: dict[str, Any] = sft if self.sft_weight else {"loss_type": self.loss_type}
        trl.train(
            lab, "DPOTrainer", lambda: trl.preferences(lab.pairs(self.batch_size)), beta=self.beta, max_length=None,
            label_smoothing=self.label_smoothing, discopop_tau=self.discopop_tau, f_divergence_type=self.f_divergence,
            f_alpha_divergence_coef=self.alpha, ld_alpha=None if self.ld_alpha == 1 else self.ld_alpha,
            use_weighting=self.weighting, **loss,
        )  # fmt: skip
