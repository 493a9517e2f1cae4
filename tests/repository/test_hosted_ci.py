"""The hosted CI calls `.ci/run` on every supported Python, with no more rights than it needs."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib

import pytest
import yaml

from tests.repository.sources import ROOT

WORKFLOW = ROOT / ".github" / "workflows" / "ci.yml"
PROJECTS = sorted(ROOT.glob("packages/*/pyproject.toml"))
NEXT = "3.14"  # may fail
CLASSIFIER = re.compile(r"Programming Language :: Python :: (3\.\d+)$")


@pytest.fixture(scope="module")
def workflow():
    return yaml.safe_load(WORKFLOW.read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def job(workflow):
    (job,) = workflow["jobs"].values()
    return job


@pytest.mark.parametrize("project", PROJECTS, ids=lambda path: path.parent.name)
def test_ci_runs_on_supported_pythons_and_the_next_one(job, project):
    """The oldest Python version is taken from requires-python, and the others from the classifiers."""
    metadata = tomllib.loads(project.read_text(encoding="utf-8"))["project"]
    supported = [found[1] for line in metadata["classifiers"] if (found := CLASSIFIER.search(line))]

    pythons = job["strategy"]["matrix"]["python"]

    assert pythons == [*supported, NEXT]
    assert metadata["requires-python"] == f">={pythons[0]}"


def test_only_the_next_python_may_fail(job):
    """If another Python version fails, the workflow fails, but the other runs continue."""
    assert job["continue-on-error"] == f"${{{{ matrix.python == '{NEXT}' }}}}"
    assert job["strategy"]["fail-fast"] is False


def test_ci_run_gets_the_python_of_the_matrix(job):
    """`.ci/run` uses the interpreter in PYTHON instead of the first one on the path."""
    (python,) = [step for step in job["steps"] if step.get("id") == "python"]
    (run,) = [step for step in job["steps"] if step.get("run") == ".ci/run"]

    assert python["with"]["python-version"] == "${{ matrix.python }}"
    assert run["env"] == {"PYTHON": "${{ steps.python.outputs.python-path }}"}


def test_workflow_runs_on_push_and_pull_request_and_only_reads(workflow, job):
    """The workflow runs code by unknown people, so it has only the right to read. It also has a timeout."""
    triggers = workflow[True]  # YAML 1.1 reads the key `on` as true

    assert set(triggers) == {"push", "pull_request"}
    assert workflow["permissions"] == {"contents": "read"}
    assert "permissions" not in job
    assert job["timeout-minutes"] <= 120


def test_run_of_a_push_to_main_is_not_cancelled(workflow):
    """Each push to main has its own group, because only the newest waiting run of a group is executed.

    For a pull request, this is sufficient.
    """
    pull_request = "github.event_name == 'pull_request'"

    assert workflow["concurrency"] == {
        "group": f"ci-${{{{ {pull_request} && github.ref || github.run_id }}}}",
        "cancel-in-progress": f"${{{{ {pull_request} }}}}",
    }


def test_actions_are_pinned_to_commits(job):
    """A tag can be moved to other code. A comment contains the version that belongs to the commit."""
    lines = [line.strip() for line in WORKFLOW.read_text(encoding="utf-8").splitlines() if "uses:" in line]

    assert len(lines) == len([step for step in job["steps"] if "uses" in step])
    for line in lines:
        assert re.fullmatch(r"- uses: [\w-]+/[\w-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+", line)


def test_workflow_follows_the_schema(tmp_path):
    """The schema is the one that GitHub's editors use.

    It rejects unknown keys, so a misspelled key is found.
    """
    broken = tmp_path / "ci.yml"
    broken.write_text(WORKFLOW.read_text(encoding="utf-8").replace("fail-fast:", "fail-fest:"))
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.github-workflows"]

    outcomes = [
        subprocess.run([*command, str(path)], capture_output=True, check=False).returncode
        for path in (WORKFLOW, broken)
    ]

    assert outcomes == [0, 1]
