"""The shop's own tests, run by `manage.py test`: jobs in Django's TestCase."""

from __future__ import annotations

import tempfile
from contextlib import redirect_stderr, redirect_stdout
from io import StringIO
from pathlib import Path

import pytest
from django.core.management import CommandError, call_command
from django.db import connection, transaction
from django.test import TestCase, TransactionTestCase, override_settings

from firelock import JobNotCommitted, JobNotFound
from firelock.integrations.django import enqueue_on_commit, fire
from firelock.testing import Tester
from shop.models import Order
from shop.tasks import asend_receipt, send_receipt


class ReceiptTests(TestCase):
    """Jobs run in the transaction of the test, when the test runs them."""

    def setUp(self):
        self.order = Order.objects.create(buyer="ann")

    def test_job_runs_in_the_transaction_of_the_test(self):
        with Tester(fire) as tester:
            send_receipt.enqueue(self.order.pk)
            tester.assert_enqueued(send_receipt, args=(self.order.pk,), tags=[f"order:{self.order.pk}"])

            assert tester.drain(raises=True).succeeded == 1

        self.order.refresh_from_db()
        assert self.order.receipts == 1
        assert connection.in_atomic_block

    def test_queries_of_inline_jobs_are_counted(self):
        with Tester(fire) as tester, tester.inline(), self.assertNumQueries(2):
            send_receipt.enqueue(self.order.pk)

    def test_inline_jobs_run_immediately(self):
        with Tester(fire) as tester, tester.inline():
            send_receipt.enqueue(self.order.pk)

        self.order.refresh_from_db()
        assert self.order.receipts == 1

    async def test_async_jobs_run_in_async_tests(self):
        with Tester(fire) as tester:
            await asend_receipt.aenqueue(self.order.pk)
            assert (await tester.adrain(raises=True)).succeeded == 1

        await self.order.arefresh_from_db()
        assert self.order.receipts == 1

    def test_enqueue_on_commit_waits_for_the_commit(self):
        with Tester(fire) as tester:
            with self.captureOnCommitCallbacks(execute=True):
                enqueue_on_commit(send_receipt, self.order.pk)
                assert tester.enqueued() == []

            tester.assert_enqueued(send_receipt, count=1)

    def test_jobs_stay_in_memory_without_a_tester(self):
        assert fire.storage.url == "memory://"

        with transaction.atomic():
            job = send_receipt.enqueue(self.order.pk)

        assert job.refresh().state == "enqueued"

    def test_tester_refuses_the_same_calls_as_the_storage(self):
        with Tester(fire) as tester:
            with transaction.atomic():
                job = send_receipt.enqueue(self.order.pk)
                child = job.then(send_receipt, self.order.pk)
                with pytest.raises(JobNotCommitted):
                    job.refresh()
                with pytest.raises(JobNotFound):
                    fire.jobs.get(job.id)
            with transaction.atomic():
                assert job.refresh().state == "enqueued"
                job.then(send_receipt, self.order.pk)
                other = send_receipt.enqueue(self.order.pk)
                with pytest.raises(JobNotCommitted):
                    other.requeue()

            assert tester.drain(raises=True).succeeded == 4

        assert child.id != job.id

    def test_job_result_can_be_read_inside_the_transaction(self):
        with Tester(fire) as tester, transaction.atomic():
            job = send_receipt.enqueue(self.order.pk)
            tester.drain(raises=True)

            assert job.result() == "ann"

    def test_commands_can_be_called_from_programs(self):
        job, out = send_receipt.enqueue(self.order.pk), StringIO()

        with redirect_stdout(out):
            call_command("firelock", "jobs", "show", job.id)
        with redirect_stderr(StringIO()):
            try:
                call_command("firelock", "jobs", "show", "gone")
            except CommandError as error:
                code = error.returncode

        assert "shop.tasks.send_receipt" in out.getvalue()
        assert code == 4
        assert job.refresh().state == "enqueued"

    def test_overridden_setting_has_its_own_storage(self):
        with tempfile.TemporaryDirectory() as folder:
            url = f"sqlite:///{Path(folder) / 'jobs.db'}"
            with override_settings(FIRELOCK={"storage": "redis://unused", "test_storage": url}):
                assert fire.storage.url == url
            assert fire.storage.url == "memory://"


class ServerTests(TransactionTestCase):
    """An embedded server in the process of the test reads committed data."""

    def test_server_runs_jobs(self):
        order = Order.objects.create(buyer="bob")

        with fire.server(workers=1):
            assert send_receipt.enqueue(order.pk).result(timeout=60) == "bob"
