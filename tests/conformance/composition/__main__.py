"""`python -m tests.conformance.composition`: explore every scene and every variant, and print the results."""

from __future__ import annotations

import sys

from tests.conformance.explorer import Verdict, explore

from .batch_moves import BatchModel
from .batch_variants import LARGE_SCENES, SCENES, VARIANTS
from .call_moves import CallModel
from .step_moves import StepModel


def main():
    """Print a line for each scene and variant; return 1 if a result is unexpected."""
    are_right = []
    models = {name: BatchModel(scene) for name, scene in {**SCENES, **LARGE_SCENES}.items()}
    for name, model in {**models, "steps": StepModel(), "calls": CallModel()}.items():
        finding = explore(model)
        are_right.append(finding.verdict is Verdict.SAFE)
        print(f"{name}: {finding}", flush=True)  # noqa: T201 - the purpose of the command
    for variant in VARIANTS:
        model = BatchModel(SCENES[variant.scene], variant.rules, checks_counts=variant.checks_counts)
        finding = explore(model)
        are_right.append(finding.verdict is variant.verdict)
        # the purpose of the command
        print(f"without a rule, {variant.name}: {finding}", flush=True)  # noqa: T201
    return 0 if all(are_right) else 1


if __name__ == "__main__":
    sys.exit(main())
