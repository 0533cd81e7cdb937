"""The metrics as modules of Hugging Face's ``evaluate``, for use outside isoalign. No run imports this file.

``load("toxicity")`` and ``Toxicity()`` give the same module, with ``compute``, ``add_batch`` and the rest of evaluate's
interface; ``evaluate.combine([...], force_prefix=True)`` joins several. Each module wraps a plain function, which can be
called without evaluate too, for example ``isoalign.evaluation.metrics.toxicity.toxicity(data, prompt_ids)``.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import datasets
import evaluate

from isoalign.core.errors import UserError, unknown
from isoalign.evaluation.metrics import calibration, diversity, kl, quality, reward_accuracy, reward_health, toxicity

NUMBER, INTEGER, TEXT = datasets.Value("float64"), datasets.Value("int64"), datasets.Value("string")
INTEGERS, VECTOR = datasets.Sequence(INTEGER), datasets.Sequence(datasets.Value("float32"))


@dataclass(frozen=True)
class Spec:
    """A function with its input columns and their types; its other arguments are options of ``compute``."""

    function: Callable[..., dict[str, Any]]
    columns: dict[str, Any]
    citation: str
    urls: tuple[str, ...] = ()


class FunctionModule(evaluate.EvaluationModule):
    """A plain function behind evaluate's interface, described by its docstring."""

    spec: ClassVar[Spec]

    def _info(self) -> evaluate.EvaluationModuleInfo:
        description, _, inputs = inspect.cleandoc(self.spec.function.__doc__ or "").partition("\n\n")
        info = evaluate.MetricInfo if isinstance(self, evaluate.Metric) else evaluate.MeasurementInfo
        return info(
            description=description,
            citation=self.spec.citation,
            inputs_description=inputs or description,
            features=datasets.Features(self.spec.columns),
            reference_urls=list(self.spec.urls),
        )

    def _compute(self, **inputs: Any) -> dict[str, Any]:
        return self.spec.function(**inputs)


TOXICITY = """\
@inproceedings{gehman2020realtoxicityprompts,
  title={RealToxicityPrompts: Evaluating Neural Toxic Degeneration in Language Models},
  author={Gehman, Samuel and Gururangan, Suchin and Sap, Maarten and Choi, Yejin and Smith, Noah A.},
  booktitle={Findings of EMNLP}, year={2020}}
@article{chen2021evaluating,
  title={Evaluating Large Language Models Trained on Code}, author={Chen, Mark and others},
  journal={arXiv:2107.03374}, year={2021}, note={the unbiased estimator at k of n draws}}"""
QUALITY = """\
@inproceedings{welleck2020neural,
  title={Neural Text Generation with Unlikelihood Training}, author={Welleck, Sean and others}, booktitle={ICLR},
  year={2020}, note={seq-rep-n}}
@article{zou2023universal,
  title={Universal and Transferable Adversarial Attacks on Aligned Language Models}, author={Zou, Andy and others},
  journal={arXiv:2307.15043}, year={2023}, note={refusals by phrase}}"""
DIVERSITY = """\
@inproceedings{li2016diversity,
  title={A Diversity-Promoting Objective Function for Neural Conversation Models}, author={Li, Jiwei and others},
  booktitle={NAACL}, year={2016}, note={distinct-n}}
@inproceedings{liu2022rethinking,
  title={Rethinking and Refining the Distinct Metric}, author={Liu, Siyang and others}, booktitle={ACL}, year={2022},
  note={EAD}}
@inproceedings{zhu2018texygen,
  title={Texygen: A Benchmarking Platform for Text Generation Models}, author={Zhu, Yaoming and others},
  booktitle={SIGIR}, year={2018}, note={self-BLEU}}
@inproceedings{chen2014systematic,
  title={A Systematic Comparison of Smoothing Techniques for Sentence-Level BLEU},
  author={Chen, Boxing and Cherry, Colin}, booktitle={WMT}, year={2014}}
@article{friedman2023vendi,
  title={The Vendi Score: A Diversity Evaluation Metric for Machine Learning},
  author={Friedman, Dan and Dieng, Adji Bousso}, journal={TMLR}, year={2023}}
@inproceedings{kirk2024understanding,
  title={Understanding the Effects of RLHF on LLM Generalisation and Diversity}, author={Kirk, Robert and others},
  booktitle={ICLR}, year={2024}, note={per input and across inputs}}"""
CALIBRATION = """\
@inproceedings{guo2017calibration,
  title={On Calibration of Modern Neural Networks}, author={Guo, Chuan and Pleiss, Geoff and Sun, Yu and
  Weinberger, Kilian}, booktitle={ICML}, year={2017}, note={temperature, ECE, reliability}}
@article{brier1950verification,
  title={Verification of Forecasts Expressed in Terms of Probability}, author={Brier, Glenn},
  journal={Monthly Weather Review}, year={1950}}
@article{bradley1952rank,
  title={Rank Analysis of Incomplete Block Designs}, author={Bradley, Ralph and Terry, Milton}, journal={Biometrika},
  year={1952}}"""
REWARD_MODELS = """\
@article{lambert2024rewardbench,
  title={RewardBench: Evaluating Reward Models for Language Modeling}, author={Lambert, Nathan and others},
  journal={arXiv:2403.13787}, year={2024}}
@inproceedings{gao2023scaling,
  title={Scaling Laws for Reward Model Overoptimization}, author={Gao, Leo and Schulman, John and Hilton, Jacob},
  booktitle={ICML}, year={2023}, note={proxy reward, and why on-policy accuracy falls}}"""
IMPLICIT_REWARDS = """\
@inproceedings{rafailov2023direct,
  title={Direct Preference Optimization: Your Language Model is Secretly a Reward Model},
  author={Rafailov, Rafael and others}, booktitle={NeurIPS}, year={2023}, note={the implicit reward, eq. 5}}
@article{chen2024preference,
  title={Preference Learning Algorithms Do Not Learn Preference Rankings}, author={Chen, Angelica and others},
  journal={arXiv:2405.19534}, year={2024}, note={ranking accuracy}}"""
DIVERGENCE = """\
@misc{schulman2020approximating,
  title={Approximating KL Divergence}, author={Schulman, John}, year={2020},
  howpublished={http://joschu.net/blog/kl-approx.html}}
@inproceedings{beirami2025theoretical,
  title={Theoretical Guarantees on the Best-of-n Alignment Policy}, author={Beirami, Ahmad and others},
  booktitle={ICML}, year={2025}, note={the bound of best-of-n}}"""

SINGLE = {"data": NUMBER, "prompt_ids": TEXT}
PAIRED = {"predictions": NUMBER, "references": NUMBER}
ARXIV = "https://arxiv.org/abs/"
SPECS = {
    "Toxicity": Spec(toxicity.toxicity, SINGLE, TOXICITY, (f"{ARXIV}2009.11462",)),
    "ToxicityReduction": Spec(toxicity.toxicity_reduction, PAIRED | {"prompt_ids": TEXT}, TOXICITY),
    "ScorerDisagreement": Spec(toxicity.scorer_disagreement, PAIRED, TOXICITY),
    "Quality": Spec(
        quality.quality, {"data": TEXT, "token_ids": INTEGERS}, QUALITY, (f"{ARXIV}1908.04319", f"{ARXIV}2307.15043")
    ),
    "BasePerplexity": Spec(quality.base_perplexity, {"data": NUMBER, "lengths": INTEGER, "prompt_ids": TEXT}, QUALITY),
    "LexicalDiversity": Spec(
        diversity.lexical_diversity,
        {"data": INTEGERS, "prompt_ids": TEXT},
        DIVERSITY,
        (f"{ARXIV}1510.03055", f"{ARXIV}2202.13587"),
    ),
    "EmbeddingDiversity": Spec(
        diversity.embedding_diversity, {"data": VECTOR, "prompt_ids": TEXT}, DIVERSITY, (f"{ARXIV}2210.02410",)
    ),
    "ModeCollapse": Spec(diversity.mode_collapse, {"data": TEXT, "token_ids": INTEGERS, "prompt_ids": TEXT}, DIVERSITY),
    "Calibration": Spec(calibration.calibration, PAIRED, CALIBRATION, (f"{ARXIV}1706.04599",)),
    "PairAccuracy": Spec(
        reward_accuracy.pair_accuracy,
        PAIRED | {"prompt_ids": TEXT},
        f"{REWARD_MODELS}\n{IMPLICIT_REWARDS}",
        (f"{ARXIV}2403.13787", f"{ARXIV}2305.18290"),
    ),
    "OnPolicyAccuracy": Spec(
        reward_accuracy.on_policy_accuracy, PAIRED | {"prompt_ids": TEXT}, REWARD_MODELS, (f"{ARXIV}2210.10760",)
    ),
    "RewardHealth": Spec(reward_health.reward_health, SINGLE, REWARD_MODELS, (f"{ARXIV}2403.13787", f"{ARXIV}2210.10760")),
    "ExactKL": Spec(kl.exact_kl, {"data": NUMBER, "lengths": INTEGER, "prompt_ids": TEXT}, DIVERGENCE),
    "SequenceKL": Spec(
        kl.sequence_kl,
        {"data": NUMBER, "base_logp": NUMBER, "prompt_ids": TEXT},
        DIVERGENCE,
        ("http://joschu.net/blog/kl-approx.html",),
    ),
}


def _class(name: str, spec: Spec) -> type[FunctionModule]:
    """The module's class: a Metric of evaluate where predictions are compared with references, else a Measurement."""
    kind = evaluate.Metric if "references" in spec.columns else evaluate.Measurement
    return type(name, (FunctionModule, kind), {"spec": spec, "__doc__": spec.function.__doc__, "__module__": __name__})


MODULES = {name: _class(name, spec) for name, spec in SPECS.items()}
globals().update(MODULES)  # so that each can be imported by its name


def load(name: str, **options: Any) -> evaluate.EvaluationModule:
    """The module of a function, by the function's name: ``load("toxicity")``. ``options`` are those of evaluate's modules.

    Raises UserError for an unknown name.
    """
    by_function = {spec.function.__name__: MODULES[title] for title, spec in SPECS.items()}
    if name not in by_function:
        raise UserError(unknown("evaluate module", name, list(by_function)))
    return by_function[name](**options)
