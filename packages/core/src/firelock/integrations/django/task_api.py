"""Django's task API under one set of names, from `django.tasks` in Django 6 or its backport for Django 5.2.

If both are installed, `django.tasks` is used, because its settings and its decorator are Django's own.
"""

from __future__ import annotations

try:
    from django.tasks import TaskContext, TaskResultStatus, task_backends
    from django.tasks.backends.base import BaseTaskBackend
    from django.tasks.base import Task, TaskResult
    from django.tasks.base import TaskError as AttemptError
    from django.tasks.exceptions import InvalidTask, InvalidTaskBackend, TaskResultDoesNotExist
    from django.tasks.signals import task_enqueued, task_finished, task_started
    from django.utils.json import normalize_json

    NAMESPACE = "django.tasks"
except ImportError:
    try:
        from django_tasks import TaskContext, TaskResultStatus, task_backends
        from django_tasks.backends.base import BaseTaskBackend
        from django_tasks.base import Task, TaskResult
        from django_tasks.base import TaskError as AttemptError
        from django_tasks.exceptions import (
            InvalidTaskBackendError as InvalidTaskBackend,
        )
        from django_tasks.exceptions import (
            InvalidTaskError as InvalidTask,
        )
        from django_tasks.exceptions import (
            TaskResultDoesNotExist,
        )
        from django_tasks.signals import task_enqueued, task_finished, task_started
        from django_tasks.utils import normalize_json

        NAMESPACE = "django_tasks"
    except ImportError as error:
        raise ImportError(
            "Django has a task API since 6.0; Django 5.2 needs the backport. Run "
            'pip install "django-tasks>=0.12".'
        ) from error
    if not hasattr(TaskResultStatus, "SUCCESSFUL"):
        raise ImportError(
            'The installed django-tasks is too old; run pip install "django-tasks>=0.12".'
        ) from None

__all__ = [
    "NAMESPACE",
    "AttemptError",
    "BaseTaskBackend",
    "InvalidTask",
    "InvalidTaskBackend",
    "Task",
    "TaskContext",
    "TaskResult",
    "TaskResultDoesNotExist",
    "TaskResultStatus",
    "normalize_json",
    "task_backends",
    "task_enqueued",
    "task_finished",
    "task_started",
]
